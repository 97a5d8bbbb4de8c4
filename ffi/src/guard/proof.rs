// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Whether a directory serves for cgroups of ours: a process is born and killed in one below it.

use crate::kernel::cgroup::{Base, Leaf, Way};
use crate::kernel::sys::helper::{self, Forked, Whose};
use crate::kernel::wire::Lack;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use std::time::{Duration, Instant};

/// Below which directory, and how a child gets into its own there.
pub struct Place {
    pub base: Base,
    pub way: Way,
}

/// Why there is no place, and the error that says so, 0 where none did.
pub type Why = (Lack, i32);

/// How long a process in a cgroup of ours may take to be born, and to die of one write.
const PROOF: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Every helper holds the directory, locked for all of them together: what is in it is not stale while one of
/// them still gives its tree the time that was asked for.
fn hold(whole: &Leaf) -> Result<(), Errno> {
    let directory = whole.open()?;
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockShared)?;
    helper::keep_always(directory);
    Ok(())
}

/// Makes the directory and has a process born and killed in one below it.
pub fn prove(path: String) -> Result<Place, Why> {
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
