// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! What the runtime asks a keeper for, and what it is told.

use super::{ms, Keeper, Phase};
use crate::guard::place::is_runtimes;
use crate::kernel::sabotage::{sabotaged, Step};
use crate::kernel::socket;
use crate::kernel::wire::{FromKeeper, Scope, ToKeeper};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use std::time::{Duration, Instant};

/// How long a tree may take to stand still.
const FREEZE_PATIENCE: Duration = Duration::from_secs(1);

impl Keeper {
    pub(super) fn port_speaks(&mut self) {
        self.flush_outbox();
        let mut buffer = [0; 256];
        while let Some(port) = &self.port {
            match socket::receive(port, &mut buffer) {
                // What is no message is nobody's wish, and what others say not the runtime's.
                Ok(Some(packet)) if is_runtimes(self.owner, &packet) => {
                    ToKeeper::decode(&buffer[..packet.len]).into_iter().for_each(|message| self.obey(message))
                }
                Ok(Some(_)) => {}
                Err(Errno::MSGSIZE) => {} // nothing of ours is as long
                Ok(None) if sabotaged(Step::Eof) => return,
                Ok(None) => return self.runtime_gone(),
                Err(Errno::AGAIN) => return,
                Err(_) => return self.runtime_gone(),
            }
        }
    }

    pub(super) fn obey(&mut self, message: ToKeeper) {
        match message {
            ToKeeper::Signal { signal, scope } => {
                let errno = self.signal(signal, scope).err().map_or(0, Errno::raw_os_error);
                self.tell(&FromKeeper::Signalled { errno });
            }
            ToKeeper::Close { cause, grace_ms, deadline_ms } => {
                self.deadline = Some(Instant::now() + ms(deadline_ms));
                self.end(cause, ms(grace_ms));
            }
            ToKeeper::Eof => self.eof = !sabotaged(Step::Flush),
            ToKeeper::Freeze { on } => {
                let errno = self.freeze(on).err().map_or(0, Errno::raw_os_error);
                self.tell(&FromKeeper::Signalled { errno });
            }
            ToKeeper::Prepare { .. } => {} // it has a child
        }
    }

    pub(super) fn signal(&self, number: i32, scope: Scope) -> Result<(), Errno> {
        let signal = Signal::from_named_raw(number).ok_or(Errno::INVAL)?;
        match scope {
            Scope::Child if self.wait.is_some() => Err(Errno::SRCH),
            Scope::Child => {
                let pidfd = self.pidfd.as_ref().ok_or(Errno::SRCH)?;
                rustix::process::pidfd_send_signal(pidfd, signal)
            }
            Scope::Group if !self.own_group => Err(Errno::INVAL),
            Scope::Group => {
                let group = Pid::from_raw(self.pid).ok_or(Errno::SRCH)?;
                rustix::process::kill_process_group(group, signal)
            }
            Scope::Tree if self.tree().signal(signal) == 0 => Err(Errno::SRCH),
            Scope::Tree => Ok(()),
        }
    }

    pub(super) fn signal_child(&self, signal: Signal) {
        // Our own unreaped child: the pid cannot be anybody else's.
        if let Some(pid) = Pid::from_raw(self.pid) {
            let _ = rustix::process::kill_process(pid, signal); // ESRCH: it has just ended
        }
    }

    /// Without a cgroup each process is stopped, which those who wait for it can see.
    pub(super) fn freeze(&mut self, on: bool) -> Result<(), Errno> {
        if matches!(self.phase, Phase::Ending(_)) {
            return Err(Errno::SRCH);
        }
        match self.strongest() {
            Some(leaf) if on => leaf.freeze(FREEZE_PATIENCE)?,
            Some(leaf) => leaf.thaw()?,
            None => drop(self.tree().signal(if on { Signal::STOP } else { Signal::CONT })),
        }
        self.frozen = on;
        Ok(())
    }

    pub(super) fn tell(&mut self, message: &FromKeeper) {
        if self.port.is_some() {
            self.outbox.push_back(message.encode());
            self.flush_outbox();
        }
    }

    pub(super) fn flush_outbox(&mut self) {
        while let (Some(port), Some(message)) = (&self.port, self.outbox.front()) {
            match socket::send(port, message, &[]) {
                Ok(()) => drop(self.outbox.pop_front()),
                Err(Errno::AGAIN) => return,
                Err(_) => return self.outbox.clear(), // the runtime is gone; its pidfd says so too
            }
        }
    }
}
