// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! What a keeper makes before its child: the cgroups that it is to live in.

use super::DEADLINE;
use crate::guard::child::{Own, Ready};
use crate::guard::place::{Found, Why};
use crate::kernel::cgroup::{Leaf, Way};
use crate::kernel::sys::host::Priorities;
use crate::kernel::wire::{Lack, Stage};
use rustix::io::Errno;
use std::time::Instant;

/// The cgroup of a launch, made just now; or why there is none.
fn make_leaf(wanted: bool, place: Found, id: u32) -> Result<(Leaf, Way), Why> {
    if !wanted {
        return Err((Lack::Unwanted, 0));
    }
    let place = place?;
    let leaf = place.base.leaf(id);
    match leaf.make() {
        // A keeper before had this number, and its guardian has not removed its cgroup yet.
        Err(Errno::EXIST) if leaf.end(Instant::now() + DEADLINE) => leaf.make(),
        other => other,
    }
    .map_err(|errno| (Lack::Make, errno.raw_os_error()))?;
    Ok((leaf, place.way))
}

/// What a keeper does while the launch record is still being made.
pub struct Prepared<'a> {
    pub(super) own: Own<'a>,
    cgroup: bool,
    pub(super) ready: Ready,
}

impl<'a> Prepared<'a> {
    /// `place` is where the child's cgroup goes, by the keeper's number.
    pub fn new(
        cgroup: bool,
        limits: &'a [(u64, u64)],
        (place, id): (Found, u32),
    ) -> Result<Self, (Stage, Errno)> {
        let host = Priorities::of_this_thread(0);
        let Priorities { nice, affinity, scheduler, ioprio } = host;
        let own = Own { limits, nice, affinity, scheduler, ioprio };
        let home = make_leaf(cgroup, place, id);
        let leaf = home.as_ref().ok().map(|(leaf, _)| leaf.clone());
        match Ready::new(home) {
            Ok(ready) => Ok(Prepared { own, cgroup, ready }),
            Err(failed) => {
                leaf.map(|leaf| leaf.end(Instant::now() + DEADLINE)); // nobody was ever in it
                Err(failed)
            }
        }
    }

    /// With a child that waits for its plan, where one could be cloned.
    pub fn with_child(mut self) -> Self {
        self.ready.clone_early();
        self
    }

    /// Whether it is for a start in a cgroup.
    pub fn cgroup(&self) -> bool {
        self.cgroup
    }

    /// Nothing comes of it.
    pub fn undo(self) {
        let home = self.ready.give_up();
        if let Ok((leaf, _)) = home {
            leaf.end(Instant::now() + DEADLINE); // nobody was ever in it
        }
    }
}
