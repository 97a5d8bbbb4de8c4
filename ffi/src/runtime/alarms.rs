// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! What the kernel tells of a tree's limits while it runs: changes of files
//! that count, by inotify(7); v1's memory, by an eventfd; pressure, by a
//! trigger. Nobody polls. How much has happened is read from the files then.

use crate::kernel::cgroup::{file, Leaf};
use crate::kernel::wire::plan::Version;
use rustix::event::{eventfd, EventfdFlags};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Files whose counters the kernel tells of, in either version. (v1's pids.events is an exception from Linux 6.11 on:
/// pids_event() notifies events_local there, which v1 has no file for, and the counter is found at another alarm or at
/// the end. kernel/cgroup/pids.c.)
const COUNTERS: [&str; 2] = ["memory.events", "pids.events"];

/// A tenth of a second of two in which somebody waited for memory. Without privileges windows are whole multiples of
/// two seconds. (Kernel documentation, accounting/psi.rst.)
const TRIGGER: &str = "some 200000 2000000";

/// One port's.
#[derive(Default)]
pub struct Alarms {
    /// Readable where one of its files has changed.
    pub changes: Option<OwnedFd>,
    /// v1's memory: readable at each lack of it, and when its cgroup is removed.
    pub memory: Option<OwnedFd>,
    /// Has something urgent to say while memory is under pressure.
    pub pressure: Option<OwnedFd>,
}

impl Alarms {
    /// Sets them for what is there; what a host cannot tell stays silent.
    pub fn set(leaves: &[Leaf]) -> Result<Alarms, Errno> {
        let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let mut any = false;
        let mut alarms = Alarms::default();
        for leaf in leaves {
            for name in COUNTERS {
                let path = format!("{}/{name}", leaf.path);
                any |= inotify::add_watch(&changes, path, WatchFlags::MODIFY).is_ok();
            }
            match leaf.version() {
                Version::Two => alarms.pressure = trigger(leaf).ok(),
                _ => alarms.memory = alarms.memory.or_else(|| memory(leaf).ok()),
            }
        }
        alarms.changes = any.then_some(changes);
        Ok(alarms)
    }
}

/// (Kernel documentation, admin-guide/cgroup-v1/memory.rst, 10. OOM Control.)
fn memory(leaf: &Leaf) -> Result<OwnedFd, Errno> {
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let path = format!("{}/memory.oom_control", leaf.path);
    let control = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let words = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
    file::write(&format!("{}/cgroup.event_control", leaf.path), &words)?;
    Ok(event)
}

fn trigger(leaf: &Leaf) -> Result<OwnedFd, Errno> {
    let path = format!("{}/memory.pressure", leaf.path);
    let file = rustix::fs::open(path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, format!("{TRIGGER}\0").as_bytes())?;
    Ok(file)
}

/// Takes what [`Alarms::changes`] or [`Alarms::memory`] have said: only that it was said is of use.
pub fn drain(fd: &OwnedFd) {
    let mut buffer = [0; 512];
    while matches!(rustix::io::read(fd, &mut buffer), Ok(n) if n > 0) {}
}
