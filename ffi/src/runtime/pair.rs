// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! A watchdog and its guardian, as the runtime sees them, and how they are started.

use crate::kernel::cgroup::Base;
use crate::kernel::sabotage::{fault, sabotaged, Step};
use crate::kernel::socket;
use crate::kernel::sys::host;
use crate::kernel::wire::Stage;
use crate::runtime::environment::errno_of;
use crate::runtime::inherit::{Bounds, Identity};
use crate::runtime::pipe;
use crate::runtime::port::{lock, Outlet};
use crate::runtime::silence::Silence;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{pidfd_send_signal, Pid, PidfdFlags, Signal};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

pub struct Pair {
    pub id: u32,
    /// Of the thread that started it.
    pub identity: Identity,
    pub bounds: Bounds,
    pub requests: Mutex<Outlet>,
    /// Its end says to the watchdog that we are gone, or to us that the watchdog is.
    pub watch: OwnedFd,
    pub watchdog: Pid,
    /// None where a filter refuses pidfds (containers that are older than Linux 5.3).
    pidfd: Option<OwnedFd>,
    /// What ends with this process where it has no pidfd of its own to hand to its helpers.
    _life: Option<OwnedFd>,
    pub guardian: Mutex<Option<OwnedFd>>,
    pub silence: Mutex<Silence>,
    /// Below which its ports' cgroups stand, where they have any.
    pub base: OnceLock<Base>,
    pub watchdog_gone: AtomicBool,
    /// The watchdog has said, last of all, that nothing of theirs is left.
    pub proven: AtomicBool,
    pub guardian_gone: AtomicBool,
    /// New ports go here.
    pub current: AtomicBool,
    pub ports: AtomicUsize,
}

/// The library's own file, opened when it is first needed: a later one at the same path must not be started.
fn library() -> Result<&'static OwnedFd, Errno> {
    static FILE: OnceLock<Result<OwnedFd, Errno>> = OnceLock::new();
    let open = || {
        let path = host::own_file().ok_or(Errno::NOENT)?;
        let file = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        if is_mapped(stat.st_dev, stat.st_ino) {
            Ok(file)
        } else {
            Err(Errno::STALE)
        }
    };
    FILE.get_or_init(open).as_ref().map_err(|errno| *errno)
}

/// To be called when the library is loaded.
pub fn open_library() {
    let _ = library(); // told when the first guardian is started
}

/// Whether this file is mapped into this process: versions cannot drift.
fn is_mapped(device: u64, inode: u64) -> bool {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let wanted = format!(" {major:02x}:{minor:02x} {inode} ");
    let mut maps = Vec::new();
    let read = crate::kernel::procfs::read("/proc/self/maps", &mut maps);
    // Where the host hides its maps, or its file system shows other device numbers in them, the path is trusted.
    if read.is_err() {
        return true;
    }
    let maps = String::from_utf8_lossy(&maps);
    let name = host::own_file().unwrap_or_default();
    let mut lines = maps.lines().filter(|line| line.ends_with(&*name.to_string_lossy())).peekable();
    lines.peek().is_none() || lines.any(|line| line.contains(&wanted))
}

/// The dynamic loader: the one this program names, else the one it has mapped.
fn loader() -> Result<PathBuf, Errno> {
    let program = std::fs::File::open("/proc/self/exe").map_err(|error| errno_of(&error))?;
    match interpreter(&program) {
        Some(path) => Ok(path),
        None => mapped_loader()?.ok_or(Errno::LIBACC),
    }
}

/// PT_INTERP of a 64-bit little-endian ELF file.
fn interpreter(file: &std::fs::File) -> Option<PathBuf> {
    use std::os::unix::fs::FileExt;
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0).ok()?;
    if header[..5] != *b"\x7fELF\x02" {
        return None;
    }
    let u64_at = |bytes: &[u8], at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let table = u64_at(&header, 32)?;
    let count = u16::from_le_bytes([header[56], header[57]]);
    for i in 0..u64::from(count) {
        let mut entry = [0; 56];
        file.read_exact_at(&mut entry, table + i * 56).ok()?;
        if entry[..4] == [3, 0, 0, 0] {
            let length = usize::try_from(u64_at(&entry, 32)?).ok().filter(|&n| n <= 4096)?;
            let mut text = vec![0; length];
            file.read_exact_at(&mut text, u64_at(&entry, 8)?).ok()?;
            let end = text.iter().position(|&b| b == 0)?;
            return Some(PathBuf::from(std::ffi::OsStr::from_bytes(&text[..end])));
        }
    }
    None
}

/// After an upgrade of libc the maps call it "... (deleted)"; its path still leads to a loader.
fn mapped_loader() -> Result<Option<PathBuf>, Errno> {
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(|error| errno_of(&error))?;
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
    let mut paths = paths.map(|path| path.strip_suffix(" (deleted)").unwrap_or(path));
    let is_loader = |path: &&str| path.rsplit('/').next().is_some_and(|name| name.starts_with("ld-"));
    Ok(paths.find(is_loader).map(PathBuf::from))
}

fn text(bytes: &[u8]) -> Result<CString, Errno> {
    CString::new(bytes).map_err(|_| Errno::INVAL)
}

impl Pair {
    /// Starts a pair from the calling thread, whose confinement it inherits:
    /// the library through the dynamic loader, with what guard/watchdog.rs expects.
    /// A watchdog that is of no use goes to `give_up`; it sees that its sockets are closed.
    pub fn start(id: u32, who: (Identity, Bounds), give_up: impl Fn(Pid)) -> Result<Pair, (Stage, Errno)> {
        Self::try_start(id, who, give_up).map_err(|errno| (Stage::Guardian, errno))
    }

    fn try_start(
        id: u32,
        (identity, bounds): (Identity, Bounds),
        give_up: impl Fn(Pid),
    ) -> Result<Pair, Errno> {
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(|e| errno_of(&e));
        let null = fault("null").and_then(|()| pipe::null_to_read())?; // they write nothing to it
        let (requests, far) = fault("guardian-socket").and_then(|()| socket::pair())?;
        // Before the first request: what is sent earlier would carry no sender.
        socket::tell_senders(&far)?;
        let (watch, end) = socket::pair()?;
        fault("own-pidfd")?;
        let whose = if sabotaged(Step::RuntimePidfd) { Pid::INIT } else { rustix::process::getpid() };
        let (own, life) = match pidfd(whose)? {
            Some(own) => (own, None),
            None => socket::pair().map(|(near, far)| (far, Some(near)))?,
        };
        let fds = [copy(&null)?, copy(&null)?, null, far, end, copy(library()?)?, own];
        let loader = text(loader()?.as_os_str().as_bytes())?;
        let pid = std::process::id().to_string();
        let arguments = [
            c"proton-watchdog".to_owned(),
            c"/proc/self/fd/5".to_owned(),
            c"for".to_owned(),
            text(pid.as_bytes())?,
        ];
        let pid = host::spawn(&loader, &arguments, &fds)?;
        let pid = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
        let pidfd = fault("watchdog-pidfd").and_then(|()| pidfd(pid)).inspect_err(|_| give_up(pid))?;
        Ok(Pair {
            id,
            identity,
            bounds,
            requests: Mutex::new(Outlet::counted(requests)),
            watch,
            watchdog: pid,
            pidfd,
            _life: life,
            guardian: Mutex::new(None),
            silence: Mutex::default(),
            base: OnceLock::new(),
            watchdog_gone: AtomicBool::new(false),
            proven: AtomicBool::new(false),
            guardian_gone: AtomicBool::new(false),
            current: AtomicBool::new(true),
            ports: AtomicUsize::new(0),
        })
    }
}

/// A process's pidfd; none where a filter refuses them.
fn pidfd(pid: Pid) -> Result<Option<OwnedFd>, Errno> {
    match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::NOSYS | Errno::PERM) => Ok(None),
        other => other.map(Some),
    }
}

impl Pair {
    /// Readable, or hung up, once the watchdog has ended.
    pub fn watchdog_end(&self) -> BorrowedFd<'_> {
        self.pidfd.as_ref().unwrap_or(&self.watch).as_fd()
    }

    /// Takes the watchdog's last word, where it came as far as that.
    pub fn hear_watchdog(&self) {
        let mut word = [0; 8];
        if matches!(socket::receive(&self.watch, &mut word), Ok(Some(_))) {
            self.proven.store(true, Ordering::Release);
        }
    }

    /// Lets both go on, should somebody have stopped them.
    pub fn go_on(&self) {
        let guardian = lock(&self.guardian);
        for helper in self.pidfd.iter().chain(guardian.iter()) {
            let _ = pidfd_send_signal(helper, Signal::CONT); // one that we may not signal goes on when it may
        }
    }

    /// False where it is not known yet, or not ours to signal.
    pub fn kill_guardian(&self) -> bool {
        lock(&self.guardian)
            .as_ref()
            .is_some_and(|guardian| pidfd_send_signal(guardian, Signal::KILL).is_ok())
    }

    /// Neither of the two is there any more.
    pub fn is_gone(&self) -> bool {
        self.watchdog_gone.load(Ordering::Acquire) && self.guardian_gone.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_of_this_program_is_found_both_ways() {
        let program = std::fs::File::open("/proc/self/exe").expect("it is there");
        assert!(interpreter(&program).is_some_and(|path| path.exists()), "by PT_INTERP");
        assert!(mapped_loader().is_ok_and(|path| path.is_some_and(|path| path.exists())), "by the maps");
    }
}
