// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! oom_score_adj is one value for all who share memory, the child before its
//! exec included: a keeper lends it the runtime's and takes its own back after.

use rustix::io::Errno;
use rustix::process::DumpableBehavior;
use std::sync::atomic::{AtomicI32, Ordering};

const FILE: &str = "/proc/self/oom_score_adj";

/// What helpers ask for: among the last to be chosen, but not immune.
const LOW: i32 = -900;

/// What this helper has; keepers get it with the memory of their guardian.
static OWN: AtomicI32 = AtomicI32::new(0);

/// Takes what helpers have where that is allowed: as a rule to root only.
pub fn lower() {
    let _ = set(LOW); // refused without CAP_SYS_RESOURCE
    OWN.store(current().unwrap_or(0), Ordering::Relaxed);
}

/// After it has been lent. Who may not go as low as helpers should goes back to what it had.
pub fn take_back() {
    let own = OWN.load(Ordering::Relaxed);
    let _ = set(LOW).or_else(|_| set(own)); // a process may always go back to where it was started
    OWN.store(current().unwrap_or(own), Ordering::Relaxed);
}

/// Sets the child's value, true where ours is another.
pub fn lend(value: i32) -> Result<bool, Errno> {
    if OWN.load(Ordering::Relaxed) == value {
        return Ok(false);
    }
    set(value).map(|()| true)
}

fn current() -> Option<i32> {
    let mut text = Vec::new();
    crate::kernel::procfs::read(FILE, &mut text).ok()?;
    std::str::from_utf8(&text).ok()?.trim().parse().ok()
}

/// The files of a process that is not dumpable are root's: an unprivileged keeper opens its own for a moment.
fn set(value: i32) -> Result<(), Errno> {
    let open = || {
        use rustix::fs::{Mode, OFlags};
        rustix::fs::open(FILE, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
    };
    let file = open().or_else(|_| {
        rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?;
        let file = open();
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        file
    })?;
    rustix::io::write(&file, value.to_string().as_bytes()).map(drop)
}
