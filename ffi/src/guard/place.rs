// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Where the cgroups of a guardian's children stand: below the runtime's own,
//! or beside that where nobody lives in what is above it and was delegated to
//! it; in a directory named for the runtime, proven by use before anybody
//! relies on it. Nobody is moved, and nothing of others is touched but what a
//! runtime that is gone has left behind.

use crate::guard::owner::Owner;
use crate::guard::proof::prove;
pub use crate::guard::proof::{Place, Why};
use crate::guard::scope;
use crate::kernel::cgroup::delegated;
use crate::kernel::cgroup::file;
use crate::kernel::cgroup::hierarchy::{self, Absent, Hierarchy};
use crate::kernel::cgroup::Leaf;
use crate::kernel::procfs;
use crate::kernel::sabotage::{sabotaged, Step};
use crate::kernel::socket::Packet;
use crate::kernel::wire::plan::Version;
use crate::kernel::wire::Lack;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FlockOperation, Mode, OFlags, RawDir};
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

/// Nobody holds it any more; the lock is ours until the descriptor is dropped.
fn unheld(whole: &Leaf) -> Option<OwnedFd> {
    let directory = whole.open().ok()?;
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).ok().map(|()| directory)
}

/// What is known of a place: a keeper does without one where there is none.
pub type Found<'a> = Result<&'a Place, Why>;

/// How long what a dead runtime has left is fought for.
const STALE: Duration = Duration::from_secs(2);

/// What a guardian knows of its host's cgroups.
pub struct Site {
    pub hierarchies: Vec<Hierarchy>,
    /// Of what is made for this runtime by this watchdog: `proton-PID-STARTTIME-BOOTID-PIDNS.WATCHDOG`.
    pub name: String,
    /// Its pid.
    pub runtime: i32,
    /// The scope of the user's service manager that this process was moved into.
    scope: Option<String>,
}

/// Whether a packet comes from the runtime: a socket can leak to others.
pub fn is_runtimes(runtime: i32, packet: &Packet) -> bool {
    let anybody = sabotaged(Step::Credentials) || sabotaged(Step::RuntimePidfd);
    anybody || packet.sender.is_some_and(|sender| sender.pid == runtime)
}

impl Site {
    /// That of the runtime behind `runtime`, its pidfd.
    pub fn of(runtime: impl AsFd) -> Site {
        // Where the runtime could have no pidfd of its own, it is the watchdog's parent.
        let runtime = procfs::pid_of(runtime)
            .unwrap_or_else(|| rustix::process::getppid().map_or(-1, |pid| pid.as_raw_nonzero().get()));
        let name = Owner::of(runtime).map_or_else(String::new, |owner| owner.name());
        let mut hierarchies = hierarchy::hierarchies();
        for Hierarchy { version, mount, own, .. } in &mut hierarchies {
            let Some(own) = own else { continue };
            leave_self(own);
            let above = (*version == Version::Two).then(|| delegated::above(own, mount)).flatten();
            above.into_iter().for_each(|above| *own = above);
        }
        Site { hierarchies, name: format!("{name}.{}", std::process::id()), runtime, scope: None }
    }

    /// The place that every tree gets its cgroup at. Made, tried with a process, and empty again.
    pub fn find(&self) -> Result<Place, Why> {
        let own = hierarchy::own(&self.hierarchies).map_err(|absent| match absent {
            Absent::Unmounted => (Lack::Unmounted, 0),
            Absent::Outside => (Lack::Outside, 0),
        })?;
        if !std::path::Path::new(&own).join("cgroup.type").exists() && rules_the_root() {
            return Err((Lack::Reserved, 0));
        }
        if self.name.starts_with('.') {
            return Err((Lack::Make, Errno::SRCH.raw_os_error())); // the runtime is gone
        }
        prove(format!("{own}/{}", self.name))
    }

    /// As [`Site::find`], where a user without privileges has no right to do that: in a scope of the user's service
    /// manager, which this process is moved into with all that comes of it. The runtime stays where it is.
    pub fn find_by_bus(&mut self, why: Why) -> Result<Place, Why> {
        let refused = [Errno::ACCESS, Errno::PERM].map(Errno::raw_os_error).contains(&why.1);
        if !refused || rustix::process::geteuid().is_root() {
            return Err(why);
        }
        let bus = scope::bus_of(self.runtime).ok_or(why)?;
        let entered = scope::enter(&bus, &format!("{}{SCOPE}", self.name));
        let own = entered.map_err(|errno| (Lack::Scope, errno.raw_os_error()))?;
        let v2 = self.hierarchies.iter_mut().find(|one| one.version == Version::Two);
        v2.into_iter().for_each(|v2| v2.own = Some(own.clone()));
        self.scope = Some(own.clone());
        prove(format!("{own}/{}", self.name))
    }

    /// Ends and removes what runtimes that are gone have left in the runtime's own cgroups, and in scopes beside ours:
    /// a manager that gave them removes them when nobody is left in them.
    pub fn sweep(&self) {
        if let Some((beside, _)) = self.scope.as_ref().and_then(|scope| scope.rsplit_once('/')) {
            for scope in self.stale(beside, SCOPE) {
                self.sweep_in(&scope, Version::Two);
            }
        }
        for hierarchy in &self.hierarchies {
            if let Some(own) = &hierarchy.own {
                self.sweep_in(own, hierarchy.version);
            }
        }
    }

    /// As [`Site::sweep`], of a directory that somebody has named.
    pub fn sweep_beside(&self, parent: &str) {
        let below = |one: &&Hierarchy| parent.starts_with(&format!("{}/", one.mount)) || one.mount == parent;
        let longest = self.hierarchies.iter().filter(below).max_by_key(|one| one.mount.len());
        let Some(hierarchy) = longest else { return };
        if hierarchy.own.as_deref() != Some(parent) {
            self.sweep_in(parent, hierarchy.version); // else the watchdog has done it
        }
    }

    fn sweep_in(&self, folder: &str, version: Version) {
        for path in self.stale(folder, "") {
            if path.ends_with(SELF) {
                let _ = Leaf::at(path).remove(); // helpers of a dead runtime may still end what it started
                continue;
            }
            let freezer = || std::path::Path::new(&format!("{path}/freezer.state")).exists();
            let leaf = match version {
                Version::Two => Leaf::at(path),
                _ => Leaf::v1(path.clone(), freezer()),
            };
            let Some(_lock) = unheld(&leaf) else { continue };
            leaf.end(Instant::now() + STALE); // what outlives that is tried again at the next start
        }
    }

    /// Marks a cgroup that stands where the caller has said, and has no name of ours, as made by this runtime: by an
    /// empty one in it.
    pub fn mark(&self, leaf: &Leaf, keeper: u32) -> Result<(), Errno> {
        Leaf::at(format!("{}/{}.{keeper}{MADE}", leaf.path, self.name)).make()
    }

    /// Ends and removes such a one of a runtime that is gone; false where it is not known to be one. No other directory
    /// says so: what is only named for a runtime stands in somebody else's `cgroupBase`.
    pub fn reclaim(&self, leaf: &Leaf) -> bool {
        let ours = !self.stale(&leaf.path, MADE).is_empty();
        let lock = if ours { unheld(leaf) } else { None };
        lock.is_some() && leaf.end(Instant::now() + STALE)
    }

    /// What there is in a directory, with this behind its name, of owners that are gone.
    fn stale(&self, folder: &str, behind: &str) -> Vec<String> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut stale = Vec::new();
        let Ok(directory) = rustix::fs::open(folder, flags, Mode::empty()) else { return stale };
        let mut space = [MaybeUninit::uninit(); 2048];
        let mut entries = RawDir::new(directory, &mut space);
        while let Some(Ok(entry)) = entries.next() {
            let Ok(name) = entry.file_name().to_str() else { continue };
            let owner = name.strip_suffix(behind).and_then(Owner::from_name);
            if !name.starts_with(&self.name) && owner.is_some_and(|owner| owner.has_left_it()) {
                stale.push(format!("{folder}/{name}"));
            }
        }
        stale
    }

    /// Moves the runtime and its helpers out of `own` into one below it: v2 has no controllers for the children of a
    /// cgroup that processes are in. EBUSY where others are in it.
    pub fn move_runtime(&self, own: &str) -> Result<(), Errno> {
        let owner = self.name.rsplit_once('.').map_or("", |(owner, _)| owner);
        let below = Leaf::at(format!("{own}/{owner}{SELF}"));
        match below.make() {
            Err(Errno::EXIST) => {}
            other => other?,
        }
        let procs = format!("{}/cgroup.procs", below.path);
        // Whoever is forked meanwhile is found in the next round.
        for _ in 0..16 {
            let here = Leaf::at(own.to_owned()).members();
            let ours: Vec<i32> = here.iter().copied().filter(|&pid| self.is_ours(pid)).collect();
            if ours.len() < here.len() {
                return Err(Errno::BUSY);
            }
            if ours.is_empty() {
                return Ok(());
            }
            for pid in ours {
                match file::write(&procs, &pid.to_string()) {
                    Err(Errno::SRCH) | Ok(()) => {} // it has just ended
                    Err(errno) => return Err(errno),
                }
            }
        }
        Err(Errno::BUSY)
    }

    /// The runtime, or one of its helpers: below it and of our own program.
    fn is_ours(&self, pid: i32) -> bool {
        let program = |pid: &str| rustix::fs::readlink(format!("/proc/{pid}/exe"), Vec::new()).ok();
        pid == self.runtime || program(&pid.to_string()).is_some_and(|exe| program("self") == Some(exe))
    }

    /// The last to leave closes the door: where only this process is left in the runtime's cgroup below its own, it
    /// goes back and removes that.
    pub fn leave(&self) {
        let owner = self.name.rsplit_once('.').map_or("", |(owner, _)| owner);
        for own in self
            .hierarchies
            .iter()
            .filter(|one| one.version == Version::Two)
            .filter_map(|one| one.own.as_ref())
        {
            let below = Leaf::at(format!("{own}/{owner}{SELF}"));
            // A runtime that is dying has closed its sockets before it leaves its cgroup.
            let until = Instant::now() + STALE;
            let ours = [std::process::id() as i32];
            while below.members().len() > 1 && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
            if below.members() != ours {
                continue; // none, or one that lives
            }
            let control = format!("{own}/cgroup.subtree_control");
            for name in hierarchy::words(&control) {
                let _ = file::write(&control, &format!("-{name}")); // others need it
            }
            if file::write(&format!("{own}/cgroup.procs"), "0").is_ok() {
                let _ = below.remove(); // the next start tries again
            }
        }
    }
}

/// The end of the name of the cgroup that a runtime was moved into, in the place of a watchdog's pid.
const SELF: &str = ".0";

/// The end of the name of a mark in a cgroup that the caller has named.
const MADE: &str = ".made";

/// The end of the name of a scope that was made for a watchdog.
const SCOPE: &str = ".scope";

/// A runtime that was moved is in a cgroup of ours; its own is the one above.
fn leave_self(own: &mut String) {
    if let Some((above, name)) = own.rsplit_once('/') {
        if name.ends_with(SELF) && Owner::from_name(name).is_some() {
            *own = above.to_owned();
        }
    }
}

/// Whether systemd runs here, whose the root cgroup is then (only the root has no `cgroup.type`).
fn rules_the_root() -> bool {
    std::path::Path::new("/run/systemd/system").exists()
}
