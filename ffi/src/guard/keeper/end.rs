// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! The end of a tree: asked for, then SIGKILL until nothing is left, and what is told of it.

use super::limited::leave;
use super::{poll, Keeper, Links, Phase, DEADLINE};
use crate::guard::hurry::Hurry;
use crate::kernel::cgroup::Leaf;
use crate::kernel::sabotage::{sabotaged, Step};
use crate::kernel::sys::helper::{self, Whose};
use crate::kernel::tree::{is_blind, Outcome, Tree, LONGEST};
use crate::kernel::wire::{Cause, Done, FromKeeper, Scope, Wait};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use std::time::{Duration, Instant};

/// What of a pause is always waited for; the end of a process can shorten what is longer.
const BREATH: Duration = Duration::from_millis(5);

impl Keeper {
    pub(super) fn owner_grace(&self) -> Duration {
        if self.terms.kill_on_owner_death {
            Duration::ZERO
        } else {
            self.terms.grace
        }
    }

    /// The socket's end or the pidfd says so; a leaked copy of the one cannot hide the other.
    pub(super) fn runtime_gone(&mut self) {
        self.port = None;
        self.outbox.clear();
        self.end(Cause::Owner, self.owner_grace());
    }

    /// Whatever asks for the end first gives the cause; a later one can only shorten the grace.
    pub(super) fn end(&mut self, cause: Cause, grace: Duration) {
        self.cause.get_or_insert(cause);
        match self.phase {
            Phase::Ending(until) => self.phase = Phase::Ending(until.min(Instant::now() + grace)),
            _ => self.ask_to_end(grace),
        }
    }

    pub(super) fn ask_to_end(&mut self, grace: Duration) {
        if std::mem::take(&mut self.frozen) {
            let _ = self.strongest().map(Leaf::thaw); // who is frozen hears nothing
        }
        self.phase = Phase::Ending(Instant::now() + grace);
        if !grace.is_zero() {
            self.first_signal();
        }
    }

    /// SIGCONT behind SIGTERM: a stopped process would not hear the first.
    pub(super) fn first_signal(&self) {
        if sabotaged(Step::FirstSignal) {
            return;
        }
        // In the runtime's own group it is no group of the child's that could be meant.
        let scope = match self.terms.close_scope {
            Scope::Group if !self.own_group => Scope::Tree,
            scope => scope,
        };
        for signal in [Signal::TERM, Signal::CONT] {
            let _ = self.signal(signal.as_raw(), scope); // ESRCH: of those it is for nobody is left
        }
    }

    /// SIGKILL until nothing is left.
    pub(super) fn kill(&mut self) -> Result<Outcome, Errno> {
        let deadline = self.deadline.unwrap_or_else(|| Instant::now() + DEADLINE);
        self.kill_leaf(deadline);
        if let (true, Some(group)) = (self.own_group, Pid::from_raw(self.pid)) {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
            // ESRCH: the group is empty
        }
        let mut outcome = if is_blind() && self.leaf_is_empty() {
            Outcome::default() // proven by its cgroup alone
        } else {
            let hurry = Hurry::default(); // until it has ended
            Tree { crowd: &|| hurry.up(), ..self.tree() }.end(deadline, &|pause| self.rest(pause))
        };
        if self.wait.is_none() {
            self.wait = helper::wait(Whose::Pid(self.pid), true)?.map(|ended| ended.wait);
            outcome.killed += u32::from(self.wait == Some(Wait::Signal(libc::SIGKILL)));
        }
        Ok(outcome)
    }

    /// One write for all who are in the cgroup; the loop behind it finds who has left that. Zombies stay, for it to count.
    pub(super) fn kill_leaf(&self, until: Instant) {
        let Some(leaf) = self.strongest() else { return };
        let mut pause = Duration::from_micros(100);
        // Refused where the child has made it threaded: then the loop alone has to do.
        while leaf.kill().is_ok() && leaf.is_populated() == Ok(true) && Instant::now() < until {
            self.rest(pause);
            pause = (pause * 2).min(LONGEST);
        }
    }

    /// While the tree ends: a longer pause is over when one of its processes has ended, which mostly is the last.
    pub(super) fn rest(&self, pause: Duration) {
        std::thread::sleep(pause.min(BREATH)); // they may be hundreds that end one by one
        if pause > BREATH {
            let mut waiting = [PollFd::new(&self.events, PollFlags::IN)];
            let _ = poll(&mut waiting, Some(Instant::now() + (pause - BREATH))); // at worst it was no pause
            helper::drain_events(&self.events);
        }
    }

    pub(super) fn leaf_is_empty(&self) -> bool {
        self.strongest().is_some_and(|leaf| leaf.is_populated() == Ok(false))
    }

    /// The cgroup goes with its tree. True where none is left.
    pub(super) fn remove_leaf(&mut self) -> bool {
        let until = self.deadline.unwrap_or_else(|| Instant::now() + DEADLINE);
        self.leaf = self.leaf.take().filter(|leaf| !leaf.end(until));
        if let Some(limited) = &mut self.limited {
            let others = limited.rooms.clear(until);
            leave(limited.seat, self.leaf.iter().chain(&limited.rooms.leaves));
            self.limited.take_if(|_| others && self.leaf.is_none());
        }
        self.leaf.is_none() && self.limited.is_none()
    }

    /// Nothing is left, or what is has been named: the record of how it all
    /// went. A keeper whose tree has ended by itself can keep another child;
    /// one that had to kill has changed its own priority.
    pub(super) fn finish(
        mut self: Box<Self>,
        outcome: Outcome,
        by_itself: bool,
    ) -> Result<Option<Links>, Errno> {
        if self.wait.is_some() {
            helper::wait(Whose::Pid(self.pid), false)?;
        }
        let figures = self.figures();
        // While somebody survives it is theirs.
        let removed = outcome.survivors.is_empty() && self.remove_leaf();
        let again = by_itself && removed && self.port.is_some() && self.leash.is_some();
        let usage = helper::take_usage();
        self.tell(&FromKeeper::Done(Done {
            wait: self.wait.unwrap_or(Wait::Lost),
            cause: self.cause.unwrap_or(Cause::Exit),
            killed: outcome.killed,
            wall_us: self.started.elapsed().as_micros() as u64,
            user_us: usage.user_us,
            system_us: usage.system_us,
            max_rss_bytes: usage.max_rss_bytes,
            again,
            survivors: outcome.survivors.clone(),
            figures,
        }));
        self.linger(!outcome.survivors.is_empty())?;
        if self.leaf.is_some()
            || self.limited.is_some()
            || (!outcome.survivors.is_empty() && helper::wait(Whose::Any, true).is_ok())
        {
            return Err(Errno::BUSY); // the guardian goes on with what is left
        }
        if self.port.is_none() {
            return Err(Errno::PIPE); // the guardian tells the runtime, should that be there all the same
        }
        let (runtime, events) = (self.runtime, self.events);
        Ok(self.port.zip(self.leash).filter(|_| again).map(|(port, leash)| Links {
            port,
            leash,
            runtime,
            events,
        }))
    }

    /// Hands over what has not been sent, and goes on killing what has
    /// survived for as long as somebody may be told about it.
    pub(super) fn linger(&mut self, survivors: bool) -> Result<(), Errno> {
        let mut patience = None;
        loop {
            self.flush_outbox();
            let left = survivors && helper::wait(Whose::Any, true).is_ok();
            if survivors && !left {
                self.remove_leaf();
            }
            if self.outbox.is_empty() && !left {
                return Ok(());
            }
            if self.port.is_none() || self.leash.is_none() {
                let until = *patience.get_or_insert_with(|| Instant::now() + DEADLINE);
                if Instant::now() >= until {
                    return Ok(());
                }
            }
            let port = if self.outbox.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            let mut waiting: Vec<PollFd> = Vec::with_capacity(4);
            waiting.extend(self.port.iter().map(|fd| PollFd::new(fd, port)));
            waiting.push(PollFd::new(&self.events, PollFlags::IN));
            poll(&mut waiting, Some(Instant::now() + Duration::from_secs(1)))?;
            let gone =
                self.port.is_some() && waiting[0].revents().intersects(PollFlags::HUP | PollFlags::ERR);
            drop(waiting);
            if gone {
                self.port = None;
                self.outbox.clear();
            }
            helper::drain_events(&self.events);
            if left {
                let tree = Tree { hold: None, ..self.tree() };
                tree.end(Instant::now() + Duration::from_millis(100), &std::thread::sleep);
            }
        }
    }
}
