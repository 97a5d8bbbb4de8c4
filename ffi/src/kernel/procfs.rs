// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! What /proc says of a process: its state, its parent, its children.
//! (proc_pid_stat(5), proc_tid_children(5).) Whatever has just ended reads as
//! absent, which is no error here.

use crate::kernel::sabotage::{sabotaged, Step};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use std::mem::MaybeUninit;
use std::sync::OnceLock;

/// A line of /proc/PID/stat, as far as it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    pub comm: [u8; 16],
    pub state: u8,
    pub parent: i32,
    pub threads: u32,
    /// Clock ticks from the boot to its start: with the pid, a name that is never used again.
    pub started: u64,
}

impl Stat {
    /// Nothing of it runs any more: a zombie without living threads.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X') && self.threads <= 1
    }
}

/// Reads a whole small file, emptying `into` first.
pub fn read(path: &str, into: &mut Vec<u8>) -> Result<(), Errno> {
    read_again(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?, into)
}

/// As [`read`], of a file that is open: from its beginning, where /proc makes it anew.
pub fn read_again(file: impl AsFd, into: &mut Vec<u8>) -> Result<(), Errno> {
    into.clear();
    loop {
        let have = into.len();
        into.resize(have + 2048, 0);
        let got = rustix::io::retry_on_intr(|| rustix::io::pread(&file, &mut into[have..], have as u64))?;
        into.truncate(have + got);
        if got == 0 {
            return Ok(());
        }
    }
}

/// The state of `pid`; `None` when it is gone.
pub fn stat(pid: i32) -> Option<Stat> {
    let mut text = Vec::new();
    read(&format!("/proc/{pid}/stat"), &mut text).ok()?;
    parse_stat(&text)
}

/// The name stands in parentheses and may hold any byte, parentheses too: the last one ends it.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let open = text.iter().position(|&b| b == b'(')?;
    let close = text.iter().rposition(|&b| b == b')')?;
    let name = text.get(open + 1..close)?;
    let mut comm = [0; 16];
    let n = name.len().min(15);
    comm[..n].copy_from_slice(&name[..n]);
    let mut fields = text.get(close + 1..)?.split(|&b| b == b' ').filter(|f| !f.is_empty());
    let state = *fields.next()?.first()?;
    let parent = number(fields.next()?)?;
    let threads = number(fields.nth(15)?)? as u32; // field 20; 5 is next
    let started = std::str::from_utf8(fields.nth(1)?).ok()?.trim().parse().ok()?; // field 22
    Some(Stat { comm, state, parent, threads, started })
}

fn number(text: &[u8]) -> Option<i32> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

/// The process behind a pidfd, -1 once it has been reaped; `None` where this is no pidfd.
pub fn pid_of(pidfd: impl AsFd) -> Option<i32> {
    let mut text = Vec::new();
    read(&format!("/proc/self/fdinfo/{}", pidfd.as_fd().as_raw_fd()), &mut text).ok()?;
    let line = text.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"Pid:"));
    line.and_then(number)
}

/// What means this process and never a later one of the same number, to be
/// signalled by: its pidfd, or where a filter refuses those (containers that
/// are older than Linux 5.3), its folder, which pidfd_send_signal(2) takes too.
pub fn handle(pid: i32) -> Result<OwnedFd, Errno> {
    let pid = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
    match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::NOSYS | Errno::PERM) => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(format!("/proc/{}", pid.as_raw_nonzero()), flags, Mode::empty())
        }
        other => other,
    }
}

/// Who traces `pid`; 0 for nobody.
pub fn tracer(pid: i32) -> i32 {
    let mut text = Vec::new();
    if read(&format!("/proc/{pid}/status"), &mut text).is_err() {
        return 0;
    }
    let line = text.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"TracerPid:"));
    line.and_then(number).unwrap_or(0)
}

/// Whether this kernel lists children (CONFIG_PROC_CHILDREN). Helpers ask before they fork: what each wrote for itself
/// would be a page of its own.
pub fn lists_children() -> bool {
    static LISTS: OnceLock<bool> = OnceLock::new();
    *LISTS
        .get_or_init(|| rustix::fs::access("/proc/thread-self/children", rustix::fs::Access::EXISTS).is_ok())
}

/// Appends the children of all tasks of `pid`. Reading only the main thread's
/// list would miss what other threads have forked.
pub fn children(pid: i32, threads: u32, into: &mut Vec<i32>) {
    if !lists_children() {
        return children_by_parent(pid, into);
    }
    if threads <= 1 || sabotaged(Step::Threads) {
        return children_of_task(pid, pid, into);
    }
    children_of_tasks(pid, into);
}

/// Never inlined: each keeper's stack would hold its buffer.
#[inline(never)]
fn children_of_tasks(pid: i32, into: &mut Vec<i32>) {
    let Ok(tasks) = rustix::fs::open(
        format!("/proc/{pid}/task"),
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    ) else {
        return; // ended
    };
    let mut space = [MaybeUninit::uninit(); 2048];
    let mut entries = RawDir::new(tasks, &mut space);
    while let Some(Ok(entry)) = entries.next() {
        if let Some(tid) = number(entry.file_name().to_bytes()) {
            children_of_task(pid, tid, into);
        }
    }
}

fn children_of_task(pid: i32, tid: i32, into: &mut Vec<i32>) {
    let mut text = Vec::new();
    if read(&format!("/proc/{pid}/task/{tid}/children"), &mut text).is_ok() {
        into.extend(text.split(|&b| b == b' ').filter_map(number));
    }
}

/// The same from every process's word on its parent: slower, and the only way without the lists.
/// Never inlined: each keeper's stack would hold its buffer.
#[inline(never)]
fn children_by_parent(parent: i32, into: &mut Vec<i32>) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(all) = rustix::fs::open("/proc", flags, Mode::empty()) else { return };
    let mut space = [MaybeUninit::uninit(); 8192];
    let mut entries = RawDir::new(all, &mut space);
    while let Some(Ok(entry)) = entries.next() {
        let Some(pid) = number(entry.file_name().to_bytes()) else { continue };
        if stat(pid).is_some_and(|stat| stat.parent == parent) {
            into.push(pid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let line = b"42 (a) b (c) S 7 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 3 0 100 0 0";
        let stat = parse_stat(line).expect("a stat line");
        assert_eq!((stat.state, stat.parent, stat.threads, stat.started), (b'S', 7, 3, 100));
        assert!(stat.comm.starts_with(b"a) b (c\0"));
    }

    #[test]
    fn a_zombie_leader_with_living_threads_has_not_ended() {
        let of = |state, threads| Stat { comm: [0; 16], state, parent: 1, threads, started: 1 };
        assert!(of(b'Z', 1).has_ended());
        assert!(!of(b'Z', 2).has_ended());
        assert!(!of(b'S', 1).has_ended());
    }

    #[test]
    fn a_pidfd_tells_its_process_until_it_is_reaped_and_nothing_else_does() {
        let mut child = std::process::Command::new("true").spawn().expect("it starts");
        let pid = child.id() as i32;
        let pidfd = handle(pid).expect("a pidfd");
        assert_eq!(pid_of(&pidfd), Some(pid));
        child.wait().expect("it is reaped");
        assert_eq!(pid_of(&pidfd), Some(-1));
        assert_eq!(pid_of(rustix::stdio::stdin()), None);
    }

    #[test]
    fn nonsense_is_absent() {
        for text in [&b""[..], b"1", b"1 (", b"1 (x", b")(", b"1 (x) ", b"1 (x) S y"] {
            assert_eq!(parse_stat(text), None);
        }
    }

    #[test]
    fn children_of_every_thread_are_found() {
        let mut child = std::thread::spawn(|| {
            std::process::Command::new("sleep").arg("60").spawn().expect("sleep starts")
        })
        .join()
        .expect("the thread ends");
        // The thread that forked has ended, so the child is another task's now.
        let me = std::process::id() as i32;
        for list in [|me, found: &mut _| children(me, 2, found), children_by_parent] {
            let mut found = Vec::new();
            list(me, &mut found);
            assert!(found.contains(&(child.id() as i32)));
        }
        child.kill().expect("it can be killed");
        child.wait().expect("it is reaped");
    }
}
