// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Whether this runtime may start a program as who it is asked to, looked at
//! before anything is made.

use crate::kernel::wire::{Attributes, Groups, Stage};
use crate::runtime::rights::User;
use rustix::io::Errno;
use rustix::process::{getegid, geteuid, getgid, getgroups, getuid};
use rustix::thread::{capabilities, CapabilitySet};

type Failed = (Stage, Errno);

/// Leaves in `asked` what is to be changed: the caller's own ids are no change.
///
/// Who is given another uid or gid, and no groups, has none: those of the runtime are the runtime's.
pub fn settle(asked: &mut Attributes) -> Result<(), Failed> {
    if (asked.uid, asked.gid, &asked.groups) == (None, None, &None) {
        return Ok(());
    }
    if asked.uid == Some(0) || asked.gid == Some(0) {
        let stage = if asked.uid == Some(0) { Stage::Uid } else { Stage::Gid };
        return Err((stage, Errno::INVAL)); // whoever is to stay root does not ask for anything
    }
    // Another thread's ids may be others; these are of the one that opens.
    let (uids, gids) = ([getuid(), geteuid()], [getgid(), getegid()]);
    asked.uid = asked.uid.filter(|&uid| uids.iter().any(|own| own.as_raw() != uid));
    asked.gid = asked.gid.filter(|&gid| gids.iter().any(|own| own.as_raw() != gid));
    let same = (asked.uid, asked.gid) == (None, None);
    if same && asked.groups.as_ref().is_some_and(|groups| groups.implied) {
        asked.groups = None;
    }
    if !same && asked.groups.is_none() {
        asked.groups = Some(Groups { implied: true, ids: Vec::new() });
    }
    let own = getgroups().map_err(|errno| (Stage::Groups, errno))?;
    let own = sorted(own.iter().map(|gid| gid.as_raw()).collect());
    asked.groups = asked.groups.take().filter(|groups| sorted(groups.ids.clone()) != own);
    permitted(asked)
}

/// The other user that `asked` makes of the child; none where it is refused, which [`settle`] tells in its turn.
pub fn other(asked: &Attributes) -> Option<User> {
    let mut changed = asked.clone();
    settle(&mut changed).ok()?;
    let uid = changed.uid?;
    // Who was root loses its capabilities with that; who was not has them until its exec (capabilities(7)).
    let was_root = getuid().is_root() || geteuid().is_root();
    let effective = capabilities(None).ok()?.effective;
    let has = |capability: CapabilitySet| !was_root && effective.contains(capability);
    Some(User {
        uid,
        gid: changed.gid.unwrap_or_else(|| getegid().as_raw()),
        // Unchanged they are none: whoever is given another uid has none of the runtime's.
        groups: asked.groups.as_ref().map_or_else(Vec::new, |groups| groups.ids.clone()),
        overrides: has(CapabilitySet::DAC_OVERRIDE),
        searches: has(CapabilitySet::DAC_READ_SEARCH),
    })
}

fn sorted(mut ids: Vec<u32>) -> Vec<u32> {
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn permitted(asked: &Attributes) -> Result<(), Failed> {
    let effective = capabilities(None).map_err(|errno| (Stage::Uid, errno))?.effective;
    let needs = |is: bool, capability, stage| match is && !effective.contains(capability) {
        true => Err((stage, Errno::PERM)),
        false => Ok(()),
    };
    needs(asked.uid.is_some(), CapabilitySet::SETUID, Stage::Uid)?;
    needs(asked.gid.is_some(), CapabilitySet::SETGID, Stage::Gid)?;
    needs(asked.groups.is_some(), CapabilitySet::SETGID, Stage::Groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ones_own_ids_are_no_change_and_root_is_nobody_to_become() {
        let own = |id: u32| Some(id).filter(|&id| id != 0);
        let (uid, gid) = (own(getuid().as_raw()), own(getgid().as_raw()));
        let groups = Some(Groups { implied: true, ids: vec![4711] });
        let mut asked = Attributes { uid, gid, groups, ..Attributes::default() };
        assert_eq!(settle(&mut asked), Ok(()));
        assert_eq!(asked, Attributes::default());
        let mut root = Attributes { uid: Some(0), ..Attributes::default() };
        assert_eq!(settle(&mut root), Err((Stage::Uid, Errno::INVAL)));
        let mut root = Attributes { gid: Some(0), ..Attributes::default() };
        assert_eq!(settle(&mut root), Err((Stage::Gid, Errno::INVAL)));
    }
}
