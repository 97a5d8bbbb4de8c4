// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Which hierarchies of cgroups are mounted here, which controllers each has,
//! and where this process stands in it: from /proc/self/mountinfo and
//! /proc/self/cgroup, never from a path that is thought to be usual.
//! (proc_pid_mountinfo(5), cgroups(7).)

use crate::kernel::procfs;
use crate::kernel::wire::plan::Version;

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    pub version: Version,
    /// Of v1: those that are bound to it. Of v2: those that this process's own cgroup has.
    pub controllers: Vec<String>,
    /// Where the root of what is visible of it is mounted.
    pub mount: String,
    /// The directory of this process's own cgroup; none where what is mounted does not show it.
    pub own: Option<String>,
}

/// Why a process's own cgroup has no directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// No v2 hierarchy is mounted here.
    Unmounted,
    /// One is, but what it shows does not hold our cgroup.
    Outside,
}

/// All of them.
pub fn hierarchies() -> Vec<Hierarchy> {
    let (mut mounts, mut cgroups) = (Vec::new(), Vec::new());
    let read = procfs::read("/proc/self/mountinfo", &mut mounts)
        .and_then(|()| procfs::read("/proc/self/cgroup", &mut cgroups));
    if read.is_err() {
        return Vec::new();
    }
    let mut all = listed(&String::from_utf8_lossy(&mounts), &String::from_utf8_lossy(&cgroups));
    for hierarchy in all.iter_mut().filter(|one| one.version == Version::Two) {
        let at = hierarchy.own.as_ref().unwrap_or(&hierarchy.mount);
        hierarchy.controllers = words(&format!("{at}/cgroup.controllers"));
    }
    all
}

/// The directory of this process's own cgroup in the v2 hierarchy, as far as it is visible from here.
pub fn own(all: &[Hierarchy]) -> Result<String, Absent> {
    let v2 = all.iter().find(|one| one.version == Version::Two).ok_or(Absent::Unmounted)?;
    v2.own.clone().ok_or(Absent::Outside)
}

/// The words of a file of one line; none where it cannot be read.
pub fn words(path: &str) -> Vec<String> {
    let mut text = Vec::new();
    if procfs::read(path, &mut text).is_err() {
        return Vec::new();
    }
    String::from_utf8_lossy(&text).split_whitespace().map(str::to_owned).collect()
}

/// One line of mountinfo that is of cgroups: root, mount point, and the controllers of v1.
struct Mount {
    root: String,
    point: String,
    /// None of v2.
    options: Option<Vec<String>>,
}

/// From the text of mountinfo and of cgroup.
fn listed(mounts: &str, cgroups: &str) -> Vec<Hierarchy> {
    let mounts: Vec<Mount> = mounts.lines().filter_map(mount).collect();
    cgroups.lines().filter_map(|line| hierarchy(line, &mounts)).collect()
}

/// `4:memory:/path`, or `0::/path` of v2.
fn hierarchy(line: &str, mounts: &[Mount]) -> Option<Hierarchy> {
    let mut fields = line.splitn(3, ':');
    let (number, names, own) = (fields.next()?, fields.next()?, fields.next()?);
    let controllers: Vec<String> = names.split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect();
    let v2 = number == "0" && controllers.is_empty();
    let of_it = |mount: &&Mount| match &mount.options {
        None => v2,
        Some(options) => !v2 && controllers.iter().all(|name| options.contains(name)),
    };
    // The last of several mounts hides those below it at the same place; a part of the hierarchy may be mounted.
    let found: Vec<&Mount> = mounts.iter().filter(of_it).collect();
    let shown = found.iter().rev().find_map(|mount| Some((mount, directory(mount, own)?)));
    let (mount, own) = match shown {
        Some((mount, own)) => (*mount, Some(own)),
        None => (*found.last()?, None),
    };
    let version = if v2 { Version::Two } else { Version::One };
    Some(Hierarchy { version, controllers, mount: mount.point.trim_end_matches('/').to_owned(), own })
}

/// Where a cgroup that is called `own` in its hierarchy shows up below this mount.
fn directory(mount: &Mount, own: &str) -> Option<String> {
    let rest = if mount.root == "/" { Some(own) } else { own.strip_prefix(mount.root.as_str()) }?;
    let inside = rest.is_empty() || rest.starts_with('/');
    (inside && !rest.split('/').any(|step| step == "..")).then(|| {
        let path = format!("{}{rest}", mount.point.trim_end_matches('/'));
        path.trim_end_matches('/').to_owned()
    })
}

fn mount(line: &str) -> Option<Mount> {
    let (mount, kind) = line.split_once(" - ")?;
    let mut kind = kind.split(' ');
    let options = match kind.next()? {
        "cgroup2" => None,
        "cgroup" => Some(kind.nth(1)?.split(',').map(str::to_owned).collect()),
        _ => return None,
    };
    let mut fields = mount.split(' ').skip(3);
    Some(Mount { root: unescaped(fields.next()?), point: unescaped(fields.next()?), options })
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
36 31 0:33 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
";

    fn own_of(mounts: &str, cgroups: &str) -> Result<String, Absent> {
        own(&listed(mounts, cgroups))
    }

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
        let v1 = "35 31 0:32 / /c rw - cgroup cgroup rw,memory\n";
        assert_eq!(own_of(v1, "4:memory:/\n0::/\n"), Err(Absent::Unmounted));
        assert_eq!(own_of(HYBRID, "4:memory:/m\n"), Err(Absent::Unmounted));
        assert_eq!(own_of("", ""), Err(Absent::Unmounted));
    }

    #[test]
    fn each_v1_hierarchy_is_found_by_all_its_controllers() {
        let all = listed(HYBRID, "9:name=systemd:/s\n4:memory:/m/n\n2:cpuacct,cpu:/\n0::/\n7:pids:/p\n");
        let shown: Vec<_> = all.iter().map(|h| (h.controllers.join(","), h.own.clone())).collect();
        let of = |names: &str, own: &str| (names.to_owned(), Some(format!("/sys/fs/cgroup/{own}")));
        let wanted = [
            of("name=systemd", "systemd/s"),
            of("memory", "memory/m/n"),
            of("cpuacct,cpu", "cpu,cpuacct"),
            of("", "unified"),
        ];
        assert_eq!(shown, wanted, "pids is not mounted");
        assert_eq!(all[1].mount, "/sys/fs/cgroup/memory");
    }
}
