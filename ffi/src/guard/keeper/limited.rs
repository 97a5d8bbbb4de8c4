// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! The cgroups of a tree with limits: made before its child, watched for want of memory, read at its end.

use super::{Keeper, DEADLINE};
use crate::guard::child::Ready;
use crate::guard::rooms::{self, Furnisher, Lot, Refusal, Rooms};
use crate::guard::table::Table;
use crate::kernel::cgroup::{file, Leaf};
use crate::kernel::sabotage::{sabotaged, Step};
use crate::kernel::socket;
use crate::kernel::wire::plan::Plan;
use crate::kernel::wire::{Cause, Figure, FromKeeper, Placed, Stage};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// How long the kernel may take from its word that memory is out to its kill.
const OOM_PATIENCE: Duration = Duration::from_secs(2);

/// The cgroups of a tree with limits.
pub(super) struct Limited {
    pub(super) rooms: Rooms,
    /// The files that are read at the end.
    pub(super) figures: Vec<String>,
    pub(super) seat: (Table, usize),
    /// The kernel is about to kill one of them for want of memory, or has.
    pub(super) oom_until: Option<Instant>,
}

impl Limited {
    pub(super) fn clear(&mut self) {
        self.rooms.clear(Instant::now() + DEADLINE);
        leave(self.seat, self.rooms.leaves.iter());
    }
}

/// What could not be removed is the guardian's, by what stands at the keeper's place. No more than that is to stand
/// there: at a path that the caller gave there may be somebody else's by then.
pub(super) fn leave<'a>((table, at): (Table, usize), leaves: impl Iterator<Item = &'a Leaf>) {
    let left: Vec<Placed> = leaves.map(Leaf::placed).collect();
    let _ = table.lodge(at, &left); // there was room for all of them
}

/// Makes the cgroups of a launch with limits. What it fails at is told before the failure is.
/// Never inlined: the stack of each keeper would have room for it.
#[inline(never)]
pub(super) fn furnish(
    plan: Plan,
    lot: Lot,
    ready: &mut Ready,
    port: &OwnedFd,
) -> Result<Limited, (Stage, Errno)> {
    let (table, at) = lot.seat;
    let tell = |leaves: &[Placed]| {
        table.lodge(at, leaves)?;
        let _ = socket::send(port, &FromKeeper::Placed { leaves: leaves.to_vec() }.encode(), &[]);
        // Nobody to tell is seen soon enough.
        while sabotaged(Step::HangBeforeLeaf) {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    };
    let usual = ready.home.as_ref().ok();
    let made = Furnisher { plan: &plan, lot }.furnish(usual, tell);
    let mut rooms = made.map_err(|Refusal { stage, errno, at: setting, subject }| {
        let about = FromKeeper::About { at: setting, subject: subject.into_bytes() };
        let _ = socket::send(port, &about.encode(), &[]); // as above
        let usual = usual.map(|(leaf, _)| leaf);
        let there = |leaf: &&Leaf| Some(*leaf) != usual && std::path::Path::new(&leaf.path).exists();
        leave(lot.seat, table.lodging(at).iter().filter(there));
        (stage, errno)
    })?;
    if let Some(home) = rooms.home.take() {
        if let Ok((usual, _)) = &ready.home {
            usual.end(Instant::now() + DEADLINE); // nobody was ever in it
        }
        let moved = ready.move_to(home.clone());
        if let Err(failed) = moved {
            let home = Some(home.0).filter(|home| !home.end(Instant::now() + DEADLINE));
            rooms.clear(Instant::now() + DEADLINE);
            leave(lot.seat, home.iter().chain(&rooms.leaves));
            return Err(failed);
        }
    }
    Ok(Limited { rooms, figures: plan.figures, seat: lot.seat, oom_until: None })
}

impl Keeper {
    /// The kernel has said so; its kill is counted a moment later.
    pub(super) fn out_of_memory(&mut self) {
        let Some(limited) = &mut self.limited else { return };
        if let Some(event) = &limited.rooms.oom {
            let _ = rustix::io::read(event, &mut [0; 8]); // it only counts
        }
        limited.oom_until = Some(Instant::now() + OOM_PATIENCE);
    }

    pub(super) fn look_for_oom(&mut self, now: Instant) {
        let Some(limited) = &mut self.limited else { return };
        let Some(until) = limited.oom_until else { return };
        if limited.rooms.leaves.iter().any(|leaf| rooms::oom_kills(leaf) > 0) {
            limited.oom_until = None;
            limited.rooms.oom = None;
            self.end(Cause::Oom, Duration::ZERO);
        } else if until <= now {
            limited.oom_until = None;
        }
    }

    /// What the tree's cgroups have counted; they are about to be removed.
    pub(super) fn figures(&self) -> Vec<Figure> {
        let Some(limited) = &self.limited else { return Vec::new() };
        let leaves: Vec<&Leaf> = self.leaf.iter().chain(&limited.rooms.leaves).collect();
        let read = |leaf: &Leaf, name: &String| {
            let text = file::read(&format!("{}/{name}", leaf.path)).ok()?;
            Some(Figure { version: leaf.version(), file: name.clone().into_bytes(), text })
        };
        let all =
            limited.figures.iter().flat_map(|name| leaves.iter().filter_map(move |leaf| read(leaf, name)));
        all.collect()
    }
}
