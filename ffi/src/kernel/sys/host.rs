// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Raw calls that read what a child is to inherit from the thread that opens it.

use std::ffi::c_int;

/// Priorities of the calling thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Priorities {
    pub nice: i32,
    /// sched_setaffinity(2)'s mask.
    pub affinity: Vec<u8>,
    /// Policy and priority, as sched_setscheduler(2) takes them.
    pub scheduler: (i32, i32),
    pub ioprio: i32,
}

const IOPRIO_WHO_PROCESS: c_int = 1;

impl Priorities {
    /// `mask_bytes`: how long a mask to ask for; the kernel says EINVAL to one that is too short.
    pub fn of_this_thread(mask_bytes: usize) -> Self {
        let mut parameter = libc::sched_param { sched_priority: 0 };
        // SAFETY: reads one attribute of this thread.
        let policy = unsafe { libc::sched_getscheduler(0) };
        // SAFETY: `parameter` is ours and outlives the call.
        unsafe { libc::sched_getparam(0, &raw mut parameter) };
        // SAFETY: three integers; reads one attribute of this thread.
        let ioprio = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) };
        let nice = rustix::process::getpriority_process(None).unwrap_or(0);
        Priorities {
            nice,
            affinity: affinity(mask_bytes),
            scheduler: (policy, parameter.sched_priority),
            ioprio: ioprio.max(0) as i32,
        }
    }
}

/// The raw call and not libc's, which knows 1,024 processors only.
fn affinity(mask_bytes: usize) -> Vec<u8> {
    let mut mask = vec![0_u8; mask_bytes.max(128).next_multiple_of(8)];
    // SAFETY: `mask` is ours, has the length that is said and outlives the call.
    let got = unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, mask.len(), mask.as_mut_ptr()) };
    mask.truncate(got.max(0) as usize);
    mask
}
