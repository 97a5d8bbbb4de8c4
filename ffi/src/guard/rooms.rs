// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! The cgroups that a launch with limits asks for: found, made, set and read
//! back before the program runs. Where one thing of it is not to be had,
//! nothing of it is left and nothing is started.

use crate::guard::place::{Found, Place, Site};
use crate::guard::table::Table;
use crate::kernel::cgroup::file;
use crate::kernel::cgroup::hierarchy::{words, Hierarchy};
use crate::kernel::cgroup::{Leaf, Way};
use crate::kernel::wire::plan::{Plan, Setting, Side, Version, Where};
use crate::kernel::wire::{Held, Placed, Stage};
use rustix::event::{eventfd, EventfdFlags};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// Why a launch with limits cannot be had.
#[derive(Debug)]
pub struct Refusal {
    pub stage: Stage,
    pub errno: Errno,
    /// The number of the setting; `u32::MAX` where it is none's.
    pub at: u32,
    /// The path, or the controller, that it failed at.
    pub subject: String,
}

fn refusal(stage: Stage, errno: Errno, subject: impl Into<String>) -> Refusal {
    Refusal { stage, errno, at: u32::MAX, subject: subject.into() }
}

/// How long the cgroups of a launch that failed are cleared up.
const UNDO: Duration = Duration::from_secs(5);

/// Where a child is born and lives.
pub type Home = (Leaf, Way);

/// The cgroups of one tree.
pub struct Rooms {
    /// All but the one of v2 that any tree has.
    pub leaves: Vec<Leaf>,
    /// Where the child writes "0" before anything else.
    pub joins: Vec<OwnedFd>,
    /// The one of v2, where it is not the usual.
    pub home: Option<Home>,
    pub held: Held,
    /// v1 only tells that somebody was killed for want of memory; the tree is the keeper's to end.
    pub oom: Option<OwnedFd>,
    /// While they are held nobody takes them for stale.
    _locks: Vec<OwnedFd>,
}

/// What a keeper knows of the ground that its children's cgroups stand on.
#[derive(Clone, Copy)]
pub struct Lot<'a> {
    pub site: &'a Site,
    pub found: Found<'a>,
    /// The keeper's number.
    pub id: u32,
    /// Where the guardian has put it.
    pub seat: (Table, usize),
}

/// One launch's cgroups, before anything is made.
pub struct Furnisher<'a> {
    pub plan: &'a Plan,
    pub lot: Lot<'a>,
}

/// A hierarchy and what is to be set in it: the number of the setting, and its side of this version.
struct Choice<'a> {
    hierarchy: &'a Hierarchy,
    sides: Vec<(u32, bool, &'a Side)>,
}

impl<'a> Furnisher<'a> {
    /// Makes and sets them all. `tell` is told where they will be, before any of them is made.
    pub fn furnish(
        &self,
        usual: Option<&Home>,
        tell: impl FnOnce(&[Placed]) -> Result<(), Errno>,
    ) -> Result<Rooms, Refusal> {
        let mut choices = self.choose()?;
        let inside = |choices: &[Choice]| choices.iter().any(|one| one.hierarchy.version == Version::Two);
        let in_v2 = inside(&choices);
        // The usual one need not be there for limits of v1; what v1 has to end a tree is taken in its place.
        if !in_v2 && usual.is_none() {
            self.add_spare_ones(&mut choices);
        }
        let elsewhere = in_v2 && self.plan.place != Where::Own;
        let mut leaves = Vec::new();
        let mut homes = Vec::new();
        for Choice { hierarchy, .. } in &choices {
            let usual_one = hierarchy.version == Version::Two && !elsewhere;
            let leaf = match (usual, usual_one) {
                (Some((leaf, _)), true) => leaf.clone(),
                _ => self.leaf(hierarchy)?,
            };
            leaves.push(leaf.clone());
            homes.push((leaf, usual_one));
        }
        let usual_leaf = usual.map(|(leaf, _)| leaf).filter(|_| !in_v2);
        let placed: Vec<Placed> = leaves.iter().chain(usual_leaf).map(Leaf::placed).collect();
        let mut made = Vec::new();
        // What is told is ended by whoever outlives us. A name that only we can have is told before it is made, so
        // that nothing stays; one that the caller gave may be somebody else's, and is told when it was made by us.
        let given = self.plan.place == Where::Path;
        let early = if given { self.make_all(&choices, &homes, &mut made) } else { Ok(()) };
        let told =
            early.and_then(|()| tell(&placed).map_err(|errno| refusal(Stage::Leaf, errno, "its path")));
        let built = told.and_then(|()| self.build(&choices, &homes, &mut made));
        built.and_then(|rooms| self.check(rooms, usual)).inspect_err(|_| {
            let until = Instant::now() + UNDO;
            made.retain(|leaf: &Leaf| !leaf.end(until)); // nobody was ever in them
        })
    }

    /// The hierarchy of each setting: a controller is in one only.
    fn choose(&self) -> Result<Vec<Choice<'a>>, Refusal> {
        let mut choices: Vec<Choice<'a>> = Vec::new();
        for (at, setting) in (0..).zip(&self.plan.settings) {
            let chosen = self.side(setting);
            let (hierarchy, side) = chosen.map_err(|refused| Refusal { at, ..refused })?;
            let entry = (at, setting.optional, side);
            match choices.iter_mut().find(|one| std::ptr::eq(one.hierarchy, hierarchy)) {
                Some(choice) => choice.sides.push(entry),
                None => choices.push(Choice { hierarchy, sides: vec![entry] }),
            }
        }
        Ok(choices)
    }

    fn side(&self, setting: &'a Setting) -> Result<(&'a Hierarchy, &'a Side), Refusal> {
        let Setting { v1, v2, .. } = setting;
        let name = v1.as_ref().or(v2.as_ref()).map_or("", |side| side.controller.as_str());
        let bound = self.hierarchy(Version::One, name);
        let (hierarchy, side) = match bound {
            Some(hierarchy) => (hierarchy, v1),
            None => {
                let name = v2.as_ref().map_or(name, |side| side.controller.as_str());
                let v2_one = self.hierarchies().find(|one| one.version == Version::Two);
                let has = |one: &&Hierarchy| name.is_empty() || self.has(one, name);
                let missing = || refusal(Stage::Controller, Errno::NOENT, name);
                (v2_one.filter(has).ok_or_else(missing)?, v2)
            }
        };
        let side = side.as_ref().ok_or_else(|| refusal(Stage::Controller, Errno::OPNOTSUPP, name))?;
        Ok((hierarchy, side))
    }

    fn hierarchies(&self) -> impl Iterator<Item = &'a Hierarchy> {
        self.lot.site.hierarchies.iter()
    }

    fn hierarchy(&self, version: Version, controller: &str) -> Option<&'a Hierarchy> {
        let bound =
            |one: &&Hierarchy| one.version == version && one.controllers.iter().any(|c| c == controller);
        self.hierarchies().find(bound)
    }

    /// Whether v2 has this controller for what stands there.
    fn has(&self, v2: &Hierarchy, controller: &str) -> bool {
        let at = |path: &str| words(&format!("{path}/cgroup.controllers")).iter().any(|c| c == controller);
        match self.parent(v2) {
            // What is not there lacks more than a controller, as making a cgroup in it will tell.
            Ok(parent) if !std::path::Path::new(&parent).exists() => at(&v2.mount),
            Ok(parent) => at(&parent),
            Err(_) => false,
        }
    }

    /// On a host without v2 the freezer ends a tree as one, and another controller counts its time. They need not be
    /// had.
    fn add_spare_ones(&self, choices: &mut Vec<Choice<'a>>) {
        for name in ["freezer", "cpuacct"] {
            let Some(hierarchy) = self.hierarchy(Version::One, name) else { continue };
            let there = choices.iter().any(|one| std::ptr::eq(one.hierarchy, hierarchy));
            let writable = self.parent(hierarchy).is_ok_and(|parent| {
                rustix::fs::access(&*parent, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
                    .is_ok()
            });
            if !there && writable {
                choices.push(Choice { hierarchy, sides: Vec::new() });
            }
        }
    }

    /// Below which directory of a hierarchy it is to stand.
    fn parent(&self, hierarchy: &Hierarchy) -> Result<String, Refusal> {
        let below = |path: &str| format!("{}/{path}", hierarchy.mount);
        match self.plan.place {
            Where::Own => hierarchy.own.clone().ok_or_else(|| {
                refusal(Stage::Leaf, Errno::NOENT, format!("{} (the runtime's own cgroup)", hierarchy.mount))
            }),
            Where::Base => Ok(below(&self.plan.path)),
            Where::Path => {
                let above = self.plan.path.rsplit_once('/').map(|(above, _)| above);
                Ok(above.map_or_else(|| hierarchy.mount.clone(), below))
            }
        }
    }

    fn leaf(&self, hierarchy: &Hierarchy) -> Result<Leaf, Refusal> {
        let path = match self.plan.place {
            Where::Path => format!("{}/{}", hierarchy.mount, self.plan.path),
            Where::Own if hierarchy.version == Version::Two => {
                let Place { base, .. } = self.lot.found.map_err(|(_, errno)| {
                    let errno = if errno == 0 { Errno::NOENT } else { Errno::from_raw_os_error(errno) };
                    refusal(Stage::Leaf, errno, "the runtime's own cgroup")
                })?;
                return Ok(base.leaf(self.lot.id));
            }
            _ => format!("{}/{}.{}", self.parent(hierarchy)?, self.lot.site.name, self.lot.id),
        };
        let freezer = hierarchy.controllers.iter().any(|name| name == "freezer");
        Ok(match hierarchy.version {
            Version::Two => Leaf::at(path),
            _ => Leaf::v1(path, freezer),
        })
    }

    fn make_all(
        &self,
        choices: &[Choice],
        leaves: &[(Leaf, bool)],
        made: &mut Vec<Leaf>,
    ) -> Result<(), Refusal> {
        for (choice, (leaf, _)) in choices.iter().zip(leaves).filter(|(_, (_, usual))| !usual) {
            let parent = self.parent(choice.hierarchy)?;
            match make(leaf, choice.hierarchy, &parent) {
                Err(Refusal { errno: Errno::EXIST, .. }) if self.lot.site.reclaim(leaf) => {
                    make(leaf, choice.hierarchy, &parent)?;
                }
                other => other?,
            }
            made.push(leaf.clone());
            // Without a mark it serves as well; the next start there may only not know whose it was.
            let _ = self.lot.site.mark(leaf, self.lot.id);
        }
        Ok(())
    }

    fn build(
        &self,
        choices: &[Choice],
        leaves: &[(Leaf, bool)],
        made: &mut Vec<Leaf>,
    ) -> Result<Rooms, Refusal> {
        let held = Held { kill: Version::None, limits: Version::None };
        let mut rooms =
            Rooms { leaves: Vec::new(), joins: Vec::new(), home: None, held, oom: None, _locks: Vec::new() };
        let set: Vec<Version> =
            choices.iter().filter(|one| !one.sides.is_empty()).map(|one| one.hierarchy.version).collect();
        rooms.held.limits = set.into_iter().min().unwrap_or(Version::None);
        for (choice, (leaf, usual)) in choices.iter().zip(leaves) {
            let parent = self.parent(choice.hierarchy)?;
            let there = std::path::Path::new(&parent).exists();
            if choice.hierarchy.version == Version::Two && there {
                self.enable(&parent, choice, leaf)?;
            }
            if !usual {
                self.lot.site.sweep_beside(&parent);
                if !made.contains(leaf) {
                    make(leaf, choice.hierarchy, &parent)?;
                    made.push(leaf.clone());
                }
                rooms._locks.extend(lock(leaf));
            }
            self.fill(choice, leaf)?;
            let at_leaf = |errno| refusal(Stage::Leaf, errno, &*leaf.path);
            if leaf.can_freeze() && leaf.is_frozen().map_err(at_leaf)? {
                return Err(refusal(Stage::Leaf, Errno::BUSY, format!("{} (frozen)", leaf.path)));
            }
            match choice.hierarchy.version {
                Version::Two if !usual => rooms.home = Some((leaf.clone(), Way::Born)),
                Version::Two => {}
                _ => {
                    rooms.joins.push(leaf.procs().map_err(at_leaf)?);
                    rooms.leaves.push(leaf.clone());
                    let memory = choice.hierarchy.controllers.iter().any(|name| name == "memory");
                    if memory && self.plan.end_on_oom {
                        rooms.oom = Some(watch_oom(leaf).map_err(at_leaf)?);
                    }
                }
            }
        }
        Ok(rooms)
    }

    /// Switches the controllers on for what stands below `parent`.
    fn enable(&self, parent: &str, choice: &Choice, leaf: &Leaf) -> Result<(), Refusal> {
        let above = leaf.path.rsplit_once('/').map_or("", |(above, _)| above);
        for (at, _, side) in choice.sides.iter().filter(|(_, _, side)| !side.controller.is_empty()) {
            for folder in [parent, above] {
                let control = format!("{folder}/cgroup.subtree_control");
                let on = || words(&control).contains(&side.controller);
                if on() {
                    continue;
                }
                let switch = || file::write(&control, &format!("+{}", side.controller));
                let switched = match switch() {
                    Err(Errno::BUSY) if self.plan.move_self && self.plan.place == Where::Own => {
                        self.lot.site.move_runtime(parent).and_then(|()| switch())
                    }
                    other => other,
                };
                switched
                    .map_err(|errno| Refusal { at: *at, ..refusal(Stage::Controller, errno, control) })?;
            }
        }
        Ok(())
    }

    fn fill(&self, choice: &Choice, leaf: &Leaf) -> Result<(), Refusal> {
        for (at, optional, side) in &choice.sides {
            for write in &side.writes {
                let path = format!("{}/{}", leaf.path, write.file);
                match file::set(&path, &write.value, write.check) {
                    Err(Errno::NOENT) if *optional => {}
                    other => {
                        other.map_err(|errno| Refusal { at: *at, ..refusal(Stage::Limit, errno, path) })?
                    }
                }
            }
        }
        Ok(())
    }

    /// Not less than was required.
    fn check(&self, mut rooms: Rooms, usual: Option<&Home>) -> Result<Rooms, Refusal> {
        let v2 = usual.is_some() || rooms.home.is_some();
        let v1 = rooms.leaves.iter().any(Leaf::can_freeze);
        rooms.held.kill = match (v2, v1) {
            (true, _) => Version::Two,
            (false, true) => Version::One,
            _ => Version::None,
        };
        if rooms.held.kill < self.plan.require_kill {
            return Err(refusal(Stage::Require, Errno::OPNOTSUPP, "kill"));
        }
        if rooms.held.limits < self.plan.require_limits {
            return Err(refusal(Stage::Require, Errno::OPNOTSUPP, "limits"));
        }
        Ok(rooms)
    }
}

/// Makes the directory. A new one of v1's cpuset lets nobody in before it has processors and memory.
fn make(leaf: &Leaf, hierarchy: &Hierarchy, parent: &str) -> Result<(), Refusal> {
    leaf.make().map_err(|errno| refusal(Stage::Leaf, errno, &*leaf.path))?;
    if hierarchy.version != Version::One || !hierarchy.controllers.iter().any(|name| name == "cpuset") {
        return Ok(());
    }
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let above = words(&format!("{parent}/{name}")).concat();
        let path = format!("{}/{name}", leaf.path);
        if let Err(errno) = file::write(&path, &above) {
            leaf.end(Instant::now() + UNDO);
            return Err(refusal(Stage::Limit, errno, path));
        }
    }
    Ok(())
}

/// Held for as long as the tree lives. One that cannot be locked is as good, but for its grace after a runtime's death.
fn lock(leaf: &Leaf) -> Option<OwnedFd> {
    let directory = leaf.open().ok()?;
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockShared).ok().map(|()| directory)
}

impl Rooms {
    /// Nobody was ever in them, or nobody is any more. True where none is left.
    pub fn clear(&mut self, until: Instant) -> bool {
        self.leaves.retain(|leaf| !leaf.end(until));
        self.leaves.is_empty()
    }
}

/// Readable once the kernel has run out of memory for it, and when it is removed.
/// (admin-guide/cgroup-v1/memory.rst, 10. OOM Control.)
fn watch_oom(leaf: &Leaf) -> Result<OwnedFd, Errno> {
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let path = format!("{}/memory.oom_control", leaf.path);
    let control = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let words = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
    file::write(&format!("{}/cgroup.event_control", leaf.path), &words)?;
    Ok(event)
}

/// How many of its members v1 has killed for want of memory.
pub fn oom_kills(leaf: &Leaf) -> u64 {
    let text = file::read(&format!("{}/memory.oom_control", leaf.path)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}
