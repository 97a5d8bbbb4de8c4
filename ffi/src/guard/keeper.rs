// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! One child's life.
//!
//! A keeper owns exactly one child and whatever that child leaves behind.
//! - It starts the child as the launch record says and tells how that went.
//! - It ends the tree when it is told to, when the child has exited, when time
//!   is up, and when the runtime or the guardian is gone, whichever is first.
//! - It says "done" only when it has no descendant left, else it names them.
//! - It never waits for one thing only: whatever hangs, the rest is still heard.

mod end;
mod limited;
mod prepared;
mod requests;

pub use prepared::Prepared;

use crate::guard::child::{self, Memory};
use crate::guard::oom;
use crate::guard::place::Why;
use crate::guard::record;
use crate::guard::rooms::Lot;
use crate::kernel::cgroup::Leaf;
use crate::kernel::sabotage::{fault, sabotaged, Step};
use crate::kernel::sys::helper::{self, Ended, Whose};
use crate::kernel::tree::{Outcome, Tree};
use crate::kernel::wire::plan::Version;
use crate::kernel::wire::{Cause, FromKeeper, Held, Lack, Launch, Scope, Stage, Wait};
use limited::{furnish, Limited};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::Signal;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long the end of a tree is fought for where nobody asked for less.
const DEADLINE: Duration = Duration::from_secs(5);

/// From then on the memory that a launch took matters more than the time that returning it takes.
const LONG_LIVED: Duration = Duration::from_millis(50);

/// Of a child that has come to its end on the way to its exec.
const KILLED: FromKeeper = FromKeeper::Failed { stage: Stage::Exec, errno: libc::ECHILD };

/// What is still to come for the tree.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The child runs.
    Running,
    /// The child has exited; what still holds its output may finish until then.
    Flushing(Instant),
    /// The first signal is out; SIGKILL then.
    Ending(Instant),
}

/// What joins a keeper to the others.
pub struct Links {
    /// To the runtime's reactor.
    pub port: OwnedFd,
    /// The guardian holds the other end and never writes.
    pub leash: OwnedFd,
    /// The runtime's pidfd.
    pub runtime: OwnedFd,
    /// Readable while a SIGCHLD is pending.
    pub events: OwnedFd,
}

pub struct Keeper {
    port: Option<OwnedFd>,
    leash: Option<OwnedFd>,
    runtime: OwnedFd,
    /// The runtime's pid.
    owner: i32,
    events: OwnedFd,
    outbox: VecDeque<Vec<u8>>,
    terms: Terms,
    pid: i32,
    own_group: bool,
    /// The tree's own cgroup, until it is removed.
    leaf: Option<Leaf>,
    lack: Why,
    /// What it has beside that where it was started with limits.
    limited: Option<Box<Limited>>,
    /// By our word.
    frozen: bool,
    /// Readable once the child has ended; dropped then.
    pidfd: Option<OwnedFd>,
    /// Until the exec has succeeded or failed.
    starting: Option<(OwnedFd, Memory)>,
    started: Instant,
    /// When a child that lives long is worth the work of taking back and giving back what its launch took.
    tidy: Option<Instant>,
    timeout: Option<Instant>,
    wait: Option<Wait>,
    phase: Phase,
    cause: Option<Cause>,
    deadline: Option<Instant>,
    eof: bool,
}

/// The launch record's words on how the tree ends.
struct Terms {
    grace: Duration,
    flush: Duration,
    kill_on_owner_death: bool,
    close_scope: Scope,
    output_piped: bool,
}

fn ms(n: u32) -> Duration {
    Duration::from_millis(u64::from(n))
}

/// Waits until one of `fds` has something to say, or `until`.
pub fn poll(fds: &mut [PollFd<'_>], until: Option<Instant>) -> Result<(), Errno> {
    let left = until.map(|at| at.saturating_duration_since(Instant::now()));
    let timeout = left.and_then(|d| Timespec::try_from(d).ok());
    match rustix::event::poll(fds, timeout.as_ref()) {
        Err(Errno::INTR) => Ok(()),
        other => other.map(drop),
    }
}

pub fn said(fd: &PollFd<'_>) -> bool {
    !fd.revents().is_empty()
}

impl Keeper {
    /// Clones the child.
    pub fn start(
        mut launch: Launch,
        fds: Vec<OwnedFd>,
        (Prepared { own, mut ready, .. }, lot): (Prepared, Lot),
        Links { port, leash, runtime, events }: Links,
    ) -> Result<Box<Self>, (OwnedFd, Stage, Errno)> {
        if launch.plan.is_some() {
            ready.clone_late(); // it lives in the usual cgroup
        }
        let mut limited = match launch.plan.take().map(|plan| furnish(*plan, lot, &mut ready, &port)) {
            None => None,
            Some(Ok(limited)) => Some(Box::new(limited)),
            Some(Err((stage, errno))) => {
                if let Ok((leaf, _)) = ready.home {
                    leaf.end(Instant::now() + DEADLINE); // nobody was ever in it
                }
                return Err((port, stage, errno));
            }
        };
        let joins = limited.as_ref().map(|limited| &limited.rooms.joins[..]);
        let terms = Terms {
            grace: ms(launch.grace_ms),
            flush: ms(launch.flush_ms),
            kill_on_owner_death: launch.kill_on_owner_death,
            close_scope: launch.close_scope,
            output_piped: launch.output_piped,
        };
        let (own_group, timeout) = (launch.join_group.is_none(), launch.timeout_ms.map(ms));
        let leaf = ready.home.as_ref().ok().map(|(leaf, _)| leaf.clone());
        let started = Instant::now();
        let lent = fault("oom-score").and_then(|()| oom::lend(launch.oom_score_adj));
        let lent = lent.map_err(|errno| (Stage::OomScoreAdj, errno));
        let outcome = lent.and_then(|()| child::start(launch, &own, fds, joins, ready));
        let used = outcome.as_ref().is_ok_and(|child| child.lack.0 == Lack::Nothing);
        let leaf = leaf.filter(|leaf| used || !leaf.end(Instant::now() + DEADLINE));
        let child = match outcome {
            Ok(child) => child,
            Err((stage, errno)) => {
                limited.iter_mut().for_each(|limited| limited.clear());
                return Err((port, stage, errno));
            }
        };
        limited.iter_mut().for_each(|limited| limited.rooms.joins.clear());
        Ok(Box::new(Keeper {
            port: Some(port),
            leash: Some(leash),
            runtime,
            owner: lot.site.runtime,
            events,
            outbox: VecDeque::new(),
            terms,
            pid: child.pid,
            own_group,
            leaf,
            lack: child.lack,
            limited,
            frozen: false,
            pidfd: Some(child.pidfd),
            starting: Some((child.outcome, child.memory)),
            started,
            tidy: Some(started + LONG_LIVED),
            timeout: timeout.map(|d| started + d),
            wait: None,
            phase: Phase::Running,
            cause: None,
            deadline: None,
            eof: false,
        }))
    }

    fn tree(&self) -> Tree<'static> {
        Tree { spare: &|_| false, hold: Some(self.pid), crowd: &|| {} }
    }

    /// Until its tree has ended. Its links are given back where it can keep another child.
    pub fn run(mut self: Box<Self>) -> Result<Option<Links>, Errno> {
        loop {
            self.listen()?;
            let now = Instant::now();
            if self.timeout.is_some_and(|at| at <= now) {
                self.timeout = None;
                self.end(Cause::Timeout, self.terms.grace);
            }
            self.look_for_oom(now);
            if self.starting.is_none() && self.tidy.is_some_and(|at| at <= now) {
                self.tidy = None;
                child::give_memory_back();
                record::give_memory_back();
                helper::give_memory_back();
                oom::take_back();
            }
            // Looked at once: with the child ended and no other child there is nobody who could bring one.
            if self.wait.is_some() && self.starting.is_none() && self.is_alone() {
                return self.finish(Outcome::default(), true);
            }
            match (self.phase, self.wait) {
                (Phase::Running, Some(wait)) => self.survived(wait),
                (Phase::Flushing(until), _) if self.eof || until <= now => self.ask_to_end(self.terms.grace),
                _ => {}
            }
            if matches!(self.phase, Phase::Ending(until) if until <= Instant::now()) {
                let outcome = self.kill()?;
                self.killed_before_exec()?;
                return self.finish(outcome, false);
            }
        }
    }

    /// Nothing of the tree is left but the child's own zombie. Mostly a single look says so; others that have
    /// ended are reaped where it does not.
    fn is_alone(&self) -> bool {
        self.tree().is_empty() || {
            self.tree().reap();
            self.tree().is_empty()
        }
    }

    /// Waits for the next thing to happen, and takes it in.
    fn listen(&mut self) -> Result<(), Errno> {
        let mut out = PollFlags::IN;
        if !self.outbox.is_empty() {
            out |= PollFlags::OUT;
        }
        let phase = match self.phase {
            Phase::Running => None,
            Phase::Flushing(at) | Phase::Ending(at) => Some(at),
        };
        // Nothing is given back before the exec: a child that hangs there must not keep us spinning.
        let tidy = self.tidy.filter(|_| self.starting.is_none());
        let oom = self.limited.as_ref().and_then(|limited| limited.oom_until);
        let oom = oom.map(|_| Instant::now() + Duration::from_millis(2));
        let until = [self.timeout, tidy, phase, oom].into_iter().flatten().min();
        let memory = self.limited.as_ref().and_then(|limited| limited.rooms.oom.as_ref());
        let starting = self.starting.as_ref().map(|(fd, _)| fd);
        let sources: [Option<(BorrowedFd<'_>, PollFlags)>; 7] = [
            self.port.as_ref().map(|fd| (fd.as_fd(), out)),
            self.leash.as_ref().map(|fd| (fd.as_fd(), PollFlags::IN)),
            // Once it is known that the runtime is gone its pidfd would keep us spinning.
            self.port.as_ref().map(|_| (self.runtime.as_fd(), PollFlags::IN)),
            self.pidfd.as_ref().map(|fd| (fd.as_fd(), PollFlags::IN)),
            Some((self.events.as_fd(), PollFlags::IN)),
            starting.map(|fd| (fd.as_fd(), PollFlags::IN)),
            memory.map(|fd| (fd.as_fd(), PollFlags::IN)),
        ];
        let mut waiting: Vec<PollFd> = Vec::with_capacity(sources.len());
        waiting.extend(sources.iter().flatten().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)));
        poll(&mut waiting, until)?;
        let mut answers = waiting.iter().map(said);
        let [port, leash, runtime, pidfd, events, starting, memory] =
            sources.each_ref().map(|source| source.is_some() && answers.next() == Some(true));
        if memory {
            self.out_of_memory(); // before the end of the child that may come of it
        }
        self.take_in([port, leash, runtime, pidfd, events, starting])
    }

    fn take_in(&mut self, [port, leash, runtime, pidfd, events, starting]: [bool; 6]) -> Result<(), Errno> {
        if starting {
            self.exec_outcome()?;
        }
        // Before the child's end: a close that ends its stdin, too, came first.
        if port {
            self.port_speaks();
        }
        if pidfd {
            self.child_exited();
        }
        if events {
            helper::drain_events(&self.events);
            // Orphans that were adopted while the child lives must not pile up as zombies. After it `run` looks.
            if self.wait.is_none() || self.starting.is_some() {
                self.tree().reap();
            }
        }
        if runtime {
            self.runtime_gone();
        }
        if leash && !sabotaged(Step::Leash) {
            self.leash = None;
            self.end(Cause::Guardian, self.owner_grace());
        }
        Ok(())
    }

    /// What runs our code until its exec is not to be called started when it has been killed there.
    fn killed_before_exec(&mut self) -> Result<(), Errno> {
        match (&self.starting, self.wait) {
            (Some(_), Some(_)) => self.exec_outcome(),
            (Some(_), None) => {
                // Nothing can kill it: an exec from a file system that hangs. `finish` names it and goes on.
                self.tell(&FromKeeper::Failed { stage: Stage::Exec, errno: libc::ETIMEDOUT });
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The error pipe has spoken: eight bytes are a failure, none are a program that
    /// runs, or a child that was killed on the way there.
    fn exec_outcome(&mut self) -> Result<(), Errno> {
        let Some((pipe, memory)) = self.starting.take() else { return Ok(()) };
        let mut record = [0; 8];
        let got = rustix::io::retry_on_intr(|| rustix::io::read(&pipe, &mut record))?;
        let told = got == record.len();
        if told || !memory.was_at_exec() {
            let [a, b, c, d, e, f, g, h] = record;
            let stage = Stage::from_number(u32::from_le_bytes([a, b, c, d])).unwrap_or(Stage::Exec);
            let errno = i32::from_le_bytes([e, f, g, h]);
            self.tell(&if told { FromKeeper::Failed { stage, errno } } else { KILLED });
            self.cause = None;
            self.pidfd = None;
            // It exits right after the report; SIGKILL so that this wait has an end whatever holds it.
            self.signal_child(Signal::KILL);
            let until = Instant::now() + DEADLINE;
            while !matches!(helper::wait(Whose::Pid(self.pid), false), Ok(Some(_)) | Err(_)) {
                if Instant::now() >= until {
                    self.flush_outbox();
                    helper::exit(1); // its tracer keeps it: the guardian goes on
                }
                let mut waiting = [PollFd::new(&self.events, PollFlags::IN)];
                poll(&mut waiting, Some(Instant::now() + Duration::from_millis(10)))?;
            }
            drop(memory);
            let removed = self.remove_leaf();
            self.flush_outbox();
            helper::exit(i32::from(!removed)); // the guardian goes on with what is left
        }
        self.tell(&FromKeeper::Started {
            pid: self.pid,
            own_group: self.own_group,
            lack: self.lack,
            held: self.held(),
        });
        drop(memory);
        if matches!(self.phase, Phase::Ending(_)) {
            self.first_signal(); // before the exec it was ignored, as helpers ignore it
        }
        Ok(())
    }

    /// The child has ended; its zombie stays until the tree is gone.
    fn child_exited(&mut self) {
        let Ok(Some(Ended { wait, .. })) = helper::wait(Whose::Pid(self.pid), !sabotaged(Step::Hold)) else {
            return; // traced from outside: the zombie is the tracer's until it lets go
        };
        self.pidfd = None;
        self.wait = Some(wait);
        if self.phase == Phase::Running {
            self.cause.get_or_insert(Cause::Exit);
        }
    }

    /// The child has exited and left others behind: they may finish what they
    /// write to its output. The runtime tells when nobody holds that any more.
    fn survived(&mut self, wait: Wait) {
        self.tell(&FromKeeper::Exited { wait });
        if self.terms.output_piped && self.port.is_some() && !self.terms.flush.is_zero() {
            self.phase = Phase::Flushing(Instant::now() + self.terms.flush);
        } else {
            self.ask_to_end(self.terms.grace);
        }
    }

    fn held(&self) -> Held {
        let none = Held { kill: Version::None, limits: Version::None };
        let held = self.limited.as_ref().map_or(none, |limited| limited.rooms.held);
        let kill = if self.leaf.is_some() { Version::Two } else { held.kill };
        Held { kill, ..held }
    }

    /// By whose means the tree is frozen, and killed as one.
    fn strongest(&self) -> Option<&Leaf> {
        let others = self.limited.iter().flat_map(|limited| &limited.rooms.leaves);
        self.leaf.iter().chain(others).find(|leaf| leaf.can_freeze())
    }
}
