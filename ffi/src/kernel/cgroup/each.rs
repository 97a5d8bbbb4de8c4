// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! The end of everybody in a cgroup where the kernel has no `cgroup.kill`
//! (Linux before 5.14): it is frozen, so that nobody forks, and each is sent
//! SIGKILL, which reaches who is frozen, too. (Kernel documentation,
//! admin-guide/cgroup-v2.rst: `cgroup.freeze`, Linux 5.2.) Other than
//! `cgroup.kill` this asks for the right to signal each of them.

use super::{below, Leaf};
use crate::kernel::procfs;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use std::time::{Duration, Instant};

/// How long everybody may take to freeze: who is in the kernel does it on the way out.
const FREEZE: Duration = Duration::from_millis(20);

/// One round, which those may outlive who could not be frozen meanwhile.
pub fn kill(leaf: &Leaf) -> Result<(), Errno> {
    let freezer = leaf.file("cgroup.freeze", OFlags::WRONLY)?;
    rustix::io::write(&freezer, b"1")?;
    let until = Instant::now() + FREEZE;
    while !is_frozen(leaf)? && Instant::now() < until {
        std::thread::sleep(Duration::from_micros(200));
    }
    let killed = signal_all(&leaf.path);
    // On every path: whoever could not be killed would stand still for ever.
    rustix::io::write(&freezer, b"0").and(killed)
}

fn is_frozen(leaf: &Leaf) -> Result<bool, Errno> {
    let mut text = Vec::new();
    procfs::read(&format!("{}/cgroup.events", leaf.path), &mut text)?;
    Ok(text.split(|&b| b == b'\n').any(|line| line == b"frozen 1"))
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
