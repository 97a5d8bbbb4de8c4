// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! A delegated cgroup whose processes live one level below it, as systemd's
//! `DelegateSubgroup=` has it (systemd.resource-control(5)): nobody is in it,
//! and so it has controllers for those that are made beside the runtime's.

use super::Leaf;
use rustix::fs::{Access, AtFlags, CWD};

/// The cgroup above `own`, where it was given to this process and nobody lives in it. Beside its own a manager makes
/// cgroups for others, whatever the right to write there.
pub fn above(own: &str, mount: &str) -> Option<String> {
    let (parent, _) = own.rsplit_once('/')?;
    let inside = parent.strip_prefix(mount).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let given =
        inside && (is_marked(parent) || is_first_of_ours(parent, mount) || is_container(parent, mount));
    let usable = given && is_writable(parent) && Leaf::at(parent.to_owned()).members().is_empty();
    usable.then(|| parent.to_owned())
}

/// systemd marks what it has delegated. (systemd, docs/CGROUP_DELEGATION.md; since 251 for everybody to read.)
fn is_marked(path: &str) -> bool {
    let marked = |name: &str| {
        let mut value = [0; 8];
        rustix::fs::getxattr(path, name, &mut value[..]).is_ok_and(|length| &value[..length] == b"1")
    };
    marked("user.delegate") || marked("trusted.delegate")
}

/// It belongs to this user, and what is above it does not: somebody else has given it away.
fn is_first_of_ours(path: &str, mount: &str) -> bool {
    let user = rustix::process::geteuid();
    let belongs = |path: &str| rustix::fs::stat(path).is_ok_and(|stat| stat.st_uid == user.as_raw());
    let higher = path.rsplit_once('/').map(|(above, _)| above).filter(|_| path != mount);
    !user.is_root() && belongs(path) && !higher.is_some_and(belongs)
}

/// All that a cgroup namespace shows, where no systemd runs: the entry point has gone below it.
fn is_container(path: &str, mount: &str) -> bool {
    let there = |path: &str| std::path::Path::new(path).exists();
    // Only the root of the machine has no `cgroup.type`.
    path == mount && there(&format!("{path}/cgroup.type")) && !there("/run/systemd/system")
}

fn is_writable(path: &str) -> bool {
    let may = |path: &str| rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok();
    ["", "/cgroup.procs", "/cgroup.subtree_control"].iter().all(|file| may(&format!("{path}{file}")))
}
