// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! The parent of the keepers.
//!
//! - It forks one keeper for each request of the runtime it was started for, and of nobody else.
//! - A keeper that somebody has stopped it lets go on.
//! - Whatever becomes its child and is not a keeper has lost its own: it is killed on sight, and the runtime is told.
//! - When the runtime is gone it lets every keeper have its grace, ends those that take longer, and leaves last.
//! - No signal but SIGKILL ends it.

use crate::guard::hurry::Hurry;
use crate::guard::place::{is_runtimes, Found, Place, Site};
use crate::guard::rooms::Lot;
use crate::guard::spare::{self, Birth};
use crate::guard::table::Table;
use crate::kernel::cgroup::Leaf;
use crate::kernel::procfs;
use crate::kernel::sabotage::{fault, sabotaged, Step};
use crate::kernel::socket;
use crate::kernel::sys::helper::{self, Forked, Title, Whose};
use crate::kernel::tree::{Outcome, Tree};
use crate::kernel::wire::{FromGuardian, FromKeeper, Stage, ToGuardian, Wait, ABI};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long the end of a lost keeper's tree is fought for, before the runtime is told who is left.
const SWEEP: Duration = Duration::from_secs(5);

/// The longest step of that: others want to be served as well.
const TURN: Duration = Duration::from_millis(200);

/// How often it is looked at until then. Others are served in between.
const STEP: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

/// How often what could not be killed is tried again.
const RETRY: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// A keeper that has ended otherwise than it should, until its tree and its cgroup are gone. No other gets its number.
struct Lost {
    id: u32,
    /// Those of its tree's cgroups that may be left.
    leaves: Vec<Leaf>,
    /// When the runtime is told, whatever is left.
    until: Instant,
    killed: u32,
    told: bool,
}

struct Guardian<'a> {
    requests: OwnedFd,
    runtime: OwnedFd,
    events: OwnedFd,
    table: Table,
    /// By slot: the keeper's leash, which is closed by our end.
    leashes: Vec<Option<OwnedFd>>,
    outbox: VecDeque<Vec<u8>>,
    lost: Vec<Lost>,
    /// Who could not be killed, and has been named to whom they belonged to.
    named: Vec<i32>,
    escapees: bool,
    title: &'a Title,
    limits: Vec<(u64, u64)>,
    /// Where the cgroups of the keepers' children go.
    place: Found<'a>,
    site: &'a Site,
    watchdog: Pid,
}

/// What guardian and watchdog both know of what the guardian guards.
pub struct Guarded<'a> {
    pub table: Table,
    pub place: Found<'a>,
    pub site: &'a Site,
    pub title: &'a Title,
    pub watchdog: Pid,
}

/// The life of a guardian; never returns to the watchdog's code.
pub fn main(requests: OwnedFd, runtime: OwnedFd, guarded: Guarded) -> ! {
    let _ = rustix::thread::set_name(c"proton-guardian");
    guarded.title.show("proton-guardian");
    helper::exit(i32::from(live(requests, runtime, guarded).is_err()))
}

fn live(requests: OwnedFd, runtime: OwnedFd, guarded: Guarded) -> Result<(), Errno> {
    let Guarded { table, place, site, title, watchdog } = guarded;
    helper::become_subreaper(Step::GuardianSubreaper)?;
    let [requests, runtime] = helper::keep_only([requests, runtime])?;
    let events = helper::child_events()?;
    // By it the runtime reaps us, should we become its child. Refused, as some filters do, that is left undone.
    let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).ok();
    let base = place.map_or_else(|_| Vec::new(), |place| place.base.path.clone().into_bytes());
    let fds: Vec<_> = own.iter().map(AsFd::as_fd).collect();
    socket::send(&requests, &FromGuardian::Hello { abi: ABI, base }.encode(), &fds)?;
    drop(own);
    let (leashes, outbox, lost, named) = (Vec::new(), VecDeque::new(), Vec::new(), Vec::new());
    let limits = crate::kernel::sys::host::rlimits();
    let escapees = false;
    let guardian = Guardian {
        requests,
        runtime,
        events,
        table,
        leashes,
        outbox,
        lost,
        named,
        escapees,
        title,
        limits,
        place,
        site,
        watchdog,
    };
    guardian.run()
}

impl Guardian<'_> {
    fn run(mut self) -> Result<(), Errno> {
        loop {
            let mut requests = PollFlags::IN;
            if !self.outbox.is_empty() {
                requests |= PollFlags::OUT;
            }
            let mut waiting = [
                PollFd::new(&self.requests, requests),
                PollFd::new(&self.runtime, PollFlags::IN),
                PollFd::new(&self.events, PollFlags::IN),
            ];
            let again = match self.lost.iter().any(|lost| !lost.told) {
                true => Some(&STEP),
                false => (self.escapees || !self.lost.is_empty()).then_some(&RETRY),
            };
            match rustix::event::poll(&mut waiting, again) {
                Err(Errno::INTR) => continue,
                other => other.map(drop)?,
            }
            let [asked, gone, ended] = waiting.map(|fd| !fd.revents().is_empty());
            if ended || again.is_some() {
                self.reap();
            }
            if gone || (asked && !self.serve()) {
                return self.leave();
            }
        }
    }

    /// Takes all requests in; false when the runtime is gone.
    fn serve(&mut self) -> bool {
        self.flush();
        let mut buffer = [0; 64];
        loop {
            let packet = match socket::receive(&self.requests, &mut buffer) {
                Ok(Some(packet)) => packet,
                Err(Errno::MSGSIZE) => continue, // nothing of ours is as long
                Err(Errno::AGAIN) => return true,
                Ok(None) if sabotaged(Step::Eof) => return true,
                Ok(None) | Err(_) => return false,
            };
            // What is no request, or comes from somebody that the socket has leaked to, does nothing to anybody.
            if !is_runtimes(self.site.runtime, &packet) {
                continue;
            }
            // By the rights that it has now, no more than it could do itself.
            let uid = rustix::process::getuid().as_raw();
            let same = packet.sender.is_some_and(|from| from.uid == uid) || sabotaged(Step::Credentials);
            match (ToGuardian::decode(&buffer[..packet.len]), packet.fds.into_iter().next()) {
                (Ok(ToGuardian::Keep { id }), Some(port)) if same => self.keep(id, port),
                (Ok(ToGuardian::Keep { id }), None) if packet.cut => self.refuse(id),
                (Ok(ToGuardian::End { id }), None) => self.end(id),
                _ => {}
            }
        }
    }

    /// Forks a keeper, or tells over the port's own socket why not.
    fn keep(&mut self, id: u32, port: OwnedFd) {
        if let Err((port, errno)) = self.try_keep(id, port) {
            let failed = FromKeeper::Failed { stage: Stage::Keeper, errno: errno.raw_os_error() };
            let _ = socket::send(&port, &failed.encode(), &[]); // a runtime that is gone need not know
        }
    }

    /// A port that could not be taken in. Whoever starves must not take the others' trees along.
    fn refuse(&mut self, id: u32) {
        let errno = Errno::MFILE.raw_os_error();
        self.outbox.push_back(FromGuardian::Refused { id, errno }.encode());
        self.flush();
    }

    fn try_keep(&mut self, id: u32, port: OwnedFd) -> Result<(), (OwnedFd, Errno)> {
        let Some(at) = self.table.vacancy() else { return Err((port, Errno::AGAIN)) };
        let (leash, far) = match fault("leash").and_then(|()| socket::pair()) {
            Ok(pair) => pair,
            Err(errno) => return Err((port, errno)),
        };
        let copy = fault("runtime-copy").and_then(|()| rustix::io::fcntl_dupfd_cloexec(&self.runtime, 3));
        let runtime = match copy {
            Ok(runtime) => runtime,
            Err(errno) => return Err((port, errno)),
        };
        match fault("fork").and_then(|()| helper::fork()) {
            Err(errno) => Err((port, errno)),
            // `leash` is closed with all else that is not its own: what is left open would hide our death.
            Ok(Forked::Child) => {
                let (title, limits) = (self.title, &self.limits[..]);
                let lot = Lot { site: self.site, found: self.place, id, seat: (self.table, at) };
                spare::main(Birth { port, leash: far, runtime, title, limits, lot })
            }
            Ok(Forked::Parent(pid)) => {
                self.table.put(at, pid, id);
                if self.leashes.len() <= at {
                    self.leashes.resize_with(at + 1, || None);
                }
                self.leashes[at] = Some(leash);
                Ok(())
            }
        }
    }

    /// A keeper that missed its deadline: its tree becomes ours as soon as it is dead.
    fn end(&mut self, id: u32) {
        let keeper = self.table.find_id(id).and_then(|at| Pid::from_raw(self.table.pid(at)));
        if let Some(pid) = keeper.filter(|_| !sabotaged(Step::GuardianEnd)) {
            let _ = rustix::process::kill_process(pid, Signal::KILL); // our unreaped child; ESRCH is its end
        }
    }

    /// Reaps keepers; sweeps what those have left that did not end by themselves.
    fn reap(&mut self) {
        helper::drain_events(&self.events);
        helper::continue_stopped(|pid| self.table.find(pid).is_some());
        let mut killed = 0;
        while let Ok(Some(ended)) = helper::wait(Whose::Any, true) {
            if let Some(at) = self.table.find(ended.pid) {
                // One that has ended as it should has told all; only a cgroup may be left of a start that failed.
                let told = ended.wait == Wait::Code(0);
                let leaves = if told { lodged(self.table, at) } else { leaves(self.place, self.table, at) };
                if !told || !leaves.is_empty() {
                    let (id, until) = (self.table.id(at), Instant::now() + SWEEP);
                    self.lost.push(Lost { id, leaves, until, killed: 0, told });
                }
                self.table.clear(at);
                self.leashes[at] = None;
            } else {
                killed += u32::from(ended.wait == Wait::Signal(Signal::KILL.as_raw()));
            }
            let _ = helper::wait(Whose::Pid(ended.pid), false); // it has ended, as we just saw
        }
        self.count(killed);
        if !self.lost.is_empty() || self.escapees {
            self.sweep();
        }
    }

    /// Counted once where several keepers ended together: who belonged to which of them is known to nobody.
    fn count(&mut self, killed: u32) {
        if let Some(first) = self.lost.iter_mut().find(|lost| !lost.told) {
            first.killed += killed;
        }
    }

    /// A step towards the end of every lost keeper's tree. Whose all are told apart by nobody: each waits for all.
    fn sweep(&mut self) {
        let (table, now) = (self.table, Instant::now());
        for Lost { leaves, .. } in &mut self.lost {
            leaves.retain(|leaf| !leaf.end(now));
        }
        let outcome = match sabotaged(Step::GuardianSweep) {
            true => Outcome::default(),
            false => among_strays(table, |tree| tree.step(now + TURN)),
        };
        self.escapees = !outcome.survivors.is_empty();
        self.count(outcome.killed);
        let mut survivors = outcome.survivors;
        self.named.retain(|&pid| survivors.iter().any(|survivor| survivor.pid == pid));
        survivors.retain(|survivor| !self.named.contains(&survivor.pid));
        for lost in &mut self.lost {
            if !lost.told && (lost.until <= now || (lost.leaves.is_empty() && survivors.is_empty())) {
                let (id, killed, survivors) = (lost.id, lost.killed, survivors.clone());
                // One that nobody can see has no number to be known by.
                self.named.extend(survivors.iter().map(|survivor| survivor.pid).filter(|&pid| pid != 0));
                self.outbox.push_back(FromGuardian::Swept { id, killed, survivors }.encode());
                lost.told = true;
            }
        }
        self.lost.retain(|lost| !lost.leaves.is_empty() || !lost.told);
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(message) = self.outbox.front() {
            match socket::send(&self.requests, message, &[]) {
                Ok(()) => drop(self.outbox.pop_front()),
                Err(Errno::AGAIN) => return,
                Err(_) => return self.outbox.clear(), // the runtime is gone; its pidfd says so too
            }
        }
    }

    /// The runtime is gone. The keepers see that by themselves; dropping the
    /// leashes tells one that cannot. A watchdog that somebody has stopped has nobody else left who would let it go on.
    /// Never inlined, as what follows: each keeper's stack would hold room for it.
    #[inline(never)]
    fn leave(mut self) -> Result<(), Errno> {
        self.let_watchdog_go_on();
        self.leashes.iter_mut().for_each(|leash| *leash = None);
        let result = outlive(self.table, self.place, &self.events);
        self.let_watchdog_go_on();
        result
    }

    #[inline(never)]
    fn let_watchdog_go_on(&self) {
        let Ok(handle) = procfs::handle(self.watchdog.as_raw_nonzero().get()) else { return };
        // Its number is its own as long as it is our parent, and so it was when the handle was made.
        if rustix::process::getppid() == Some(self.watchdog) && !sabotaged(Step::Continue) {
            let _ = rustix::process::pidfd_send_signal(&handle, Signal::CONT); // it ends at this moment
        }
    }
}

/// The cgroups of a keeper that may not have ended and removed them itself; those of its limits are known from its
/// place in the table.
fn leaves(place: Found, table: Table, at: usize) -> Vec<Leaf> {
    let usual = place.ok().map(|Place { base, .. }| base.leaf(table.id(at)));
    let others = lodged(table, at).into_iter().filter(|leaf| Some(leaf) != usual.as_ref());
    usual.iter().cloned().chain(others).collect()
}

/// Those below this process whom no keeper keeps; where they are a crowd, with more priority as long as it lasts.
fn among_strays(table: Table, work: impl FnOnce(&Tree) -> Outcome) -> Outcome {
    let hurry = Hurry::default();
    work(&Tree { spare: &|pid| table.find(pid).is_some(), hold: None, crowd: &|| hurry.up() })
}

/// Takes over what the keeper at this place has said of its tree's cgroups: whoever is put there next has others.
fn lodged(table: Table, at: usize) -> Vec<Leaf> {
    let leaves = table.lodging(at);
    if !leaves.is_empty() {
        let _ = table.lodge(at, &[]); // there is room for nothing
    }
    leaves
}

/// Waits for every keeper in `table` to end within its allowance, ends those
/// that do not, and kills everything else on sight. Returns when no child is
/// left, or when nothing more can be done about it. The last act is to remove the cgroup of all.
pub fn outlive(table: Table, place: Found, events: &OwnedFd) -> Result<(), Errno> {
    let result = outlive_keepers(table, place, events);
    if let Ok(Place { base, .. }) = place {
        base.whole().end(Instant::now() + SWEEP);
    }
    result
}

fn outlive_keepers(table: Table, place: Found, events: &OwnedFd) -> Result<(), Errno> {
    let begun = Instant::now();
    loop {
        let late = |at: usize| begun.elapsed() >= table.allowance(at);
        for (at, _) in table.keepers().filter(|&(at, _)| late(at)) {
            if let Some(pid) = Pid::from_raw(table.pid(at)).filter(|&pid| is_own_child(pid)) {
                let _ = rustix::process::kill_process(pid, Signal::KILL); // our unreaped child
            }
        }
        helper::drain_events(events);
        helper::continue_stopped(|pid| table.find(pid).is_some());
        while let Ok(Some(ended)) = helper::wait(Whose::Any, true) {
            if let Some(at) = table.find(ended.pid) {
                for leaf in leaves(place, table, at) {
                    leaf.end(Instant::now() + SWEEP); // who outlives that is named by the sweep
                }
                table.clear(at);
            }
            let _ = helper::wait(Whose::Pid(ended.pid), false);
        }
        let until = Instant::now() + Duration::from_secs(1);
        let outcome = among_strays(table, |tree| tree.end(until, &std::thread::sleep));
        let left = helper::wait(Whose::Any, true).is_ok();
        let last = table.keepers().map(|(at, _)| table.allowance(at)).max().unwrap_or_default();
        let given_up = !outcome.survivors.is_empty() && begun.elapsed() > last + SWEEP;
        if !left {
            return Ok(());
        }
        if given_up {
            return Err(Errno::BUSY);
        }
        let next = table.keepers().map(|(at, _)| table.allowance(at).saturating_sub(begun.elapsed())).min();
        let pause =
            next.unwrap_or(Duration::from_secs(1)).clamp(Duration::from_millis(10), Duration::from_secs(1));
        let mut waiting = [PollFd::new(events, PollFlags::IN)];
        match rustix::event::poll(&mut waiting, Timespec::try_from(pause).ok().as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// A pid in the table is only to be signalled while it is our own child.
fn is_own_child(pid: Pid) -> bool {
    helper::wait(Whose::Pid(pid.as_raw_nonzero().get()), true).is_ok()
}
