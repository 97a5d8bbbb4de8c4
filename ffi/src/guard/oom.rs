// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! oom_score_adj is one value for all who share memory, the child before its
//! exec included: a keeper lends it the runtime's. It takes its own back when it
//! has been quiet for a moment, not for the time between two starts.

use rustix::io::Errno;
use rustix::process::DumpableBehavior;
use std::sync::atomic::{AtomicI32, Ordering};

const FILE: &str = "/proc/self/oom_score_adj";

/// What helpers ask for: among the last to be chosen, but not immune.
const LOW: i32 = -900;

/// What helpers have; keepers get it with the memory of their guardian.
static OWN: AtomicI32 = AtomicI32::new(0);

/// What this helper has at this moment.
static NOW: AtomicI32 = AtomicI32::new(0);

/// Takes what helpers have where that is allowed: as a rule to root only.
pub fn lower() {
    let _ = set(LOW); // refused without CAP_SYS_RESOURCE
    let own = current().unwrap_or(0);
    OWN.store(own, Ordering::Relaxed);
    NOW.store(own, Ordering::Relaxed);
}

/// After it has been lent: a process may always go back to where it was started.
pub fn take_back() {
    if is_lent() && set(OWN.load(Ordering::Relaxed)).is_ok() {
        NOW.store(OWN.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// Takes the child's value.
pub fn lend(value: i32) -> Result<(), Errno> {
    if NOW.load(Ordering::Relaxed) != value {
        set(value)?;
        NOW.store(value, Ordering::Relaxed);
    }
    Ok(())
}

pub fn is_lent() -> bool {
    NOW.load(Ordering::Relaxed) != OWN.load(Ordering::Relaxed)
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
