// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Signalling and ending everything below this process.
//!
//! The loop that converges even against fork bombs: *signal first, then read
//! the children of all its tasks, reap nothing until a sweep finds nothing
//! new*. A process with a pending SIGKILL cannot finish a fork, so what is read
//! after the signal is complete; and a zombie keeps its slot of RLIMIT_NPROC
//! and pids.max, so every kill starves the bomb, where reaping at once would
//! hand the slot back.
//!
//! The caller is a child subreaper with SIGCHLD at its default: whatever is
//! orphaned below it becomes its child, and only it reaps its children.

use crate::kernel::procfs;
use crate::kernel::sabotage::{sabotaged, Step};
use crate::kernel::sys::helper::{self, Whose};
use crate::kernel::wire::{Reason, Survivor, Wait, SURVIVORS_MAX};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::Signal;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// What is below this process, seen as one tree to signal or to end.
pub struct Tree<'a> {
    /// Direct children that are not to be touched: their whole trees are left alone.
    pub spare: &'a dyn Fn(i32) -> bool,
    /// A direct child that is signalled with the rest but never reaped here:
    /// its zombie keeps its pid and its group from being used again.
    pub hold: Option<i32>,
    /// Called when it turns out to be a [`CROWD`], while that is being signalled.
    pub crowd: &'a dyn Fn(),
}

/// So many may be forking as fast as they are found.
pub const CROWD: usize = 32;

/// How an attempt to end everything went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Processes that were reaped after dying of SIGKILL.
    pub killed: u32,
    /// Empty when nothing but the spared is left.
    pub survivors: Vec<Survivor>,
}

/// Stands for whoever is left where nobody can be seen or proven gone.
pub const UNSEEN: Survivor =
    Survivor { pid: 0, reason: Reason::NotPermitted, tracer: 0, comm: *b"whoever is left\0" };

/// /proc shows us nothing any more, ourselves included: somebody has mounted over it.
pub fn is_blind() -> bool {
    procfs::stat(std::process::id() as i32).is_none()
}

/// The longest pause between two attempts. Who waits has mostly nothing to do: where a thousand trees end at once,
/// all that their keepers do is taken from what they wait for.
pub const LONGEST: Duration = Duration::from_millis(100);

impl Tree<'_> {
    fn children(&self) -> Vec<i32> {
        let mut found = Vec::new();
        procfs::children(std::process::id() as i32, 1, &mut found);
        found.retain(|&pid| !(self.spare)(pid));
        found
    }

    /// Nothing is left: no child but the spared ones and the held one's zombie.
    /// This list is exact, since only this process removes its children from
    /// it, and orphans enter it before the end of their parent can be seen.
    pub fn is_empty(&self) -> bool {
        let children = self.children();
        // The held one's zombie would stand in it.
        let seen = !children.is_empty() || !is_blind();
        seen && children.into_iter().all(|pid| self.is_held_zombie(pid))
    }

    /// One that can be reaped: while somebody else traces it, its end is the tracer's to take.
    fn is_held_zombie(&self, pid: i32) -> bool {
        self.hold == Some(pid) && !matches!(helper::wait(Whose::Pid(pid), true), Ok(None))
    }

    /// Sends `signal` once to everything. Returns how many got it.
    pub fn signal(&self, signal: Signal) -> u32 {
        let mut sweep = Sweep::new(signal);
        // What forks while we walk shows up in the next round; a round limit,
        // as this signal need not stop anybody from forking.
        for _ in 0..4 {
            if sweep.round(self) == 0 {
                break;
            }
        }
        sweep.reached
    }

    /// Kills everything and proves it gone: no child is left, or `deadline`
    /// has passed and the rest is named. Between two attempts it is given up to `rest` to wait for longer and longer,
    /// or until one of them has ended.
    pub fn end(&self, deadline: Instant, rest: &dyn Fn(Duration)) -> Outcome {
        let mut killed = 0;
        let mut pause = Duration::from_micros(200);
        loop {
            let (reaped, refused) = self.kill(deadline);
            killed += reaped;
            let empty = self.is_empty();
            if empty || Instant::now() >= deadline {
                return Outcome {
                    killed,
                    survivors: if empty { Vec::new() } else { self.survivors(&refused) },
                };
            }
            rest(pause.min(deadline.saturating_duration_since(Instant::now())));
            pause = (pause * 2).min(LONGEST);
        }
    }

    /// One attempt of those, for a caller who has others to serve while the rest dies. It lasts for as long as new
    /// ones turn up, not longer than `deadline`, and names who has not ended yet.
    pub fn step(&self, deadline: Instant) -> Outcome {
        let (killed, refused) = self.kill(deadline);
        Outcome { killed, survivors: if self.is_empty() { Vec::new() } else { self.survivors(&refused) } }
    }

    /// Signals until a walk finds nobody new, then reaps. How many had died of it, and who could not be signalled.
    fn kill(&self, deadline: Instant) -> (u32, HashSet<i32>) {
        let mut sweep = Sweep::new(Signal::KILL);
        while sweep.round(self) > 0 && Instant::now() < deadline {}
        (self.reap(), sweep.refused)
    }

    /// Reaps every child that has ended, by its pid. Returns how many had died of SIGKILL.
    pub fn reap(&self) -> u32 {
        let others = self.children().into_iter().filter(|&pid| self.hold != Some(pid));
        let ended = others.filter_map(|pid| helper::wait(Whose::Pid(pid), false).ok()?);
        ended.filter(|e| e.wait == Wait::Signal(libc::SIGKILL)).count() as u32
    }

    /// Names what is left; somebody is.
    fn survivors(&self, refused: &HashSet<i32>) -> Vec<Survivor> {
        let own = self.children();
        let mut work = own.clone();
        let mut named = Vec::new();
        let mut walked = HashSet::new();
        while let Some(pid) = work.pop() {
            if named.len() == SURVIVORS_MAX || !walked.insert(pid) {
                continue;
            }
            let stat = procfs::stat(pid);
            if self.is_held_zombie(pid) {
                continue;
            }
            // Hidden by hidepid: a child of ours has at least its number.
            let (comm, threads) = match stat {
                Some(stat) => (stat.comm, stat.threads),
                None if own.contains(&pid) => ([0; 16], 1),
                None => continue,
            };
            let tracer = procfs::tracer(pid);
            let reason = match (refused.contains(&pid), tracer) {
                (true, _) => Reason::NotPermitted,
                (false, 0) => Reason::Uninterruptible,
                (false, _) => Reason::Traced,
            };
            named.push(Survivor { pid, reason, tracer, comm });
            procfs::children(pid, threads, &mut work);
        }
        if named.is_empty() {
            named.push(UNSEEN);
        }
        named
    }
}

/// For tests that need the time in between.
fn delay(at: Step, time: Duration) {
    if sabotaged(at) {
        std::thread::sleep(time);
    }
}

/// One walk over the tree, repeated until it finds nobody new.
struct Sweep {
    signal: Signal,
    seen: HashSet<i32>,
    refused: HashSet<i32>,
    reached: u32,
}

impl Sweep {
    fn new(signal: Signal) -> Self {
        Sweep { signal, seen: HashSet::new(), refused: HashSet::new(), reached: 0 }
    }

    /// Walks the tree once; how many it had not seen before.
    fn round(&mut self, tree: &Tree) -> u32 {
        let me = std::process::id() as i32;
        let mut fresh = 0;
        let mut work: Vec<(i32, i32)> = tree.children().into_iter().map(|pid| (pid, me)).collect();
        let mut walked = HashSet::new();
        while let Some((pid, parent)) = work.pop() {
            if !walked.insert(pid) {
                continue;
            }
            delay(Step::LateVisit, Duration::from_secs(1));
            let mut found = Vec::new();
            if sabotaged(Step::KillOrder) {
                procfs::children(pid, u32::MAX, &mut found);
            }
            let Some(stat) = self.visit(pid, parent, me, &mut fresh) else { continue };
            if self.seen.len() == CROWD {
                (tree.crowd)();
            }
            delay(Step::SlowVisit, Duration::from_millis(300));
            if sabotaged(Step::ReapLast) {
                tree.reap();
            }
            if !sabotaged(Step::KillOrder) {
                procfs::children(pid, stat.threads, &mut found);
            }
            work.extend(found.into_iter().map(|child| (child, pid)));
        }
        fresh
    }

    /// Signals `pid` if it is new and still ours.
    fn visit(&mut self, pid: i32, parent: i32, me: i32, fresh: &mut u32) -> Option<procfs::Stat> {
        // A pid from a list may have been freed and given to a stranger (a
        // parent that ignores SIGCHLD reaps behind our back): hold a pidfd
        // first, then look at the parent. If the held process has ended since,
        // the signal finds nobody.
        let handle = procfs::handle(pid).ok()?;
        let stat = procfs::stat(pid);
        // Hidden from us (/proc mounted with hidepid), it can be known by its place in our own list alone: nobody
        // else reaps our children.
        let ours = stat.as_ref().map_or(parent == me, |stat| stat.parent == parent || stat.parent == me);
        if !ours && !sabotaged(Step::ParentCheck) {
            return None; // re-parented: the next round finds it below its new parent
        }
        if stat.as_ref().is_some_and(procfs::Stat::has_ended) {
            return None; // has no children any more
        }
        if self.seen.insert(pid) {
            *fresh += 1;
            if self.send(pid, &handle) == Err(Errno::SRCH) {
                return None;
            }
            // Its threads may have changed until the signal stood: read again.
            return procfs::stat(pid).or(stat);
        }
        stat
    }

    fn send(&mut self, pid: i32, handle: &OwnedFd) -> Result<(), Errno> {
        let sent = rustix::process::pidfd_send_signal(handle, self.signal);
        match sent {
            Ok(()) => self.reached += 1,
            Err(Errno::SRCH) => {}
            Err(_) => drop(self.refused.insert(pid)),
        }
        sent
    }
}
