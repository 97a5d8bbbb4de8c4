// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! The keepers of one guardian, in memory that watchdog and guardian share, so
//! that the watchdog can act for a guardian that is gone. Pages are touched on
//! use.

use crate::kernel::cgroup::Leaf;
use crate::kernel::sys::helper;
use crate::kernel::wire::plan::Version;
use crate::kernel::wire::Placed;
use rustix::io::Errno;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU8, Ordering};
use std::time::Duration;

/// How many keepers a guardian can have at a time.
const SLOTS: usize = 65_536;

/// How long after its grace a keeper may take before it is ended from above.
pub const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Slot {
    /// 0 = vacant.
    pid: AtomicI32,
    id: AtomicU32,
    grace_ms: AtomicU32,
}

/// Where the cgroups of a tree with limits are, a line each; they are known before they are made. Empty is none.
const TEXT: usize = 4096;
struct Leaves([AtomicU8; TEXT]);

/// Written by the guardian, but for its grace, which each keeper writes once it knows it; read by all.
#[derive(Clone, Copy)]
pub struct Table {
    slots: &'static [Slot],
    /// One slot that counts how many have ever been in use, so that a look
    /// does not touch every page.
    high: &'static Slot,
    /// By slot; none where so much address space is not to be had.
    leaves: Option<&'static [Leaves]>,
}

impl Table {
    pub fn new() -> Result<Self, Errno> {
        let all = helper::shared_zeroed::<Slot>(SLOTS + 1)?;
        let (high, slots) = all.split_first().ok_or(Errno::NOMEM)?;
        Ok(Table { slots, high, leaves: helper::shared_zeroed::<Leaves>(SLOTS).ok() })
    }

    fn used(&self) -> impl Iterator<Item = (usize, &'static Slot)> {
        let n = self.high.id.load(Ordering::Acquire) as usize;
        self.slots.iter().take(n).enumerate()
    }

    fn position(&self, wanted: impl Fn(&Slot) -> bool) -> Option<usize> {
        self.used().find(|(_, slot)| wanted(slot)).map(|(at, _)| at)
    }

    /// A vacant place, or `None` when the table is full.
    pub fn vacancy(&self) -> Option<usize> {
        let n = self.high.id.load(Ordering::Acquire) as usize;
        let vacant = self.position(|slot| slot.pid.load(Ordering::Acquire) == 0);
        vacant.or((n < self.slots.len()).then_some(n))
    }

    /// Takes a vacant place. The pid is written last: a slot with a pid is whole.
    pub fn put(&self, at: usize, pid: i32, id: u32) {
        let slot = &self.slots[at];
        slot.id.store(id, Ordering::Release);
        slot.pid.store(pid, Ordering::Release);
        self.high.id.fetch_max(at as u32 + 1, Ordering::AcqRel);
    }

    /// A keeper that starts its child says how long ending it may take. Its place has a
    /// grace of 0 until then, and again when it is given back.
    pub fn grant(&self, at: usize, grace_ms: u32) {
        self.slots[at].grace_ms.store(grace_ms, Ordering::Release);
    }

    /// A keeper says where its tree's cgroups will be; none when they are gone.
    pub fn lodge(&self, at: usize, leaves: &[Placed]) -> Result<(), Errno> {
        let mut text = String::new();
        for Placed { version, freezer, path } in leaves {
            if path.contains('\n') {
                return Err(Errno::INVAL);
            }
            text.push_str(&format!("{} {} {path}\n", *version as u32, u32::from(*freezer)));
        }
        let Some(Leaves(room)) = self.leaves.and_then(|all| all.get(at)) else { return Err(Errno::NOMEM) };
        if text.len() >= TEXT {
            return Err(Errno::NAMETOOLONG);
        }
        // The first byte last: what begins is whole.
        for (byte, slot) in text.bytes().chain([0]).zip(room).skip(1) {
            slot.store(byte, Ordering::Release);
        }
        room[0].store(text.bytes().next().unwrap_or(0), Ordering::Release);
        Ok(())
    }

    /// Where the cgroups of the tree of the keeper at this place are.
    pub fn lodging(&self, at: usize) -> Vec<Leaf> {
        let Some(Leaves(room)) = self.leaves.and_then(|all| all.get(at)) else { return Vec::new() };
        let bytes: Vec<u8> =
            room.iter().map(|slot| slot.load(Ordering::Acquire)).take_while(|&byte| byte != 0).collect();
        let leaf = |line: &str| {
            let mut fields = line.splitn(3, ' ');
            let version = Version::from_number(fields.next()?.parse().ok()?).ok()?;
            let freezer = fields.next()? == "1";
            Some(Leaf::from(Placed { version, freezer, path: fields.next()?.to_owned() }))
        };
        String::from_utf8_lossy(&bytes).lines().filter_map(leaf).collect()
    }

    /// Gives a place back. To be done *before* the keeper is reaped, while its
    /// pid cannot mean anybody else.
    pub fn clear(&self, at: usize) {
        self.slots[at].grace_ms.store(0, Ordering::Release);
        self.slots[at].pid.store(0, Ordering::Release);
    }

    /// Where the keeper with this pid stands.
    pub fn find(&self, pid: i32) -> Option<usize> {
        self.position(|slot| slot.pid.load(Ordering::Acquire) == pid)
    }

    /// Where the keeper with this id stands.
    pub fn find_id(&self, id: u32) -> Option<usize> {
        self.position(|slot| slot.pid.load(Ordering::Acquire) != 0 && slot.id.load(Ordering::Acquire) == id)
    }

    pub fn pid(&self, at: usize) -> i32 {
        self.slots[at].pid.load(Ordering::Acquire)
    }

    pub fn id(&self, at: usize) -> u32 {
        self.slots[at].id.load(Ordering::Acquire)
    }

    /// How long a keeper may take to end its tree once its runtime or guardian is gone.
    pub fn allowance(&self, at: usize) -> Duration {
        Duration::from_millis(u64::from(self.slots[at].grace_ms.load(Ordering::Acquire))) + PATIENCE
    }

    /// The places in use and their keepers' pids.
    pub fn keepers(&self) -> impl Iterator<Item = (usize, i32)> {
        self.used().map(|(at, slot)| (at, slot.pid.load(Ordering::Acquire))).filter(|&(_, pid)| pid != 0)
    }
}
