// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! What a launch asks of cgroups. TypeScript names the files and the values of
//! both versions (src/limits.ts); a keeper writes those of the version that the
//! host has.

use super::words::from_number;
use super::{Malformed, Reader, Writer};

/// How what is read back is compared with what was written. The numbers are part of the ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Check {
    None = 0,
    /// The same text.
    Exact = 1,
    /// The same number, but for what is less than a page.
    Bytes = 2,
    /// The same set of numbers.
    Set = 3,
    /// One of its lines begins with the first word and holds the others.
    Line = 4,
}
from_number!(Check: None, Exact, Bytes, Set, Line);

/// Where the cgroups are to stand. The numbers are part of the ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Where {
    /// Below the runtime's own.
    Own = 0,
    /// Below the path.
    Base = 1,
    /// At the path itself.
    Path = 2,
}
from_number!(Where: Own, Base, Path);

/// A version of cgroups that is asked for at least. The numbers are part of the ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Version {
    None = 0,
    One = 1,
    Two = 2,
}
from_number!(Version: None, One, Two);

/// One file of a cgroup and what is written to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub file: String,
    pub value: String,
    pub check: Check,
}

/// What one version needs for a setting: the controller, none where any cgroup will do, and what is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    pub controller: String,
    pub writes: Vec<Write>,
}

/// One thing to be set, in either version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Left out where the host has no such file.
    pub optional: bool,
    pub v2: Option<Side>,
    pub v1: Option<Side>,
}

/// All that a launch asks of cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub place: Where,
    /// From the root of each hierarchy on.
    pub path: String,
    /// The first that is killed for want of memory ends the tree.
    pub end_on_oom: bool,
    /// The runtime may be moved to make room for controllers.
    pub move_self: bool,
    pub require_kill: Version,
    pub require_limits: Version,
    pub settings: Vec<Setting>,
    /// The files that are read at the end.
    pub figures: Vec<String>,
}

fn put_side(w: &mut Writer, side: &Option<Side>) {
    w.u32(u32::from(side.is_some()));
    let Some(Side { controller, writes }) = side else { return };
    w.blob(controller.as_bytes()).u32(writes.len() as u32);
    for Write { file, value, check } in writes {
        w.blob(file.as_bytes()).blob(value.as_bytes()).u32(*check as u32);
    }
}

fn take_side(r: &mut Reader) -> Result<Option<Side>, Malformed> {
    if !r.flag()? {
        return Ok(None);
    }
    let controller = r.word()?;
    let n = r.count(12)?;
    let one = |r: &mut Reader| {
        let (file, value) = (r.word()?, r.word()?);
        Ok(Write { file, value, check: Check::from_number(r.u32()?)? })
    };
    Ok(Some(Side { controller, writes: (0..n).map(|_| one(r)).collect::<Result<_, _>>()? }))
}

impl Plan {
    /// As it stands in a spec and in a launch record; nothing but a zero where there is none.
    pub fn put(plan: Option<&Plan>, w: &mut Writer) {
        w.u32(u32::from(plan.is_some()));
        let Some(plan) = plan else { return };
        w.u32(plan.place as u32).blob(plan.path.as_bytes());
        w.u32(u32::from(plan.end_on_oom)).u32(u32::from(plan.move_self));
        w.u32(plan.require_kill as u32).u32(plan.require_limits as u32);
        w.u32(plan.settings.len() as u32);
        for Setting { optional, v2, v1 } in &plan.settings {
            w.u32(u32::from(*optional));
            put_side(w, v2);
            put_side(w, v1);
        }
        w.u32(plan.figures.len() as u32);
        plan.figures.iter().for_each(|file| {
            w.blob(file.as_bytes());
        });
    }

    pub fn take(r: &mut Reader) -> Result<Option<Plan>, Malformed> {
        if !r.flag()? {
            return Ok(None);
        }
        let (place, path) = (Where::from_number(r.u32()?)?, r.word()?);
        let (end_on_oom, move_self) = (r.flag()?, r.flag()?);
        let require_kill = Version::from_number(r.u32()?)?;
        let require_limits = Version::from_number(r.u32()?)?;
        let n = r.count(12)?;
        let one = |r: &mut Reader| {
            let optional = r.flag()?;
            Ok(Setting { optional, v2: take_side(r)?, v1: take_side(r)? })
        };
        let settings = (0..n).map(|_| one(r)).collect::<Result<_, _>>()?;
        let n = r.count(4)?;
        let figures = (0..n).map(|_| r.word()).collect::<Result<_, _>>()?;
        Ok(Some(Plan { place, path, end_on_oom, move_self, require_kill, require_limits, settings, figures }))
    }
}
