// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Who a child becomes and what it may do: the steps between clone and exec
//! that a launch takes only where it asks for them.
//!
//! In the order in which each still may: the bounding set while the child has
//! CAP_SETPCAP, then groups, gid and uid, each looked at again, then what is
//! to be left of the capabilities. no_new_privs comes later, as a step of its
//! own: it binds the exec alone.

use super::must;
use crate::kernel::wire::{Attributes, Groups, Stage};

type Failed = (Stage, isize);

/// What of a launch is the child's own work; all in the form in which the kernel takes it.
#[derive(Default)]
pub struct Privileges {
    bounding: Option<u64>,
    ambient: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    /// Sorted, each once.
    groups: Option<Vec<u32>>,
    /// Where the kernel says which groups it has taken; one place more than there may be.
    seen: Vec<u32>,
    pub no_new_privs: bool,
}

impl Privileges {
    pub fn of(asked: &Attributes) -> Self {
        let groups = asked.groups.as_ref().map(|Groups { ids, .. }| {
            let mut ids = ids.clone();
            ids.sort_unstable();
            ids.dedup();
            ids
        });
        Privileges {
            bounding: asked.bounding,
            // The kernel takes them from who stops being root, and from nobody else: another user has none of the
            // runtime's, whoever that is.
            ambient: asked.ambient.or(asked.uid.map(|_| 0)),
            uid: asked.uid,
            gid: asked.gid,
            seen: groups.as_ref().map_or_else(Vec::new, |ids| vec![0; ids.len() + 1]),
            groups,
            no_new_privs: asked.no_new_privs,
        }
    }

    /// All but no_new_privs.
    pub fn take_on(&self) -> Result<(), Failed> {
        if let Some(kept) = self.bounding {
            bound(kept)?;
        }
        if self.ambient.is_some_and(|ambient| ambient != 0) && self.uid.is_some() {
            // Else the change of user takes them all. The exec clears this flag.
            must(Stage::Capabilities, libc::SYS_prctl, [libc::PR_SET_KEEPCAPS as usize, 1, 0, 0, 0])?;
        }
        if let Some(groups) = &self.groups {
            self.join(groups)?;
        }
        if let Some(gid) = self.gid {
            become_one(Stage::Gid, [libc::SYS_setresgid, libc::SYS_getresgid], gid)?;
        }
        if let Some(uid) = self.uid {
            become_one(Stage::Uid, [libc::SYS_setresuid, libc::SYS_getresuid], uid)?;
        }
        if self.bounding.is_some() || self.ambient.is_some() {
            keep(self.bounding.unwrap_or(u64::MAX), self.ambient)?;
        }
        Ok(())
    }

    fn join(&self, groups: &[u32]) -> Result<(), Failed> {
        must(Stage::Groups, libc::SYS_setgroups, [groups.len(), groups.as_ptr() as usize, 0, 0, 0])?;
        // The kernel writes into memory that is there for it and that nobody else looks at.
        let room = [self.seen.len(), self.seen.as_ptr() as usize, 0, 0, 0];
        let count = must(Stage::Groups, libc::SYS_getgroups, room)?;
        let seen = self.seen.get(..count).unwrap_or_default();
        // In what order it says them is the kernel's business.
        let known = seen.iter().all(|id| groups.binary_search(id).is_ok());
        verified(Stage::Groups, known && seen.len() == groups.len())
    }
}

fn verified(stage: Stage, so: bool) -> Result<(), Failed> {
    if so {
        Ok(())
    } else {
        Err((stage, -(libc::EPERM as isize)))
    }
}

/// Real, effective and saved.
fn become_one(stage: Stage, [set, get]: [i64; 2], id: u32) -> Result<(), Failed> {
    must(stage, set, [id as usize, id as usize, id as usize, 0, 0])?;
    let mut now = [u32::MAX; 3];
    let [real, effective, saved] = now.each_mut().map(|one| std::ptr::from_mut(one) as usize);
    must(stage, get, [real, effective, saved, 0, 0])?;
    verified(stage, now == [id; 3])
}

/// Takes every capability that is not `kept` out of the bounding set.
fn bound(kept: u64) -> Result<(), Failed> {
    for number in 0..64_usize {
        let read = [libc::PR_CAPBSET_READ as usize, number, 0, 0, 0];
        match must(Stage::Capabilities, libc::SYS_prctl, read) {
            Ok(0) => {}
            Ok(_) if kept & 1 << number != 0 => {}
            Ok(_) => {
                let drop = [libc::PR_CAPBSET_DROP as usize, number, 0, 0, 0];
                must(Stage::Capabilities, libc::SYS_prctl, drop)?;
            }
            Err((_, errno)) if errno == -(libc::EINVAL as isize) => return Ok(()), // beyond the last there is
            Err(failed) => return Err(failed),
        }
    }
    Ok(())
}

/// capget(2) and capset(2): the header, then effective, permitted and inheritable, low halves first.
const VERSION_3: u32 = 0x2008_0522;

/// What is inheritable is bounded, too, and the ambient set is what was asked for.
fn keep(bounding: u64, ambient: Option<u64>) -> Result<(), Failed> {
    let header = [VERSION_3, 0];
    let mut sets = [0_u32; 6];
    let arguments = [header.as_ptr() as usize, sets.as_mut_ptr() as usize, 0, 0, 0];
    must(Stage::Capabilities, libc::SYS_capget, arguments)?;
    let [effective, permitted, low, effective_high, permitted_high, high] = sets;
    let inheritable = ambient.unwrap_or(u64::from(low) | u64::from(high) << 32) & bounding;
    let there = (u64::from(permitted) | u64::from(permitted_high) << 32) & bounding;
    verified(Stage::Capabilities, ambient.unwrap_or(0) & !there == 0)?;
    let (low, high) = (inheritable as u32, (inheritable >> 32) as u32);
    let sets = [effective, permitted, low, effective_high, permitted_high, high];
    let arguments = [header.as_ptr() as usize, sets.as_ptr() as usize, 0, 0, 0];
    must(Stage::Capabilities, libc::SYS_capset, arguments)?;
    ambient.map_or(Ok(()), raise)
}

fn raise(ambient: u64) -> Result<(), Failed> {
    let option = libc::PR_CAP_AMBIENT as usize;
    must(Stage::Capabilities, libc::SYS_prctl, [option, libc::PR_CAP_AMBIENT_CLEAR_ALL as usize, 0, 0, 0])?;
    for number in (0..64_usize).filter(|number| ambient & 1 << number != 0) {
        let arguments = [option, libc::PR_CAP_AMBIENT_RAISE as usize, number, 0, 0];
        must(Stage::Capabilities, libc::SYS_prctl, arguments)?;
    }
    Ok(())
}
