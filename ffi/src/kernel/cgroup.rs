// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! A cgroup directory that a tree lives in.
//!
//! One of v2 is ended by one write, which reaches every process below,
//! whatever it has done to its parents or its session, and asks for no
//! permission over it. It is repeated until the kernel says that nobody is
//! left: before Linux 6.14 a fork could slip through. Before 5.14 it takes more
//! than a write, and so it does in v1 ([`each`]). (Kernel documentation,
//! admin-guide/cgroup-v2.rst: `cgroup.kill`, `cgroup.events`.)

pub mod delegated;
mod each;
pub mod file;
pub mod hierarchy;

use crate::kernel::procfs;
use crate::kernel::sabotage::{sabotaged, Step};
use crate::kernel::wire::plan::Version;
use crate::kernel::wire::Placed;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;
use std::ffi::CString;
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

/// How a process gets into a cgroup of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It is born there: clone3(2) with CLONE_INTO_CGROUP, Linux 5.7.
    Born,
    /// It goes there itself before it does anything else, which waits for an RCU grace period.
    Joins,
}

/// The cgroup of one guardian; each keeper makes one below it for its child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    pub path: String,
}

impl Base {
    /// The cgroup of the child of keeper `id`, whether it is there or not.
    pub fn leaf(&self, id: u32) -> Leaf {
        Leaf::at(format!("{}/{id}", self.path))
    }

    /// The whole of it: every leaf that is left.
    pub fn whole(&self) -> Leaf {
        Leaf::at(self.path.clone())
    }
}

/// A cgroup of ours, by its path in the mounted hierarchy. The kernel forgets
/// it only when it is removed: whoever is left may end it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    pub path: String,
    version: Version,
    /// Its members can be frozen.
    freezer: bool,
}

impl Leaf {
    /// Of v2.
    pub fn at(path: String) -> Self {
        Leaf { path, version: Version::Two, freezer: true }
    }

    /// Of v1, in a hierarchy that has the freezer or not.
    pub fn v1(path: String, freezer: bool) -> Self {
        Leaf { path, version: Version::One, freezer }
    }

    pub fn placed(&self) -> Placed {
        Placed { version: self.version, freezer: self.freezer, path: self.path.clone() }
    }

    pub fn version(&self) -> Version {
        self.version
    }

    pub fn can_freeze(&self) -> bool {
        self.freezer
    }

    /// Makes the directory.
    pub fn make(&self) -> Result<(), Errno> {
        rustix::fs::mkdir(&*self.path, Mode::from_raw_mode(0o755))
    }

    /// What CLONE_INTO_CGROUP takes.
    pub fn open(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(&*self.path, flags, Mode::empty())
    }

    /// Where a process writes "0" to join.
    pub fn procs(&self) -> Result<OwnedFd, Errno> {
        self.file("cgroup.procs", OFlags::WRONLY)
    }

    fn file(&self, name: &str, how: OFlags) -> Result<OwnedFd, Errno> {
        rustix::fs::open(format!("{}/{name}", self.path), how | OFlags::CLOEXEC, Mode::empty())
    }

    /// SIGKILL for everybody in it and below.
    pub fn kill(&self) -> Result<(), Errno> {
        if sabotaged(Step::CgroupKill) {
            return Ok(());
        }
        if self.version != Version::Two {
            return each::kill(self);
        }
        match self.kill_file() {
            Ok(file) => rustix::io::retry_on_intr(|| rustix::io::write(&file, b"1")).map(drop),
            Err(Errno::NOENT) => each::kill(self),
            Err(errno) => Err(errno),
        }
    }

    /// Whether one write ends everybody in it, whoever they are: the other ways take the right to signal each.
    pub fn kills_anybody(&self) -> bool {
        self.version == Version::Two && self.kill_file().is_ok()
    }

    fn kill_file(&self) -> Result<OwnedFd, Errno> {
        if sabotaged(Step::KillFile) {
            return Err(Errno::NOENT);
        }
        self.file("cgroup.kill", OFlags::WRONLY)
    }

    /// Whether anybody lives in it or below. Zombies do not count.
    pub fn is_populated(&self) -> Result<bool, Errno> {
        if self.version != Version::Two {
            return self.all_members().map(|pids| !pids.is_empty());
        }
        let mut text = Vec::new();
        procfs::read(&format!("{}/cgroup.events", self.path), &mut text)?;
        Ok(!text.split(|&b| b == b'\n').any(|line| line == b"populated 0"))
    }

    /// Who is in it and below.
    fn all_members(&self) -> Result<Vec<i32>, Errno> {
        let mut folders = vec![self.path.clone()];
        let mut all = Vec::new();
        while let Some(folder) = folders.pop() {
            let mut text = Vec::new();
            match procfs::read(&format!("{folder}/cgroup.procs"), &mut text) {
                // Removed meanwhile; deeper than a path can name, the tree loop finds them.
                Err(Errno::NOENT | Errno::NODEV | Errno::NAMETOOLONG) if folder != self.path => continue,
                other => other?,
            }
            all.extend(pids(&text));
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            let names = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            folders.extend(names.filter_map(|entry| entry.path().into_os_string().into_string().ok()));
        }
        Ok(all)
    }

    /// Holds all of its members still; ETIMEDOUT where they are not by then, and none is then.
    pub fn freeze(&self, patience: Duration) -> Result<(), Errno> {
        let (name, value) = self.switch(true);
        file::write(&format!("{}/{name}", self.path), value)?;
        let until = Instant::now() + patience;
        let mut round = 0;
        while !self.is_frozen()? {
            if Instant::now() >= until {
                let _ = self.thaw(); // the first error tells more
                return Err(Errno::TIMEDOUT);
            }
            std::thread::sleep(Duration::from_millis(1));
            round += 1;
            // v1 can stay half-way for as long as new members appear: begin anew.
            if self.version == Version::One && round % 50 == 0 {
                self.thaw()?;
                file::write(&format!("{}/{name}", self.path), value)?;
            }
        }
        Ok(())
    }

    /// Lets them go on.
    pub fn thaw(&self) -> Result<(), Errno> {
        let (name, value) = self.switch(false);
        file::write(&format!("{}/{name}", self.path), value)
    }

    fn switch(&self, on: bool) -> (&'static str, &'static str) {
        match (self.version, on) {
            (Version::Two, true) => ("cgroup.freeze", "1"),
            (Version::Two, false) => ("cgroup.freeze", "0"),
            (_, true) => ("freezer.state", "FROZEN"),
            (_, false) => ("freezer.state", "THAWED"),
        }
    }

    /// Whether all in it are held still, by it or by a cgroup above.
    pub fn is_frozen(&self) -> Result<bool, Errno> {
        let v2 = self.version == Version::Two;
        let (name, word) = if v2 { ("cgroup.events", "frozen 1") } else { ("freezer.state", "FROZEN") };
        let text = file::read(&format!("{}/{name}", self.path))?;
        Ok(String::from_utf8_lossy(&text).lines().any(|line| line.trim() == word))
    }

    /// Kills until nobody is left, and removes it with all that was made below.
    /// True when it is gone, false when somebody is still there at `until`.
    pub fn end(&self, until: Instant) -> bool {
        let mut pause = Duration::from_micros(200);
        loop {
            match self.remove() {
                Ok(()) | Err(Errno::NOENT | Errno::NODEV) => return true,
                // Somebody lives there. Refused where the child has made it threaded: the tree loop has to do.
                Err(_) => drop(self.kill()),
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }

    /// Removes it where nobody lives in it, with whatever a child has made below it, deepest first.
    /// Two descriptors are enough, however deep that is.
    pub fn remove(&self) -> Result<(), Errno> {
        match rustix::fs::rmdir(&*self.path) {
            Err(Errno::BUSY | Errno::NOTEMPTY) if !self.is_populated()? => {}
            other => return other,
        }
        let mut at = self.open()?;
        let mut way: Vec<CString> = Vec::new();
        loop {
            if let Some(name) = below(&at, 1)?.pop() {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                at = rustix::fs::openat(&at, &*name, flags, Mode::empty())?;
                way.push(name);
                continue;
            }
            let Some(name) = way.pop() else { return rustix::fs::rmdir(&*self.path) };
            at = rustix::fs::openat(
                &at,
                "..",
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            rustix::fs::unlinkat(&at, &*name, AtFlags::REMOVEDIR)?;
        }
    }

    /// Whether this zombie has lived in it or below, also where it has been removed since. (Only v2 says so of zombies.)
    pub fn was_home_of(&self, pid: i32) -> bool {
        let mut text = Vec::new();
        if procfs::read(&format!("/proc/{pid}/cgroup"), &mut text).is_err() {
            return false; // gone
        }
        // Paths there begin where this process's cgroup namespace does. Nobody else has the guardian's and the keeper's name.
        let from = self.path.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at);
        let name = &self.path.as_bytes()[from..];
        text.split(|&b| b == b'\n').filter_map(|line| line.strip_prefix(b"0::")).any(|path| {
            let mut places = path.windows(name.len()).enumerate().filter(|(_, part)| *part == name);
            places.any(|(at, _)| matches!(path.get(at + name.len()), None | Some(b'/' | b' ')))
        })
    }

    /// Who lives directly in it.
    pub fn members(&self) -> Vec<i32> {
        let mut text = Vec::new();
        if procfs::read(&format!("{}/cgroup.procs", self.path), &mut text).is_err() {
            return Vec::new(); // gone
        }
        pids(&text)
    }
}

impl From<Placed> for Leaf {
    fn from(Placed { version, freezer, path }: Placed) -> Self {
        Leaf { path, version, freezer }
    }
}

/// One number a line.
fn pids(text: &[u8]) -> Vec<i32> {
    let lines = text.split(|&b| b == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    lines.filter_map(|line| line.parse().ok()).collect()
}

/// The names of the directories in this one, as many as are asked for.
fn below(at: impl AsFd, most: usize) -> Result<Vec<CString>, Errno> {
    // A description of its own: the position of the one that was handed in stays where it is.
    let at =
        rustix::fs::openat(at, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut space = [MaybeUninit::uninit(); 2048];
    let mut entries = RawDir::new(at, &mut space);
    let mut names = Vec::new();
    while let Some(entry) = entries.next().filter(|_| names.len() < most) {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type() == FileType::Directory && name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_has_ended() {
        let leaf = Leaf::at("/proc/self/no-such-cgroup".to_owned());
        assert!(leaf.end(Instant::now()));
        assert_eq!(leaf.members(), Vec::<i32>::new());
        assert_eq!(leaf.kill(), Err(Errno::NOENT));
    }
}
