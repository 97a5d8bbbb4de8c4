// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! What a child gets from the runtime, and who the runtime is: both of the
//! thread that opens it, at the call.

use crate::kernel::procfs;
use crate::kernel::sys::host::Priorities;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// What of the runtime's attributes goes into a launch record.
pub struct Inherited {
    pub umask: u32,
    pub rlimits: Vec<(u64, u64)>,
    pub priorities: Priorities,
    pub oom_score_adj: i32,
    /// The process group of a runtime in its terminal's foreground: Ctrl-C must reach the child exactly once.
    pub foreground_group: Option<i32>,
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

fn status() -> Result<Vec<u8>, Errno> {
    let mut text = Vec::new();
    procfs::read("/proc/thread-self/status", &mut text)?;
    Ok(text)
}

/// Who the calling thread is.
pub fn identity() -> Result<Identity, Errno> {
    let status = status()?;
    let mut identity = Vec::with_capacity(1024);
    for line in status.split(|&b| b == b'\n').filter(|line| RIGHTS.iter().any(|name| line.starts_with(name)))
    {
        identity.extend_from_slice(line);
    }
    for name in NAMESPACES {
        // A kernel without this kind of namespace has nothing to tell apart.
        if let Ok(link) = rustix::fs::readlink(format!("/proc/thread-self/ns/{name}"), Vec::new()) {
            identity.extend_from_slice(link.as_bytes());
        }
    }
    let mut text = Vec::new();
    if procfs::read("/proc/thread-self/cgroup", &mut text).is_ok() {
        identity.extend_from_slice(&text);
    }
    let session = rustix::process::getsid(None).map_or(0, |sid| sid.as_raw_nonzero().get());
    identity.extend_from_slice(&session.to_le_bytes());
    Ok(identity)
}

/// What a child opened by the calling thread inherits.
pub fn inherited() -> Result<Inherited, Errno> {
    let status = status()?;
    let line = status.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"Umask:"));
    let octal = line.and_then(|text| std::str::from_utf8(text).ok());
    let umask = octal.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).ok_or(Errno::NOTSUP)?;
    Ok(Inherited {
        umask,
        rlimits: crate::kernel::sys::host::rlimits(),
        priorities: Priorities::of_this_thread(128),
        oom_score_adj: oom_score_adj()?,
        foreground_group: foreground_group(),
    })
}

fn oom_score_adj() -> Result<i32, Errno> {
    let mut text = Vec::new();
    procfs::read("/proc/self/oom_score_adj", &mut text)?;
    std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok()).ok_or(Errno::PROTO)
}

/// Fields 5, 7 and 8 of /proc/self/stat: group, terminal, the terminal's foreground group.
fn foreground_group() -> Option<i32> {
    let mut text = Vec::new();
    procfs::read("/proc/self/stat", &mut text).ok()?;
    let close = text.iter().rposition(|&b| b == b')')?;
    let rest = std::str::from_utf8(&text[close + 1..]).ok()?;
    let field = |n: usize| rest.split_ascii_whitespace().nth(n)?.parse::<i32>().ok();
    let (group, terminal, foreground) = (field(2)?, field(4)?, field(5)?);
    (terminal != 0 && foreground == group).then_some(group)
}

/// The runtime's directory, or the one asked for, as it is now.
pub fn open_directory(path: &std::path::Path) -> Result<rustix::fd::OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}
