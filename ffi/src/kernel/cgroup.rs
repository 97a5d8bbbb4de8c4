// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! A cgroup v2 directory that a tree lives in, to be ended by one write.
//! (Kernel documentation, admin-guide/cgroup-v2.rst: `cgroup.kill`, `cgroup.events`.)
//!
//! The write reaches every process below, whatever it has done to its parents
//! or its session, and asks for no permission over it. It is repeated until the
//! kernel says that nobody is left: before Linux 6.14 a fork could slip through.
//! Before 5.14 it takes more than a write ([`each`]).

mod each;

use crate::kernel::procfs;
use crate::kernel::sabotage::{sabotaged, Step};
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
        Leaf { path: format!("{}/{id}", self.path) }
    }

    /// The whole of it: every leaf that is left.
    pub fn whole(&self) -> Leaf {
        Leaf { path: self.path.clone() }
    }
}

/// A cgroup of ours, by its path in the mounted hierarchy. The kernel forgets
/// it only when it is removed: whoever is left may end it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    path: String,
}

impl Leaf {
    pub fn at(path: String) -> Self {
        Leaf { path }
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
        match self.file("cgroup.kill", OFlags::WRONLY) {
            Ok(file) => rustix::io::retry_on_intr(|| rustix::io::write(&file, b"1")).map(drop),
            Err(Errno::NOENT) => each::kill(self),
            Err(errno) => Err(errno),
        }
    }

    /// Whether anybody lives in it or below. Zombies do not count.
    pub fn is_populated(&self) -> Result<bool, Errno> {
        let mut text = Vec::new();
        procfs::read(&format!("{}/cgroup.events", self.path), &mut text)?;
        Ok(!text.split(|&b| b == b'\n').any(|line| line == b"populated 0"))
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

    /// Who lives directly in it.
    pub fn members(&self) -> Vec<i32> {
        let mut text = Vec::new();
        if procfs::read(&format!("{}/cgroup.procs", self.path), &mut text).is_err() {
            return Vec::new(); // gone
        }
        let lines = text.split(|&b| b == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
        lines.filter_map(|line| line.parse().ok()).collect()
    }
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

/// The directory of this process's own cgroup in the v2 hierarchy, as far as it is visible from here.
pub fn own() -> Result<String, Absent> {
    let (mut mounts, mut cgroups) = (Vec::new(), Vec::new());
    procfs::read("/proc/self/mountinfo", &mut mounts).map_err(|_| Absent::Unmounted)?;
    procfs::read("/proc/self/cgroup", &mut cgroups).map_err(|_| Absent::Unmounted)?;
    own_of(&String::from_utf8_lossy(&mounts), &String::from_utf8_lossy(&cgroups))
}

/// Why a process's own cgroup has no directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// No v2 hierarchy is mounted here.
    Unmounted,
    /// One is, but what it shows does not hold our cgroup.
    Outside,
}

/// From the text of mountinfo and of cgroup, proc_pid_mountinfo(5) and cgroups(7).
fn own_of(mounts: &str, cgroups: &str) -> Result<String, Absent> {
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::")).ok_or(Absent::Unmounted)?;
    let found: Vec<(String, String)> = mounts.lines().filter_map(v2_mount).collect();
    if found.is_empty() {
        return Err(Absent::Unmounted);
    }
    // The last of several mounts hides those below it at the same place; a part of the hierarchy may be mounted.
    let below = |(root, point): &(String, String)| {
        let rest = if root == "/" { Some(own) } else { own.strip_prefix(root.as_str()) }?;
        let inside = rest.is_empty() || rest.starts_with('/');
        (inside && !rest.split('/').any(|step| step == "..")).then(|| {
            let path = format!("{}{rest}", point.trim_end_matches('/'));
            path.trim_end_matches('/').to_owned()
        })
    };
    found.iter().rev().find_map(below).ok_or(Absent::Outside)
}

/// Root and mount point, where this line of mountinfo is of a cgroup v2 hierarchy.
fn v2_mount(line: &str) -> Option<(String, String)> {
    let (mount, kind) = line.split_once(" - ")?;
    kind.starts_with("cgroup2 ").then_some(())?;
    let mut fields = mount.split(' ').skip(3);
    Some((unescaped(fields.next()?), unescaped(fields.next()?)))
}

/// mountinfo writes blanks, tabs, newlines and backslashes as three octal digits.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
";

    #[test]
    fn the_own_cgroup_is_found_wherever_the_hierarchy_is_mounted() {
        let own = |path: &str| own_of(HYBRID, &format!("4:memory:/m\n0::{path}\n"));
        assert_eq!(own("/"), Ok("/sys/fs/cgroup/unified".to_owned()));
        assert_eq!(own("/a b/c"), Ok("/sys/fs/cgroup/unified/a b/c".to_owned()));
        let pure = "25 1 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(own_of(pure, "0::/user.slice\n"), Ok("/sys/fs/cgroup/user.slice".to_owned()));
        let odd = "25 1 0:22 / /mnt/a\\040b\\134 rw - cgroup2 none rw\n";
        assert_eq!(own_of(odd, "0::/x\n"), Ok("/mnt/a b\\/x".to_owned()));
    }

    #[test]
    fn a_part_of_the_hierarchy_holds_what_is_below_it_only() {
        let part = "25 1 0:22 /pod/one /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(own_of(part, "0::/pod/one\n"), Ok("/sys/fs/cgroup".to_owned()));
        assert_eq!(own_of(part, "0::/pod/one/x\n"), Ok("/sys/fs/cgroup/x".to_owned()));
        assert_eq!(own_of(part, "0::/pod/one-more\n"), Err(Absent::Outside));
        assert_eq!(own_of(HYBRID, "0::/../elsewhere\n"), Err(Absent::Outside));
    }

    #[test]
    fn without_a_v2_hierarchy_there_is_none() {
        assert_eq!(
            own_of("35 31 0:32 / /c rw - cgroup cgroup rw,memory\n", "0::/\n"),
            Err(Absent::Unmounted)
        );
        assert_eq!(own_of(HYBRID, "4:memory:/m\n"), Err(Absent::Unmounted));
        assert_eq!(own_of("", ""), Err(Absent::Unmounted));
    }

    #[test]
    fn what_is_not_there_has_ended() {
        let leaf = Leaf::at("/proc/self/no-such-cgroup".to_owned());
        assert!(leaf.end(Instant::now()));
        assert_eq!(leaf.members(), Vec::<i32>::new());
        assert_eq!(leaf.kill(), Err(Errno::NOENT));
    }
}
