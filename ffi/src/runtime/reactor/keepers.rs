// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! What keepers say, and what they are told; how a port ends, also where its keeper is lost.

use super::{token, Reactor, Topic, OWNER_DEADLINE_MS, PATIENCE};
use crate::kernel::cgroup::Leaf;
use crate::kernel::sabotage::fault;
use crate::kernel::socket;
use crate::kernel::tree::{Outcome, UNSEEN};
use crate::kernel::wire::{Cause, Done, FromKeeper, Stage, ToKeeper, Wait};
use crate::runtime::alarms::Alarms;
use crate::runtime::port::{is_output, lock, Port, State, Terms, DONE, SIGNALLED, STARTED};
use rustix::event::epoll;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::process::Pid;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Reactor {
    pub fn watch_port(&self, port: &Port) -> Result<(), Errno> {
        fault("watch-port")?;
        let keeper = lock(&port.keeper);
        let socket = keeper.socket.as_ref().ok_or(Errno::PIPE)?;
        epoll::add(&self.epoll, socket, token(Topic::Keeper, 0, port.handle as u32), EventFlags::IN)
    }

    /// Some of what was sent waits for room.
    pub fn want_room(&self, port: &Port) {
        if let Some(socket) = &lock(&port.keeper).socket {
            let both = EventFlags::IN | EventFlags::OUT;
            let _ = epoll::modify(&self.epoll, socket, token(Topic::Keeper, 0, port.handle as u32), both);
        }
    }

    pub fn tell(&self, port: &Port, message: ToKeeper) {
        // EPIPE: the keeper has said its last word, which is on its way to us, or its guardian speaks for it.
        if port.tell(message) == Ok(false) {
            self.want_room(port);
        }
    }

    /// Ends the tree. The first cause is told; the keeper decides which came first.
    pub fn close(&self, port: &Arc<Port>, cause: Cause, grace_ms: u32, deadline_ms: u32) {
        if port.is_over() {
            return;
        }
        lock(&port.state).cause.get_or_insert(cause);
        self.tell(port, ToKeeper::Close { cause, grace_ms, deadline_ms });
        let until = Instant::now() + Duration::from_millis(u64::from(deadline_ms)) + PATIENCE;
        self.due_by(port, until);
        if cause != Cause::Timeout {
            self.discard(port);
        }
    }

    /// The handle is given up.
    pub fn release(&self, port: &Arc<Port>) {
        port.released.store(true, Ordering::Release);
        if port.is_over() {
            self.forget(port);
        } else {
            let grace_ms = match port.terms.get() {
                Some(Terms { grace_ms, kill_on_owner_death: false }) => *grace_ms,
                _ => 0,
            };
            self.close(port, Cause::Owner, grace_ms, grace_ms.saturating_add(OWNER_DEADLINE_MS));
            if port.is_over() {
                self.forget(port); // it ended in between, when it was not known to be released yet
            }
        }
    }

    /// Frees the slot of a port that is over and released.
    pub(super) fn forget(&self, port: &Arc<Port>) {
        (0..3).for_each(|stream| self.part(port, stream));
        port.streams().filter_map(|stream| port.stream(stream)).for_each(|stdio| lock(stdio).end = None);
        lock(&self.shared).ports.remove(port.handle);
    }

    pub(super) fn keeper_event(&self, port: &Arc<Port>, flags: EventFlags, buffer: &mut [u8]) {
        if flags.contains(EventFlags::OUT) {
            let mut keeper = lock(&port.keeper);
            if !matches!(keeper.flush(), Ok(false)) {
                if let Some(socket) = &keeper.socket {
                    let data = token(Topic::Keeper, 0, port.handle as u32);
                    let _ = epoll::modify(&self.epoll, socket, data, EventFlags::IN);
                }
            }
        }
        // One packet an event: the next is told at once, and there is seldom one.
        let keeper = lock(&port.keeper);
        let Some(socket) = &keeper.socket else { return };
        let received = socket::receive(socket, buffer).map(|packet| packet.map(|p| p.len));
        let begun = keeper.begun;
        drop(keeper);
        match received {
            Ok(Some(len)) => {
                // What is no message was not said by a keeper.
                let message = FromKeeper::decode(&buffer[..len]);
                message.into_iter().for_each(|message| self.keeper_says(port, message));
            }
            Err(Errno::AGAIN) => {}
            Ok(None) | Err(_) => {
                if !begun || received.is_err_and(|errno| errno == Errno::CONNRESET) {
                    self.nothing_begun(port);
                }
                self.keeper_silent(port);
            }
        }
    }

    pub(super) fn keeper_says(&self, port: &Arc<Port>, message: FromKeeper) {
        let mut state = lock(&port.state);
        let bits = match message {
            FromKeeper::Started { pid, own_group, lack, held } => {
                (state.started, state.pid, state.own_group, state.lack) = (true, pid, own_group, Some(lack));
                state.held = Some(held);
                STARTED
            }
            FromKeeper::Placed { leaves } => {
                state.leaves = leaves.into_iter().map(Leaf::from).collect();
                return;
            }
            FromKeeper::About { at, subject } => {
                state.about = Some((at, subject));
                return;
            }
            FromKeeper::Exited { wait } => {
                state.wait = Some(wait);
                drop(state);
                return self.watch_ends(port);
            }
            FromKeeper::Signalled { errno } => {
                if state.forgone > 0 {
                    state.forgone -= 1; // whoever asked has been told that nobody answers
                    return;
                }
                state.asked.pop_front();
                state.answers.push_back(-errno);
                SIGNALLED
            }
            FromKeeper::Failed { stage, errno } => {
                drop(state);
                let errno = Errno::from_raw_os_error(errno);
                return self.over(port, |state| state.failure = Some((stage, errno)), false);
            }
            FromKeeper::Done(done) => {
                drop(state);
                let again = done.again;
                return self.over(port, |state| state.done = Some(done), again);
            }
        };
        drop(state);
        port.announce(bits);
    }

    /// A keeper ended and left its launch record unread, or was not sent any: nothing has been started.
    pub fn nothing_begun(&self, port: &Port) {
        let mut state = lock(&port.state);
        if !state.started && state.cause.is_none() {
            state.lost = Errno::CONNRESET;
        }
    }

    /// The keeper's socket has ended without its last word: its guardian sweeps and tells us.
    pub(super) fn keeper_silent(&self, port: &Arc<Port>) {
        lock(&port.keeper).close();
        lock(&port.state).orphaned = true;
        self.expect_word(port);
        self.resolve_orphan(port);
    }

    /// Ends a port whose keeper is lost, once its tree is known to be gone.
    pub(super) fn resolve_orphan(&self, port: &Arc<Port>) {
        let pair = lock(&self.shared).pairs.get(&port.pair).cloned();
        let mut state = lock(&port.state);
        if !state.orphaned || state.done.is_some() || state.failure.is_some() {
            return;
        }
        if state.swept.is_none() && pair.as_ref().is_none_or(|pair| pair.is_gone()) {
            // Where we are process 1 or a subreaper the child has become ours.
            if let (true, Some(pid)) = (state.started, Pid::from_raw(state.pid)) {
                if state.own_group {
                    self.remains.reap_group(pid);
                } else {
                    self.remains.reap(pid);
                }
            }
            // Nobody else is left who could end its tree: where it has a cgroup, we do.
            let leaves = self.leaves_to_end(port, pair.as_deref(), &state);
            if !leaves.is_empty() {
                drop(state);
                return self.remains.add(leaves, Some(port.clone()));
            }
            // Unless the watchdog has proven it before it left, nobody can know whether something is.
            let proven = pair.as_ref().is_none_or(|pair| pair.proven.load(Ordering::Acquire));
            let survivors = if proven || !state.started { Vec::new() } else { vec![UNSEEN] };
            state.swept = Some(Outcome { killed: 0, survivors });
        }
        let Some(Outcome { killed, survivors }) = state.swept.clone() else { return };
        let (wait, cause) = (state.wait.unwrap_or(Wait::Lost), state.cause.unwrap_or(Cause::Guardian));
        let (started, lost) = (state.started, state.lost);
        drop(state);
        let done = Done {
            wait,
            cause,
            killed,
            survivors,
            wall_us: 0,
            user_us: 0,
            system_us: 0,
            max_rss_bytes: 0,
            again: false,
            figures: Vec::new(),
        };
        let learn = |state: &mut State| match started {
            true => state.done = Some(done),
            false => state.failure = Some((Stage::Keeper, lost)),
        };
        self.over(port, learn, false);
    }

    /// The last thing that is ever learnt of a port. Its keeper may be there for another one.
    pub(super) fn over(&self, port: &Arc<Port>, learn: impl FnOnce(&mut State), again: bool) {
        let mut state = lock(&port.state);
        if state.done.is_some() || state.failure.is_some() {
            return;
        }
        // Whoever still waits for an answer to a signal gets one: there is nobody left.
        learn(&mut state);
        let bits = if state.failure.is_some() { STARTED } else { DONE };
        // Nor where its guardian has told of the keeper's end before the keeper's last word was read.
        let again = again && state.late_since.is_none() && state.swept.is_none();
        drop(state);
        self.deadlines.remove(port.handle);
        let socket = lock(&port.keeper).take();
        if let (true, Some(socket)) = (again, socket) {
            self.reuse(port, socket);
        }
        *lock(&port.alarms) = Alarms::default();
        self.leave_pair(port.pair);
        port.announce(bits);
        if port.released.load(Ordering::Acquire) {
            self.forget(port);
        } else if port.discard.load(Ordering::Acquire) {
            let outputs = port.streams().filter(|&stream| is_output(stream));
            outputs.filter_map(|stream| port.stream(stream)).for_each(|stdio| lock(stdio).end = None);
        }
    }

    /// Ends cgroups that nobody else is left to end, a step at each turn of the loop.
    pub(super) fn end_remains(&self) {
        for (port, outcome) in self.remains.step() {
            lock(&port.state).swept = Some(outcome);
            self.resolve_orphan(&port);
        }
    }
}
