// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Whose a cgroup of ours is: its name says so, to this runtime and to the next one.

use crate::kernel::procfs;
use rustix::io::Errno;
use rustix::process::Pid;

const PREFIX: &str = "proton-";

/// Whose a directory is, by what no later process has in common with it.
#[derive(Debug, PartialEq, Eq)]
pub struct Owner {
    pid: i32,
    started: u64,
    boot: String,
    /// The PID namespace in which `pid` means something.
    namespace: String,
    /// Whose watchdog made it; 0 where it is the cgroup of the runtime itself.
    watchdog: i32,
}

impl Owner {
    pub fn of(pid: i32) -> Option<Owner> {
        let started = procfs::stat(pid)?.started;
        Some(Owner { pid, started, boot: boot()?, namespace: namespace()?, watchdog: 0 })
    }

    pub fn name(&self) -> String {
        let Owner { pid, started, boot, namespace, .. } = self;
        format!("{PREFIX}{pid}-{started}-{boot}-{namespace}")
    }

    /// From the name of a directory: an owner's, with the watchdog's pid behind a dot, and behind another one the number of a
    /// keeper where it is a single tree's.
    pub fn from_name(name: &str) -> Option<Owner> {
        let (owner, numbers) = name.strip_prefix(PREFIX)?.split_once('.')?;
        let (watchdog, keeper) = numbers.split_once('.').unwrap_or((numbers, "0"));
        keeper.parse::<u32>().ok()?;
        let (owner, namespace) = owner.rsplit_once('-')?;
        let mut parts = owner.splitn(3, '-');
        Some(Owner {
            pid: parts.next()?.parse().ok()?,
            started: parts.next()?.parse().ok()?,
            boot: parts.next()?.to_owned(),
            namespace: namespace.to_owned(),
            watchdog: watchdog.parse().ok()?,
        })
    }

    /// It is gone, or the watchdog is that made it, which may have been killed while it did. Where another helper is
    /// left of that one's, it is still held.
    pub fn has_left_it(&self) -> bool {
        self.is_gone() || (self.is_near() && Pid::from_raw(self.watchdog).is_some_and(is_no_more))
    }

    /// Of this boot and of this PID namespace.
    fn is_near(&self) -> bool {
        boot().as_ref() == Some(&self.boot) && namespace().as_ref() == Some(&self.namespace)
    }

    /// Known to be gone: from another PID namespace a living one looks dead, and where /proc hides others it is
    /// alive if anybody has its pid.
    fn is_gone(&self) -> bool {
        let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.is_near()) else { return false };
        if is_no_more(pid) {
            return true;
        }
        procfs::stat(self.pid).is_some_and(|stat| stat.started != self.started || stat.has_ended())
    }
}

fn is_no_more(pid: Pid) -> bool {
    rustix::process::test_kill_process(pid) == Err(Errno::SRCH)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn this_process() -> Owner {
        Owner::of(std::process::id() as i32).expect("this process is there")
    }

    #[test]
    fn a_name_tells_its_owner_and_nothing_else_does() {
        let owner = this_process();
        assert_eq!(
            Owner::from_name(&format!("{}.7", owner.name())),
            Some(Owner { watchdog: 7, ..this_process() })
        );
        assert_eq!(
            Owner::from_name(&format!("{}.7.4000000000", owner.name())),
            Some(Owner { watchdog: 7, ..this_process() })
        );
        for other in ["", ".7.", ".7.8.9", ".x", ".7.x", ".7.8.made", ".7.scope"] {
            assert_eq!(Owner::from_name(&format!("{}{other}", owner.name())), None, "{other}");
        }
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
        assert!(Owner { watchdog: dead.pid, ..this_process() }.has_left_it(), "killed while it made it");
        assert!(!Owner { watchdog: dead.pid, ..this_process() }.is_gone());
        assert!(!Owner { watchdog: this_process().pid, ..this_process() }.has_left_it());
        assert!(!this_process().has_left_it(), "the runtime's own");
        let elsewhere = Owner { namespace: "1".to_owned(), watchdog: dead.pid, ..this_process() };
        assert!(!elsewhere.is_gone() && !elsewhere.has_left_it(), "another PID namespace");
        assert!(!Owner { boot: "b".to_owned(), pid: dead.pid, ..this_process() }.is_gone(), "another boot");
    }
}
