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

use crate::guard::child::{self, Memory, Own, Ready};
use crate::guard::hurry::Hurry;
use crate::guard::oom;
use crate::guard::place::{is_runtimes, Found, Why};
use crate::guard::record;
use crate::guard::rooms::{self, Furnisher, Lot, Refusal, Rooms};
use crate::guard::table::Table;
use crate::kernel::cgroup::{file, Leaf, Way};
use crate::kernel::sabotage::{fault, sabotaged, Step};
use crate::kernel::socket;
use crate::kernel::sys::helper::{self, Ended, Whose};
use crate::kernel::sys::host::Priorities;
use crate::kernel::tree::{is_blind, Outcome, Tree, LONGEST};
use crate::kernel::wire::plan::{Plan, Version};
use crate::kernel::wire::{
    Cause, Done, Figure, FromKeeper, Held, Lack, Launch, Placed, Scope, Stage, ToKeeper, Wait,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
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

/// The cgroups of a tree with limits.
struct Limited {
    rooms: Rooms,
    /// The files that are read at the end.
    figures: Vec<String>,
    seat: (Table, usize),
    /// The kernel is about to kill one of them for want of memory, or has.
    oom_until: Option<Instant>,
}

/// How long the kernel may take from its word that memory is out to its kill.
const OOM_PATIENCE: Duration = Duration::from_secs(2);

/// What of a pause is always waited for; the end of a process can shorten what is longer.
const BREATH: Duration = Duration::from_millis(5);

/// How long a tree may take to stand still.
const FREEZE_PATIENCE: Duration = Duration::from_secs(1);

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

/// The cgroup of a launch, made just now; or why there is none.
fn make_leaf(wanted: bool, place: Found, id: u32) -> Result<(Leaf, Way), Why> {
    if !wanted {
        return Err((Lack::Unwanted, 0));
    }
    let place = place?;
    let leaf = place.base.leaf(id);
    match leaf.make() {
        // A keeper before had this number, and its guardian has not removed its cgroup yet.
        Err(Errno::EXIST) if leaf.end(Instant::now() + DEADLINE) => leaf.make(),
        other => other,
    }
    .map_err(|errno| (Lack::Make, errno.raw_os_error()))?;
    Ok((leaf, place.way))
}

/// What a keeper does while the launch record is still being made.
pub struct Prepared<'a> {
    own: Own<'a>,
    cgroup: bool,
    ready: Ready,
}

impl<'a> Prepared<'a> {
    /// `place` is where the child's cgroup goes, by the keeper's number.
    pub fn new(
        cgroup: bool,
        limits: &'a [(u64, u64)],
        (place, id): (Found, u32),
    ) -> Result<Self, (Stage, Errno)> {
        let host = Priorities::of_this_thread(0);
        let Priorities { nice, affinity, scheduler, ioprio } = host;
        let own = Own { limits, nice, affinity, scheduler, ioprio };
        let home = make_leaf(cgroup, place, id);
        let leaf = home.as_ref().ok().map(|(leaf, _)| leaf.clone());
        match Ready::new(home) {
            Ok(ready) => Ok(Prepared { own, cgroup, ready }),
            Err(failed) => {
                leaf.map(|leaf| leaf.end(Instant::now() + DEADLINE)); // nobody was ever in it
                Err(failed)
            }
        }
    }

    /// With a child that waits for its plan, where one could be cloned.
    pub fn with_child(mut self) -> Self {
        self.ready.clone_early();
        self
    }

    /// Whether it is for a start in a cgroup.
    pub fn cgroup(&self) -> bool {
        self.cgroup
    }

    /// Nothing comes of it.
    pub fn undo(self) {
        let home = self.ready.give_up();
        if let Ok((leaf, _)) = home {
            leaf.end(Instant::now() + DEADLINE); // nobody was ever in it
        }
    }
}

impl Limited {
    fn clear(&mut self) {
        self.rooms.clear(Instant::now() + DEADLINE);
        leave(self.seat, self.rooms.leaves.iter());
    }
}

/// What could not be removed is the guardian's, by what stands at the keeper's place. No more than that is to stand
/// there: at a path that the caller gave there may be somebody else's by then.
fn leave<'a>((table, at): (Table, usize), leaves: impl Iterator<Item = &'a Leaf>) {
    let left: Vec<Placed> = leaves.map(Leaf::placed).collect();
    let _ = table.lodge(at, &left); // there was room for all of them
}

/// Makes the cgroups of a launch with limits. What it fails at is told before the failure is.
/// Never inlined: the stack of each keeper would have room for it.
#[inline(never)]
fn furnish(plan: Plan, lot: Lot, ready: &mut Ready, port: &OwnedFd) -> Result<Limited, (Stage, Errno)> {
    let (table, at) = lot.seat;
    let tell = |leaves: &[Placed]| {
        table.lodge(at, leaves)?;
        let _ = socket::send(port, &FromKeeper::Placed { leaves: leaves.to_vec() }.encode(), &[]);
        // Nobody to tell is seen soon enough.
        while sabotaged(Step::HangBeforeLeaf) {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    };
    let usual = ready.home.as_ref().ok();
    let made = Furnisher { plan: &plan, lot }.furnish(usual, tell);
    let mut rooms = made.map_err(|Refusal { stage, errno, at: setting, subject }| {
        let about = FromKeeper::About { at: setting, subject: subject.into_bytes() };
        let _ = socket::send(port, &about.encode(), &[]); // as above
        let usual = usual.map(|(leaf, _)| leaf);
        let there = |leaf: &&Leaf| Some(*leaf) != usual && std::path::Path::new(&leaf.path).exists();
        leave(lot.seat, table.lodging(at).iter().filter(there));
        (stage, errno)
    })?;
    if let Some(home) = rooms.home.take() {
        if let Ok((usual, _)) = &ready.home {
            usual.end(Instant::now() + DEADLINE); // nobody was ever in it
        }
        let moved = ready.move_to(home.clone());
        if let Err(failed) = moved {
            let home = Some(home.0).filter(|home| !home.end(Instant::now() + DEADLINE));
            rooms.clear(Instant::now() + DEADLINE);
            leave(lot.seat, home.iter().chain(&rooms.leaves));
            return Err(failed);
        }
    }
    Ok(Limited { rooms, figures: plan.figures, seat: lot.seat, oom_until: None })
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

    fn port_speaks(&mut self) {
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

    fn obey(&mut self, message: ToKeeper) {
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

    fn signal(&self, number: i32, scope: Scope) -> Result<(), Errno> {
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

    fn signal_child(&self, signal: Signal) {
        // Our own unreaped child: the pid cannot be anybody else's.
        if let Some(pid) = Pid::from_raw(self.pid) {
            let _ = rustix::process::kill_process(pid, signal); // ESRCH: it has just ended
        }
    }

    fn owner_grace(&self) -> Duration {
        if self.terms.kill_on_owner_death {
            Duration::ZERO
        } else {
            self.terms.grace
        }
    }

    /// The socket's end or the pidfd says so; a leaked copy of the one cannot hide the other.
    fn runtime_gone(&mut self) {
        self.port = None;
        self.outbox.clear();
        self.end(Cause::Owner, self.owner_grace());
    }

    /// Whatever asks for the end first gives the cause; a later one can only shorten the grace.
    fn end(&mut self, cause: Cause, grace: Duration) {
        self.cause.get_or_insert(cause);
        match self.phase {
            Phase::Ending(until) => self.phase = Phase::Ending(until.min(Instant::now() + grace)),
            _ => self.ask_to_end(grace),
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

    /// Without a cgroup each process is stopped, which those who wait for it can see.
    fn freeze(&mut self, on: bool) -> Result<(), Errno> {
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

    /// The kernel has said so; its kill is counted a moment later.
    fn out_of_memory(&mut self) {
        let Some(limited) = &mut self.limited else { return };
        if let Some(event) = &limited.rooms.oom {
            let _ = rustix::io::read(event, &mut [0; 8]); // it only counts
        }
        limited.oom_until = Some(Instant::now() + OOM_PATIENCE);
    }

    fn look_for_oom(&mut self, now: Instant) {
        let Some(limited) = &mut self.limited else { return };
        let Some(until) = limited.oom_until else { return };
        if limited.rooms.leaves.iter().any(|leaf| rooms::oom_kills(leaf) > 0) {
            limited.oom_until = None;
            limited.rooms.oom = None;
            self.end(Cause::Oom, Duration::ZERO);
        } else if until <= now {
            limited.oom_until = None;
        }
    }

    fn ask_to_end(&mut self, grace: Duration) {
        if std::mem::take(&mut self.frozen) {
            let _ = self.strongest().map(Leaf::thaw); // who is frozen hears nothing
        }
        self.phase = Phase::Ending(Instant::now() + grace);
        if !grace.is_zero() {
            self.first_signal();
        }
    }

    /// SIGCONT behind SIGTERM: a stopped process would not hear the first.
    fn first_signal(&self) {
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

    fn tell(&mut self, message: &FromKeeper) {
        if self.port.is_some() {
            self.outbox.push_back(message.encode());
            self.flush_outbox();
        }
    }

    fn flush_outbox(&mut self) {
        while let (Some(port), Some(message)) = (&self.port, self.outbox.front()) {
            match socket::send(port, message, &[]) {
                Ok(()) => drop(self.outbox.pop_front()),
                Err(Errno::AGAIN) => return,
                Err(_) => return self.outbox.clear(), // the runtime is gone; its pidfd says so too
            }
        }
    }

    /// SIGKILL until nothing is left.
    fn kill(&mut self) -> Result<Outcome, Errno> {
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
    fn kill_leaf(&self, until: Instant) {
        let Some(leaf) = self.strongest() else { return };
        let mut pause = Duration::from_micros(100);
        // Refused where the child has made it threaded: then the loop alone has to do.
        while leaf.kill().is_ok() && leaf.is_populated() == Ok(true) && Instant::now() < until {
            self.rest(pause);
            pause = (pause * 2).min(LONGEST);
        }
    }

    /// While the tree ends: a longer pause is over when one of its processes has ended, which mostly is the last.
    fn rest(&self, pause: Duration) {
        std::thread::sleep(pause.min(BREATH)); // they may be hundreds that end one by one
        if pause > BREATH {
            let mut waiting = [PollFd::new(&self.events, PollFlags::IN)];
            let _ = poll(&mut waiting, Some(Instant::now() + (pause - BREATH))); // at worst it was no pause
            helper::drain_events(&self.events);
        }
    }

    fn leaf_is_empty(&self) -> bool {
        self.strongest().is_some_and(|leaf| leaf.is_populated() == Ok(false))
    }

    /// The cgroup goes with its tree. True where none is left.
    fn remove_leaf(&mut self) -> bool {
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
    fn finish(mut self: Box<Self>, outcome: Outcome, by_itself: bool) -> Result<Option<Links>, Errno> {
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

    /// What the tree's cgroups have counted; they are about to be removed.
    fn figures(&self) -> Vec<Figure> {
        let Some(limited) = &self.limited else { return Vec::new() };
        let leaves: Vec<&Leaf> = self.leaf.iter().chain(&limited.rooms.leaves).collect();
        let read = |leaf: &Leaf, name: &String| {
            let text = file::read(&format!("{}/{name}", leaf.path)).ok()?;
            Some(Figure { version: leaf.version(), file: name.clone().into_bytes(), text })
        };
        let all =
            limited.figures.iter().flat_map(|name| leaves.iter().filter_map(move |leaf| read(leaf, name)));
        all.collect()
    }

    /// Hands over what has not been sent, and goes on killing what has
    /// survived for as long as somebody may be told about it.
    fn linger(&mut self, survivors: bool) -> Result<(), Errno> {
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
