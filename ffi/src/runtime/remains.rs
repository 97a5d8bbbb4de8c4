// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! What nobody but the runtime is left to end: cgroups whose watchdog and
//! guardian were killed, and a keeper with them, and watchdogs that leave before
//! they were of use. The reactor takes a step at a time and never waits for one.

use crate::kernel::cgroup::Leaf;
use crate::kernel::procfs;
use crate::kernel::tree::{Outcome, UNSEEN};
use crate::kernel::wire::{Reason, Survivor, SURVIVORS_MAX};
use crate::runtime::port::{lock, Port};
use rustix::process::{Pid, WaitId, WaitIdOptions};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long each is fought for.
const DEADLINE: Duration = Duration::from_secs(5);

/// Between two steps.
const PAUSE: Duration = Duration::from_millis(2);

struct Remain {
    leaves: Vec<Leaf>,
    /// Whose tree it is; none where it is the empty directory of all.
    port: Option<Arc<Port>>,
    until: Instant,
    /// How many lived in it when it came here.
    killed: u32,
}

#[derive(Default)]
pub struct Remains {
    leaves: Mutex<Vec<Remain>>,
    leaving: Mutex<Vec<Pid>>,
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
        let mut leaving = lock(&self.leaving);
        if !leaving.contains(&child) {
            leaving.push(child);
        }
    }

    /// When the next step is due.
    pub fn next(&self) -> Option<Instant> {
        let none = lock(&self.leaves).is_empty() && lock(&self.leaving).is_empty();
        (!none).then(|| Instant::now() + PAUSE)
    }

    /// Kills and removes, and reaps. The ports whose trees have ended, or were given up with the survivors named, and
    /// whether somebody was reaped, or turned out to be another's.
    pub fn step(&self) -> (Vec<(Arc<Port>, Outcome)>, bool) {
        let now = Instant::now();
        let mut over = Vec::new();
        // ECHILD: the host ignores SIGCHLD, which reaps for it.
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let lives = |&pid: &Pid| matches!(rustix::process::waitid(WaitId::Pid(pid), ended), Ok(None));
        let mut leaving = lock(&self.leaving);
        let before = leaving.len();
        leaving.retain(lives);
        let reaped = leaving.len() < before;
        drop(leaving);
        lock(&self.leaves).retain_mut(|remain| {
            remain.leaves.retain(|leaf| !leaf.end(now));
            let gone = remain.leaves.is_empty();
            if !gone && now < remain.until {
                return true;
            }
            if let Some(port) = &remain.port {
                let survivors = remain.leaves.first().map_or_else(Vec::new, survivors);
                over.push((port.clone(), Outcome { killed: remain.killed, survivors }));
            }
            false
        });
        (over, reaped)
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
