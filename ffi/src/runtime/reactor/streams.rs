// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Pipes: told when they are ready, poured from one into the other, drained when nobody reads any more.
//!
//! Locks are taken in one order: an output's before a stdin's.

use super::{token, Reactor, Topic};
use crate::kernel::wire::ToKeeper;
use crate::runtime::pipe::Poured;
use crate::runtime::port::{is_output, lock, ready, Port, Stdio};
use rustix::event::epoll;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

impl Reactor {
    /// Watches one of our pipe ends from now on for `flags` (and a hang-up, which is always told).
    pub(super) fn watch_stream(
        &self,
        port: &Port,
        stream: usize,
        stdio: &mut Stdio,
        flags: EventFlags,
    ) -> Result<(), Errno> {
        let Some(end) = &stdio.end else { return Ok(()) };
        let data = token(Topic::Stdio, stream, port.handle as u32);
        if stdio.watched {
            return epoll::modify(&self.epoll, &end.fd, data, flags);
        }
        epoll::add(&self.epoll, &end.fd, data, flags)?;
        stdio.watched = true;
        Ok(())
    }

    pub fn arm(&self, port: &Arc<Port>, stream: usize) -> Result<(), Errno> {
        let wanted = if is_output(stream) { EventFlags::IN } else { EventFlags::OUT };
        let mut stdio = lock(port.stream(stream).ok_or(Errno::INVAL)?);
        let discard = port.discard.load(Ordering::Acquire);
        if stdio.end.is_none() || discard {
            port.announce(ready(stream)); // over: a read or write says so
            return Ok(());
        }
        self.watch_stream(port, stream, &mut stdio, wanted | EventFlags::ONESHOT)?;
        stdio.armed = true;
        Ok(())
    }

    /// Our end of a stream is closed; for output that means that we do not want to know when it ends.
    pub fn shut(&self, port: &Arc<Port>, stream: usize) {
        let Some(stdio) = port.stream(stream) else { return };
        let mut stdio = lock(stdio);
        stdio.end = None;
        stdio.over = true;
        let armed = std::mem::take(&mut stdio.armed);
        drop(stdio);
        if armed {
            port.announce(ready(stream));
        }
        self.part(port, stream);
        self.tell_eof(port);
    }

    /// From now on what comes out of `stream` is poured into the stdin of `to`, until one of them ends or somebody
    /// parts them. That is told as `stream` being ready: a read and a write will show what was the reason.
    pub fn join(&self, port: &Arc<Port>, stream: usize, to: &Arc<Port>) -> Result<(), Errno> {
        let mut output = lock(&port.stdio[stream]);
        let mut stdin = lock(&to.stdio[0]);
        let (Some(from), Some(into)) = (&output.end, &stdin.end) else { return Err(Errno::PIPE) };
        if !from.is_pipe() || !into.is_pipe() {
            return Err(Errno::INVAL);
        }
        if port.discard.load(Ordering::Acquire) {
            return Err(Errno::PIPE);
        }
        if output.into.is_some() || output.armed || stdin.from.is_some() {
            return Err(Errno::BUSY);
        }
        self.watch_stream(port, stream, &mut output, EventFlags::IN | EventFlags::ONESHOT)?;
        (output.into, stdin.from) = (Some(Arc::downgrade(to)), Some((Arc::downgrade(port), stream)));
        Ok(())
    }

    /// Nothing is poured from or into this stream any more.
    pub fn part(&self, port: &Arc<Port>, stream: usize) {
        let Some(stdio) = port.stdio.get(stream) else { return };
        let from = lock(stdio).from.take();
        let source = from.and_then(|(source, stream)| Some((source.upgrade()?, stream)));
        let (output, stream) = source.unwrap_or_else(|| (port.clone(), stream));
        let into = lock(&output.stdio[stream]).into.take();
        if let Some(sink) = into {
            sink.upgrade().inspect(|sink| lock(&sink.stdio[0]).from = None);
            output.announce(ready(stream));
        }
    }

    pub(super) fn pour(&self, port: &Arc<Port>, stream: usize) {
        let Some(stdio) = port.stdio.get(stream) else { return };
        let mut output = lock(stdio);
        let Some(sink) = output.into.as_ref().and_then(Weak::upgrade) else { return };
        let mut stdin = lock(&sink.stdio[0]);
        let poured = match (&mut output.end, &mut stdin.end) {
            (Some(from), Some(to)) => from.pour(to),
            _ => Poured::Over,
        };
        let watched = match poured {
            Poured::Dry => self.watch_stream(port, stream, &mut output, EventFlags::IN | EventFlags::ONESHOT),
            Poured::Full => {
                if !output.over && lock(&port.state).wait.is_some() {
                    // For its end alone; where that fails its keeper ends by its timer.
                    let _ = self.watch_stream(port, stream, &mut output, EventFlags::ONESHOT);
                }
                self.watch_stream(&sink, 0, &mut stdin, EventFlags::OUT | EventFlags::ONESHOT)
            }
            Poured::Over => Err(Errno::PIPE),
        };
        if watched.is_err() {
            (output.into, stdin.from) = (None, None);
            drop((output, stdin));
            port.announce(ready(stream));
        }
    }

    /// Nobody reads any more: a handler of the child's must not block on a full pipe.
    pub(super) fn discard(&self, port: &Arc<Port>) {
        if port.discard.swap(true, Ordering::AcqRel) {
            return;
        }
        for stream in port.streams() {
            if !is_output(stream) {
                self.shut(port, stream);
                continue;
            }
            self.part(port, stream);
            let Some(stdio) = port.stream(stream) else { continue };
            let mut stdio = lock(stdio);
            let _ = self.watch_stream(port, stream, &mut stdio, EventFlags::IN);
            if std::mem::take(&mut stdio.armed) {
                port.announce(ready(stream)); // its reader finds the end
            }
        }
    }

    pub(super) fn stdio_event(&self, port: &Arc<Port>, stream: usize, flags: EventFlags, buffer: &mut [u8]) {
        let over = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        let Some(stdio) = port.stream(stream) else { return };
        let mut stdio = lock(stdio);
        if port.discard.load(Ordering::Acquire) && is_output(stream) {
            let gone = stdio.end.as_mut().is_none_or(|end| drain(end, port, buffer));
            if gone {
                stdio.end = None;
                stdio.over = true;
            }
            drop(stdio);
            return self.tell_eof(port);
        }
        stdio.over |= over;
        let armed = std::mem::take(&mut stdio.armed);
        let joined = stdio.into.is_some();
        let source = stdio.from.clone().and_then(|(source, stream)| Some((source.upgrade()?, stream)));
        if !over && matches!(stream, 1 | 2) && !joined && lock(&port.state).wait.is_some() {
            // Before the event is told: whoever is told may arm at once, and that must not be undone.
            let _ = self.watch_stream(port, stream, &mut stdio, EventFlags::ONESHOT);
        }
        drop(stdio);
        if armed {
            port.announce(ready(stream));
        }
        if over && is_output(stream) {
            self.tell_eof(port);
        }
        if joined {
            self.pour(port, stream);
        } else if let Some((source, stream)) = source {
            self.pour(&source, stream);
        }
    }

    /// The child has exited and left others behind: from now on the end of its output matters to its keeper.
    pub(super) fn watch_ends(&self, port: &Arc<Port>) {
        for stream in [1, 2] {
            self.pour(port, stream); // watches its end, too, where it waits for room
            let mut stdio = lock(&port.stdio[stream]);
            if !stdio.armed && stdio.into.is_none() && !port.discard.load(Ordering::Acquire) {
                let _ = self.watch_stream(port, stream, &mut stdio, EventFlags::ONESHOT);
            }
        }
        self.tell_eof(port);
    }

    /// Once the child has exited and no pipe of ours has a writer any more, its
    /// keeper need not wait for what the child left behind.
    pub fn tell_eof(&self, port: &Arc<Port>) {
        let both = [1, 2].iter().all(|&stream| lock(&port.stdio[stream]).over);
        let mut state = lock(&port.state);
        let first = state.wait.is_some() && both && !std::mem::replace(&mut state.eof_told, true);
        drop(state);
        if first {
            self.tell(port, ToKeeper::Eof);
        }
    }
}

/// Reads and drops; true at the end of the stream.
fn drain(end: &mut crate::runtime::pipe::End, port: &Port, buffer: &mut [u8]) -> bool {
    for _ in 0..16 {
        match end.read(buffer) {
            Ok(0) => return true,
            Ok(_) => port.discarded.store(true, Ordering::Release),
            Err(Errno::AGAIN) => return false,
            Err(_) => return true,
        }
    }
    false // level-triggered: the rest comes with the next event, after others had their turn
}
