// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Where the cgroups of a guardian's children stand: below the runtime's own,
//! in a directory named for the runtime, proven by use before anybody relies on
//! it. Nobody is moved, and nothing of others is touched but what a runtime
//! that is gone has left behind.

use crate::kernel::cgroup::{self, Absent, Base, Leaf, Way};
use crate::kernel::procfs;
use crate::kernel::sys::helper::{self, Forked, Whose};
use crate::kernel::wire::Lack;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FlockOperation, Mode, OFlags, RawDir};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

/// Below which directory, and how a child gets into its own there.
pub struct Place {
    pub base: Base,
    pub way: Way,
}

/// Every helper holds the directory, locked for all of them together: what is in it is not stale while one of
/// them still gives its tree the time that was asked for.
fn hold(whole: &Leaf) -> Result<(), Errno> {
    let directory = whole.open()?;
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockShared)?;
    helper::keep_always(directory);
    Ok(())
}

/// Nobody holds it any more; the lock is ours until the descriptor is dropped.
fn unheld(whole: &Leaf) -> Option<OwnedFd> {
    let directory = whole.open().ok()?;
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).ok().map(|()| directory)
}

/// What is known of a place: a keeper does without one where there is none.
pub type Found<'a> = Result<&'a Place, Why>;

/// Why there is no place, and the error that says so, 0 where none did.
pub type Why = (Lack, i32);

/// How long a process in a cgroup of ours may take to be born, and to die of one write.
const PROOF: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// How long what a dead runtime has left is fought for.
const STALE: Duration = Duration::from_secs(2);

const PREFIX: &str = "proton-";

/// The place of the runtime behind `runtime`, its pidfd. Made, tried with a process, and empty again.
pub fn find(runtime: impl AsFd) -> Result<Place, Why> {
    // Where the runtime could have no pidfd of its own, it is the watchdog's parent.
    let runtime = procfs::pid_of(runtime)
        .unwrap_or_else(|| rustix::process::getppid().map_or(-1, |pid| pid.as_raw_nonzero().get()));
    let own = cgroup::own().map_err(|absent| match absent {
        Absent::Unmounted => (Lack::Unmounted, 0),
        Absent::Outside => (Lack::Outside, 0),
    })?;
    if std::path::Path::new(&own).join("cgroup.type").exists() || !rules_the_root() {
        let name = Owner::of(runtime).ok_or((Lack::Make, Errno::SRCH.raw_os_error()))?.name();
        prove(format!("{own}/{name}.{}", std::process::id()))
    } else {
        Err((Lack::Reserved, 0))
    }
}

/// Whether systemd runs here, whose the root cgroup is then (only the root has no `cgroup.type`).
fn rules_the_root() -> bool {
    std::path::Path::new("/run/systemd/system").exists()
}

/// Makes the directory and has a process born and killed in one below it.
fn prove(path: String) -> Result<Place, Why> {
    let because = |lack| move |errno: Errno| (lack, errno.raw_os_error());
    let whole = Leaf::at(path.clone());
    whole.make().map_err(because(Lack::Make))?;
    let leaf = Leaf::at(format!("{path}/proof"));
    let proven = leaf.make().map_err(because(Lack::Make)).and_then(|()| {
        let (way, pid, pidfd) = enter(&leaf).map_err(because(Lack::Enter))?;
        let killed = leaf.kill().and_then(|()| ended(pid, pidfd.as_ref()));
        let _ = Pid::from_raw(pid).map(|pid| rustix::process::kill_process(pid, Signal::KILL)); // our unreaped child
        let _ = ended(pid, pidfd.as_ref()).and_then(|()| helper::wait(Whose::Pid(pid), false));
        killed.map(|()| way).map_err(because(Lack::Kill))
    });
    let gone = leaf.end(Instant::now() + Duration::from_secs(1));
    match proven {
        Ok(way) if gone && hold(&whole).is_ok() => Ok(Place { base: Base { path }, way }),
        other => {
            whole.end(Instant::now() + Duration::from_secs(1));
            Err(other.err().unwrap_or((Lack::Kill, Errno::BUSY.raw_os_error())))
        }
    }
}

/// A process in `leaf`, and the way that it took.
fn enter(leaf: &Leaf) -> Result<(Way, i32, Option<OwnedFd>), Errno> {
    let directory = leaf.open()?;
    if let Ok((pid, pidfd)) = helper::sleeper(directory.as_fd()) {
        return Ok((Way::Born, pid, Some(pidfd)));
    }
    // Linux before 5.7, a filter that refuses clone3, or no right to the cgroup that both sides have in common.
    let procs = leaf.procs()?;
    match helper::fork()? {
        Forked::Child => {
            let joined = rustix::io::write(&procs, b"0").is_ok();
            if joined {
                std::thread::sleep(Duration::from_secs(60)); // it is killed long before
            }
            helper::exit(i32::from(!joined))
        }
        Forked::Parent(pid) => {
            let until = Instant::now() + Duration::from_secs(1);
            while !leaf.is_populated()? && Instant::now() < until {
                if let Some(ended) = helper::wait(Whose::Pid(pid), true)? {
                    let _ = helper::wait(Whose::Pid(ended.pid), false);
                    return Err(Errno::ACCESS);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok((Way::Joins, pid, None))
        }
    }
}

/// Waits for the end of a child that is being killed.
fn ended(pid: i32, pidfd: Option<&OwnedFd>) -> Result<(), Errno> {
    let until = Instant::now() + Duration::from_secs(1);
    while helper::wait(Whose::Pid(pid), true)?.is_none() {
        if Instant::now() >= until {
            return Err(Errno::TIMEDOUT);
        }
        match pidfd {
            Some(pidfd) => drop(rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&PROOF))),
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    Ok(())
}

/// Whose a directory is, by what no later process has in common with it.
#[derive(Debug, PartialEq, Eq)]
struct Owner {
    pid: i32,
    started: u64,
    boot: String,
    /// The PID namespace in which `pid` means something.
    namespace: String,
}

impl Owner {
    fn of(pid: i32) -> Option<Owner> {
        Some(Owner { pid, started: procfs::stat(pid)?.started, boot: boot()?, namespace: namespace()? })
    }

    fn name(&self) -> String {
        let Owner { pid, started, boot, namespace } = self;
        format!("{PREFIX}{pid}-{started}-{boot}-{namespace}")
    }

    /// From a name as [`find`] makes it, with the watchdog's pid behind a dot.
    fn from_name(name: &str) -> Option<Owner> {
        let (owner, watchdog) = name.strip_prefix(PREFIX)?.rsplit_once('.')?;
        watchdog.parse::<i32>().ok()?;
        let (owner, namespace) = owner.rsplit_once('-')?;
        let mut parts = owner.splitn(3, '-');
        Some(Owner {
            pid: parts.next()?.parse().ok()?,
            started: parts.next()?.parse().ok()?,
            boot: parts.next()?.to_owned(),
            namespace: namespace.to_owned(),
        })
    }

    /// Known to be gone: from another PID namespace a living one looks dead, and where /proc hides others it is
    /// alive if anybody has its pid.
    fn is_gone(&self) -> bool {
        if boot().as_ref() != Some(&self.boot) || namespace().as_ref() != Some(&self.namespace) {
            return false;
        }
        let Some(pid) = Pid::from_raw(self.pid) else { return false };
        if rustix::process::test_kill_process(pid) == Err(Errno::SRCH) {
            return true;
        }
        procfs::stat(self.pid).is_some_and(|stat| stat.started != self.started || stat.has_ended())
    }
}

fn boot() -> Option<String> {
    let mut text = Vec::new();
    procfs::read("/proc/sys/kernel/random/boot_id", &mut text).ok()?;
    Some(std::str::from_utf8(&text).ok()?.trim().to_owned())
}

/// `pid:[4026531836]` is 4026531836.
fn namespace() -> Option<String> {
    let link = rustix::fs::readlink("/proc/self/ns/pid", Vec::new()).ok()?;
    let text = link.into_string().ok()?;
    Some(text.strip_prefix("pid:[")?.strip_suffix(']')?.to_owned())
}

/// Ends and removes what runtimes that are gone have left in the runtime's own cgroup.
pub fn sweep() {
    let Ok(own) = cgroup::own() else { return };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(directory) = rustix::fs::open(&*own, flags, Mode::empty()) else { return };
    let mut space = [MaybeUninit::uninit(); 2048];
    let mut entries = RawDir::new(directory, &mut space);
    let mut stale = Vec::new();
    while let Some(Ok(entry)) = entries.next() {
        let Ok(name) = entry.file_name().to_str() else { continue };
        if Owner::from_name(name).is_some_and(|owner| owner.is_gone()) {
            stale.push(Leaf::at(format!("{own}/{name}")));
        }
    }
    for leaf in stale {
        let Some(_lock) = unheld(&leaf) else { continue };
        leaf.end(Instant::now() + STALE); // what outlives that is tried again at the next start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn this_process() -> Owner {
        Owner::of(std::process::id() as i32).expect("this process is there")
    }

    #[test]
    fn a_name_tells_its_owner_and_nothing_else_does() {
        let owner = this_process();
        assert_eq!(Owner::from_name(&format!("{}.7", owner.name())), Some(this_process()));
        for other in ["proton_test_1", "proton-", "proton-1-2.3", "proton-1-2-3-4", "user.slice", ".."] {
            assert_eq!(Owner::from_name(other), None, "{other}");
        }
    }

    #[test]
    fn only_who_is_known_to_be_gone_is_gone() {
        assert!(!this_process().is_gone());
        assert!(
            !Owner { pid: 1, started: procfs::stat(1).map_or(0, |s| s.started), ..this_process() }.is_gone()
        );
        let later = Owner { started: this_process().started + 1, ..this_process() };
        assert!(later.is_gone(), "the pid is another process's now");
        let mut child = std::process::Command::new("true").spawn().expect("it starts");
        let dead = Owner { pid: child.id() as i32, ..this_process() };
        child.wait().expect("it is reaped");
        assert!(dead.is_gone());
        assert!(!Owner { namespace: "1".to_owned(), ..this_process() }.is_gone(), "another PID namespace");
        assert!(!Owner { boot: "b".to_owned(), pid: dead.pid, ..this_process() }.is_gone(), "another boot");
    }
}
