// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! What nobody but the runtime is left to end, or to reap: cgroups whose watchdog
//! and guardian were killed, and a keeper with them; watchdogs; and, where the
//! runtime is process 1 or a subreaper, whom helpers that were killed have left
//! it as children. The reactor takes a step at a time and never waits for one.

use crate::kernel::cgroup::Leaf;
use crate::kernel::procfs;
use crate::kernel::tree::{Outcome, UNSEEN};
use crate::kernel::wire::{Reason, Survivor, SURVIVORS_MAX};
use crate::runtime::port::{lock, Port};
use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long each is fought for.
const DEADLINE: Duration = Duration::from_secs(5);

/// Between two steps at cgroups, and at first between two looks at who is to be reaped: then twice as long each time.
const PAUSE: Duration = Duration::from_millis(2);

/// The longest of those.
const LONGEST: Duration = Duration::from_secs(1);

/// So long somebody may still become our child whose parent has just ended: its sockets end before it does.
const BEQUEATHED: Duration = Duration::from_secs(1);

struct Remain {
    leaves: Vec<Leaf>,
    /// Whose tree it is; none where it is the empty directory of all.
    port: Option<Arc<Port>>,
    until: Instant,
    /// How many lived in it when it came here.
    killed: u32,
}

/// Whom to reap. A group is no other one's as long as somebody in it has not been reaped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whom {
    Process(Pid),
    Group(Pid),
}

struct Leaving {
    whom: Whom,
    since: Instant,
}

#[derive(Default)]
struct Leavings {
    all: Vec<Leaving>,
    /// How many looks have found nobody.
    looks: u32,
    next: Option<Instant>,
}

#[derive(Default)]
pub struct Remains {
    leaves: Mutex<Vec<Remain>>,
    leaving: Mutex<Leavings>,
}

impl Remains {
    /// Once for each port.
    pub fn add(&self, leaves: Vec<Leaf>, port: Option<Arc<Port>>) {
        let mut all = lock(&self.leaves);
        let same = |remain: &Remain| remain.leaves.first() == leaves.first();
        if !all.iter().any(same) {
            // A tree is in each of them as a whole.
            let killed = leaves.iter().map(|leaf| leaf.members().len() as u32).max().unwrap_or(0);
            all.push(Remain { leaves, port, until: Instant::now() + DEADLINE, killed });
        }
    }

    /// A child of the runtime's that ends by itself. Nothing comes of another's.
    pub fn reap(&self, child: Pid) {
        self.expect(Whom::Process(child));
    }

    /// As [`Self::reap`], of all in a process group that are the runtime's children, or become so soon.
    pub fn reap_group(&self, leader: Pid) {
        self.expect(Whom::Group(leader));
    }

    fn expect(&self, whom: Whom) {
        let mut leaving = lock(&self.leaving);
        if !leaving.all.iter().any(|before| before.whom == whom) {
            let since = Instant::now();
            leaving.all.push(Leaving { whom, since });
            (leaving.looks, leaving.next) = (0, Some(since + PAUSE));
        }
    }

    /// When the next step is due.
    pub fn next(&self) -> Option<Instant> {
        let cgroups = (!lock(&self.leaves).is_empty()).then(|| Instant::now() + PAUSE);
        [cgroups, lock(&self.leaving).next].into_iter().flatten().min()
    }

    /// Kills and removes, and reaps. The ports whose trees have ended, or were given up with the survivors named.
    pub fn step(&self) -> Vec<(Arc<Port>, Outcome)> {
        let now = Instant::now();
        lock(&self.leaving).look(now);
        let mut over = Vec::new();
        lock(&self.leaves).retain_mut(|remain| {
            let Remain { leaves, port, until, killed } = remain;
            leaves.retain(|leaf| {
                let ended = leaf.end(now);
                if ended && port.is_some() {
                    self.inherit(leaf);
                }
                !ended
            });
            let gone = leaves.is_empty();
            if !gone && now < *until {
                return true;
            }
            if let Some(port) = port {
                let survivors = leaves.first().map_or_else(Vec::new, survivors);
                over.push((port.clone(), Outcome { killed: *killed, survivors }));
            }
            false
        });
        over
    }

    /// Zombies of ours that a cgroup has left: their parents are gone as well.
    fn inherit(&self, leaf: &Leaf) {
        let mut children = Vec::new();
        procfs::children(std::process::id() as i32, u32::MAX, &mut children);
        for pid in children.into_iter().filter(|&pid| leaf.was_home_of(pid)) {
            Pid::from_raw(pid).into_iter().for_each(|pid| self.reap(pid));
        }
    }
}

impl Leavings {
    /// Reaps who has ended. Who is not there is waited for no longer, a while after it was expected.
    fn look(&mut self, now: Instant) {
        if self.next.is_none_or(|next| now < next) {
            return;
        }
        self.all.retain(|leaving| match leaving.whom.reap() {
            Ok(()) => true,
            // ECHILD: nobody is left, or the host ignores SIGCHLD, which reaps for it.
            Err(_) => now < leaving.since + BEQUEATHED,
        });
        let pause = PAUSE.saturating_mul(1 << self.looks.min(9)).min(LONGEST);
        self.looks += 1;
        self.next = (!self.all.is_empty()).then(|| now + pause);
    }
}

impl Whom {
    /// Takes the end of each who has one. An error where it is nobody, or nobody any more.
    fn reap(self) -> Result<(), Errno> {
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        loop {
            let found = match self {
                Whom::Process(pid) => rustix::process::waitid(WaitId::Pid(pid), ended)?,
                Whom::Group(leader) => rustix::process::waitid(WaitId::Pgid(Some(leader)), ended)?,
            };
            if found.is_none() {
                return Ok(());
            }
        }
    }
}

/// They have been sent SIGKILL, which nobody may refuse: what is left cannot be interrupted.
fn survivors(leaf: &Leaf) -> Vec<Survivor> {
    let named = leaf.members().into_iter().take(SURVIVORS_MAX).map(|pid| {
        let comm = procfs::stat(pid).map_or([0; 16], |stat| stat.comm);
        Survivor { pid, reason: Reason::Uninterruptible, tracer: 0, comm }
    });
    let named: Vec<_> = named.collect();
    // In cgroups that the child has made below it, or where it is threaded, they have no names for us.
    if named.is_empty() {
        vec![UNSEEN]
    } else {
        named
    }
}
