// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! The end of everybody in a cgroup where the kernel has no `cgroup.kill`
//! (v1, and Linux before 5.14): it is frozen, so that nobody forks, each is
//! sent SIGKILL, and it is let go on, which in v1 they only then die of.
//! (Kernel documentation, admin-guide/cgroup-v2.rst: `cgroup.freeze`, Linux 5.2;
//! admin-guide/cgroup-v1/freezer-subsystem.rst.) In a hierarchy of v1 without
//! the freezer each is signalled all the same, and again. Other than
//! `cgroup.kill` this asks for the right to signal each of them.

use super::{below, Leaf};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use std::time::Duration;

/// How long everybody may take to freeze: who is in the kernel does it on the way out.
const FREEZE: Duration = Duration::from_millis(20);

/// On every path: whoever could not be killed would stand still for ever, and in v1 nobody who is frozen dies.
struct Thaw<'a>(&'a Leaf);

impl Drop for Thaw<'_> {
    fn drop(&mut self) {
        let _ = self.0.thaw(); // it is gone
    }
}

/// One round, which those may outlive who could not be frozen meanwhile.
pub fn kill(leaf: &Leaf) -> Result<(), Errno> {
    let _thaw = leaf.can_freeze().then(|| Thaw(leaf));
    if leaf.can_freeze() {
        match leaf.freeze(FREEZE) {
            Ok(()) | Err(Errno::TIMEDOUT) => {}
            Err(errno) => return Err(errno), // Linux before 5.2
        }
    }
    signal_all(&leaf.path)
}

/// Everybody here and below is tried; the last refusal is told.
fn signal_all(top: &str) -> Result<(), Errno> {
    let mut told = Ok(());
    let mut work = vec![top.to_owned()];
    while let Some(path) = work.pop() {
        let leaf = Leaf::at(path);
        for pid in leaf.members() {
            told = signal(&leaf, pid).and(told);
        }
        match leaf.open().and_then(|directory| below(directory, usize::MAX)) {
            Ok(names) => {
                let names = names.iter().filter_map(|name| name.to_str().ok());
                work.extend(names.map(|name| format!("{}/{name}", leaf.path)));
            }
            Err(Errno::NOENT | Errno::NODEV) => {} // removed meanwhile
            Err(errno) => told = Err(errno),
        }
    }
    told
}

/// Who has ended frees its pid, for anybody: it is signalled by a pidfd, once it is known that this is of one in here.
fn signal(leaf: &Leaf, pid: i32) -> Result<(), Errno> {
    let one = Pid::from_raw(pid).ok_or(Errno::SRCH)?; // 0: it is in a PID namespace beside ours
    let pidfd = match rustix::process::pidfd_open(one, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(()),
        other => other?,
    };
    if !leaf.members().contains(&pid) {
        return Ok(());
    }
    match rustix::process::pidfd_send_signal(pidfd, Signal::KILL) {
        Err(Errno::SRCH) => Ok(()),
        other => other,
    }
}
