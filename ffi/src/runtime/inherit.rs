// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! What a child gets from the runtime, and who the runtime is: both of the
//! thread that opens it, at the call.

use crate::kernel::procfs;
use crate::kernel::sys::host::Priorities;
use crate::kernel::wire::{Attributes, Rlimit};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::cell::RefCell;

/// What of the runtime's attributes goes into a launch record.
pub struct Inherited {
    pub umask: u32,
    pub rlimits: Vec<(u64, u64)>,
    pub priorities: Priorities,
    pub oom_score_adj: i32,
    /// The process group of a runtime in its terminal's foreground: Ctrl-C must reach the child exactly once.
    pub foreground_group: Option<i32>,
}

impl Inherited {
    /// Lays over what is asked for instead, and takes it out of there.
    pub fn overlaid(mut self, asked: &mut Attributes) -> Self {
        self.umask = asked.umask.take().unwrap_or(self.umask);
        self.priorities.nice = asked.nice.take().unwrap_or(self.priorities.nice);
        self.oom_score_adj = asked.oom_score_adj.take().unwrap_or(self.oom_score_adj);
        limit(&mut self.rlimits, &std::mem::take(&mut asked.rlimits));
        // On a terminal of its own nobody else is in the foreground.
        self.foreground_group = self.foreground_group.filter(|_| asked.terminal.is_none());
        self
    }
}

/// A soft limit that nobody spoke of gives way to a hard one that somebody did.
fn limit(own: &mut [(u64, u64)], asked: &[Rlimit]) {
    for Rlimit { number, soft, hard } in asked {
        if let Some(limit) = own.get_mut(*number as usize) {
            let hard = hard.unwrap_or(limit.1);
            *limit = (soft.unwrap_or(limit.0.min(hard)), hard);
        }
    }
}

/// The runtime's rights and confinement. A helper that was started with other
/// ones must not serve it: that would be a way out of a sandbox the runtime has
/// put itself into. (A Landlock domain cannot be read back.)
pub type Identity = Vec<u8>;

const NAMESPACES: [&str; 8] =
    ["cgroup", "ipc", "mnt", "net", "pid_for_children", "time_for_children", "user", "uts"];

/// Lines of /proc/thread-self/status that make the identity.
const RIGHTS: [&[u8]; 11] = [
    b"Uid:",
    b"Gid:",
    b"Groups:",
    b"NoNewPrivs:",
    b"Seccomp:",
    b"Seccomp_filters:",
    b"CapInh:",
    b"CapPrm:",
    b"CapEff:",
    b"CapBnd:",
    b"CapAmb:",
];

/// The files of a thread in which it stands. They are kept open: each is made anew at every read from its
/// beginning, and to find and open it costs as much again.
struct Mirror {
    status: OwnedFd,
    /// None where the kernel has none.
    cgroup: Option<OwnedFd>,
    oom_score_adj: OwnedFd,
    namespaces: OwnedFd,
    /// What a security module calls this thread (AppArmor, SELinux, Smack); none without one.
    label: Option<OwnedFd>,
}

impl Mirror {
    fn of_this_thread() -> Result<Self, Errno> {
        let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let thread = rustix::fs::open("/proc/thread-self", folder, Mode::empty())?;
        let open = |name: &str, flags| rustix::fs::openat(&thread, name, flags, Mode::empty());
        let file = OFlags::RDONLY | OFlags::CLOEXEC;
        // There without a security module, too: to read it is refused then.
        let has_label = |file: &OwnedFd| procfs::read_again(file, &mut Vec::new()).is_ok();
        Ok(Mirror {
            status: open("status", file)?,
            cgroup: open("cgroup", file).ok(),
            oom_score_adj: open("oom_score_adj", file)?,
            namespaces: open("ns", folder)?,
            label: open("attr/current", file).ok().filter(has_label),
        })
    }
}

thread_local! {
    static MIRROR: RefCell<Option<Mirror>> = const { RefCell::new(None) };
}

/// Who the calling thread is, and what a child that it opens inherits.
pub fn look() -> Result<(Identity, Inherited), Errno> {
    MIRROR.with_borrow_mut(|mirror| match mirror {
        Some(mirror) => look_into(mirror),
        none => look_into(none.insert(Mirror::of_this_thread()?)),
    })
}

fn look_into(mirror: &Mirror) -> Result<(Identity, Inherited), Errno> {
    let mut text = Vec::with_capacity(4096);
    procfs::read_again(&mirror.status, &mut text)?;
    let umask = umask(&text)?;
    let mut identity = rights(&text);
    for name in NAMESPACES {
        // A kernel without this kind of namespace has nothing to tell apart.
        if let Ok(link) = rustix::fs::readlinkat(&mirror.namespaces, name, Vec::with_capacity(64)) {
            identity.extend_from_slice(link.as_bytes());
        }
    }
    if mirror.cgroup.as_ref().is_some_and(|file| procfs::read_again(file, &mut text).is_ok()) {
        identity.extend_from_slice(&text);
    }
    if mirror.label.as_ref().is_some_and(|file| procfs::read_again(file, &mut text).is_ok()) {
        identity.extend_from_slice(&text);
    }
    identity.extend_from_slice(&root()?);
    // Among others whether root by its number has rights; /proc does not show them.
    // A filter that refuses to tell them stays, and allows no change either that could be told.
    let securebits = rustix::thread::capabilities_secure_bits().map_or(u32::MAX, |bits| bits.bits());
    identity.extend_from_slice(&securebits.to_le_bytes());
    let session = rustix::process::getsid(None).map_or(0, |sid| sid.as_raw_nonzero().get());
    identity.extend_from_slice(&session.to_le_bytes());
    procfs::read_again(&mirror.oom_score_adj, &mut text)?;
    let inherited = Inherited {
        umask,
        rlimits: crate::kernel::sys::host::rlimits(),
        priorities: Priorities::of_this_thread(128),
        oom_score_adj: oom_score_adj(&text)?,
        foreground_group: foreground_group(),
    };
    Ok((identity, inherited))
}

/// What helpers have from the thread that started them, as far as more of it takes a privilege: a child can be given
/// that much. (Who has been given more since, by renice(1), prlimit(1) or choom(1), needs other helpers.)
pub struct Bounds {
    nice: i32,
    hard_limits: Vec<u64>,
    scheduler: (i32, i32),
    ioprio: i32,
    oom_score_adj: i32,
}

impl Bounds {
    pub fn of(inherited: &Inherited) -> Self {
        let Priorities { nice, scheduler, ioprio, .. } = inherited.priorities;
        let hard_limits = inherited.rlimits.iter().map(|&(_, hard)| hard).collect();
        Bounds { nice, hard_limits, scheduler, ioprio, oom_score_adj: inherited.oom_score_adj }
    }

    pub fn allow(&self, wanted: &Inherited) -> bool {
        let Priorities { nice, scheduler, ioprio, .. } = wanted.priorities;
        let usual = [libc::SCHED_OTHER, libc::SCHED_BATCH, libc::SCHED_IDLE].contains(&scheduler.0);
        let realtime = ioprio >> 13 == 1; // IOPRIO_CLASS_RT
        nice >= self.nice
            && wanted.oom_score_adj >= self.oom_score_adj
            && (usual || scheduler == self.scheduler)
            && (!realtime || ioprio == self.ioprio)
            && wanted.rlimits.iter().zip(&self.hard_limits).all(|((_, wanted), own)| wanted <= own)
    }
}

/// Which directory this thread calls `/`: chroot(2) changes nothing else.
fn root() -> Result<[u8; 24], Errno> {
    use rustix::fs::{statx, AtFlags, StatxFlags, CWD};
    let numbers = match statx(CWD, "/", AtFlags::empty(), StatxFlags::INO | StatxFlags::MNT_ID) {
        Ok(root) => {
            [rustix::fs::makedev(root.stx_dev_major, root.stx_dev_minor), root.stx_ino, root.stx_mnt_id]
        }
        // Some filters know no statx.
        Err(_) => rustix::fs::stat("/").map(|root| [root.st_dev, root.st_ino, 0])?,
    };
    let mut bytes = [0; 24];
    for (at, number) in numbers.into_iter().enumerate() {
        bytes[at * 8..][..8].copy_from_slice(&number.to_le_bytes());
    }
    Ok(bytes)
}

fn rights(status: &[u8]) -> Identity {
    let mut identity = Vec::with_capacity(2048);
    for line in status.split(|&b| b == b'\n').filter(|line| RIGHTS.iter().any(|name| line.starts_with(name)))
    {
        identity.extend_from_slice(line);
    }
    identity
}

fn umask(status: &[u8]) -> Result<u32, Errno> {
    let line = status.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"Umask:"));
    let octal = line.and_then(|text| std::str::from_utf8(text).ok());
    octal.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).ok_or(Errno::NOTSUP)
}

fn oom_score_adj(text: &[u8]) -> Result<i32, Errno> {
    std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok()).ok_or(Errno::PROTO)
}

/// The group of a runtime that stands in its terminal's foreground. Without a
/// controlling terminal there is no /dev/tty to open (ENXIO).
fn foreground_group() -> Option<i32> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let terminal = rustix::fs::open("/dev/tty", flags, Mode::empty()).ok()?;
    let foreground = rustix::termios::tcgetpgrp(&terminal).ok()?;
    (foreground == rustix::process::getpgrp()).then(|| foreground.as_raw_nonzero().get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_nobody_spoke_of_is_the_runtimes_own() {
        let mut own = [(10, 20), (30, 40), (50, u64::MAX)];
        let asked = [
            Rlimit { number: 0, soft: None, hard: Some(5) },
            Rlimit { number: 2, soft: Some(7), hard: None },
            Rlimit { number: 9, soft: Some(1), hard: Some(1) },
        ];
        limit(&mut own, &asked);
        assert_eq!(own, [(5, 5), (30, 40), (7, u64::MAX)]);
    }
}
