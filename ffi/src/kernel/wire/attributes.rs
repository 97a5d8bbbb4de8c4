// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! What a launch asks for beyond what a child inherits: who it is, what it may
//! do, and what it holds. One form for both records that carry it, the spec
//! and the launch record; most launches ask for nothing, which is one zero.

use super::{Malformed, Reader, Writer};

/// At most this many descriptors above 2: each takes two bits of an event and one place in a packet.
pub const FDS_MAX: usize = 12;

/// Resource limits by number, RLIMIT_CPU first.
pub const RLIMITS: u32 = 16;

/// What one of the child's descriptors above 2 is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The far end of a socket of ours.
    Piped,
    /// A copy of this descriptor of the runtime's.
    Descriptor(u32),
}

/// A resource limit that is not inherited; what is not said of it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    pub number: u32,
    pub soft: Option<u64>,
    pub hard: Option<u64>,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub columns: u16,
    pub rows: u16,
}

/// Supplementary groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Groups {
    /// They came with a user's name: not insisted upon where the runtime is that user already.
    pub implied: bool,
    pub ids: Vec<u32>,
}

/// Everything that can be asked for. `None` and empty: not asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    pub no_new_privs: bool,
    pub umask: Option<u32>,
    pub nice: Option<i32>,
    pub oom_score_adj: Option<i32>,
    /// What of the bounding set is kept, a bit for each capability.
    pub bounding: Option<u64>,
    pub ambient: Option<u64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub groups: Option<Groups>,
    pub rlimits: Vec<Rlimit>,
    /// By number, each once, 3 or more.
    pub fds: Vec<(u32, Source)>,
    /// A terminal of its own as 0, 1 and 2.
    pub terminal: Option<Size>,
}

const NO_NEW_PRIVS: u32 = 1;
const UMASK: u32 = 1 << 1;
const NICE: u32 = 1 << 2;
const OOM_SCORE_ADJ: u32 = 1 << 3;
const BOUNDING: u32 = 1 << 4;
const AMBIENT: u32 = 1 << 5;
const UID: u32 = 1 << 6;
const GID: u32 = 1 << 7;
const GROUPS: u32 = 1 << 8;
const RLIMIT: u32 = 1 << 9;
const FDS: u32 = 1 << 10;
const TERMINAL: u32 = 1 << 11;
const ALL: u32 = (1 << 12) - 1;

impl Attributes {
    fn mask(&self) -> u32 {
        [
            (NO_NEW_PRIVS, self.no_new_privs),
            (UMASK, self.umask.is_some()),
            (NICE, self.nice.is_some()),
            (OOM_SCORE_ADJ, self.oom_score_adj.is_some()),
            (BOUNDING, self.bounding.is_some()),
            (AMBIENT, self.ambient.is_some()),
            (UID, self.uid.is_some()),
            (GID, self.gid.is_some()),
            (GROUPS, self.groups.is_some()),
            (RLIMIT, !self.rlimits.is_empty()),
            (FDS, !self.fds.is_empty()),
            (TERMINAL, self.terminal.is_some()),
        ]
        .iter()
        .map(|&(bit, on)| if on { bit } else { 0 })
        .sum()
    }

    /// One word says what follows.
    pub fn put(asked: Option<&Attributes>, w: &mut Writer) {
        w.u32(asked.map_or(0, Attributes::mask));
        let Some(all) = asked else { return };
        all.umask.map(|n| w.u32(n));
        all.nice.map(|n| w.i32(n));
        all.oom_score_adj.map(|n| w.i32(n));
        all.bounding.map(|n| w.u64(n));
        all.ambient.map(|n| w.u64(n));
        all.uid.map(|n| w.u32(n));
        all.gid.map(|n| w.u32(n));
        if let Some(Groups { implied, ids }) = &all.groups {
            w.u32(u32::from(*implied)).u32(ids.len() as u32);
            for id in ids {
                w.u32(*id);
            }
        }
        put_list(w, &all.rlimits, |w, limit| limit.put(w));
        put_list(w, &all.fds, |w, &(number, source)| {
            let (kind, own) = match source {
                Source::Piped => (0, 0),
                Source::Descriptor(own) => (1, own),
            };
            w.u32(number).u32(kind).u32(own);
        });
        all.terminal.map(|size| w.u32(u32::from(size.columns)).u32(u32::from(size.rows)));
    }

    /// Boxed: as a rule there are none.
    pub fn take(r: &mut Reader) -> Result<Option<Box<Attributes>>, Malformed> {
        let mask = r.u32()?;
        if mask == 0 {
            return Ok(None);
        }
        if mask & !ALL != 0 {
            return Err(Malformed);
        }
        let on = |bit| mask & bit != 0;
        Ok(Some(Box::new(Attributes {
            no_new_privs: on(NO_NEW_PRIVS),
            umask: if on(UMASK) { Some(bits(r)?) } else { None },
            nice: if on(NICE) { Some(r.i32()?) } else { None },
            oom_score_adj: if on(OOM_SCORE_ADJ) { Some(r.i32()?) } else { None },
            bounding: if on(BOUNDING) { Some(r.u64()?) } else { None },
            ambient: if on(AMBIENT) { Some(r.u64()?) } else { None },
            uid: if on(UID) { Some(id(r)?) } else { None },
            gid: if on(GID) { Some(id(r)?) } else { None },
            groups: if on(GROUPS) { Some(Groups::take(r)?) } else { None },
            rlimits: if on(RLIMIT) { take_rlimits(r)? } else { Vec::new() },
            fds: if on(FDS) { take_fds(r)? } else { Vec::new() },
            terminal: if on(TERMINAL) { Some(Size { columns: short(r)?, rows: short(r)? }) } else { None },
        })))
    }
}

fn put_list<T>(w: &mut Writer, list: &[T], put: impl Fn(&mut Writer, &T)) {
    if !list.is_empty() {
        w.u32(list.len() as u32);
        list.iter().for_each(|item| put(w, item));
    }
}

/// The largest number means "leave it" to the calls that take an id.
fn id(r: &mut Reader) -> Result<u32, Malformed> {
    Some(r.u32()?).filter(|&id| id != u32::MAX).ok_or(Malformed)
}

/// A umask.
fn bits(r: &mut Reader) -> Result<u32, Malformed> {
    Some(r.u32()?).filter(|&bits| bits <= 0o777).ok_or(Malformed)
}

fn short(r: &mut Reader) -> Result<u16, Malformed> {
    u16::try_from(r.u32()?).map_err(|_| Malformed)
}

impl Groups {
    fn take(r: &mut Reader) -> Result<Self, Malformed> {
        let (implied, n) = (r.flag()?, r.count(4)?);
        Ok(Groups { implied, ids: (0..n).map(|_| id(r)).collect::<Result<_, _>>()? })
    }
}

impl Rlimit {
    /// Which of the two are said, and both.
    fn put(&self, w: &mut Writer) {
        let which = u32::from(self.soft.is_some()) | u32::from(self.hard.is_some()) << 1;
        w.u32(self.number).u32(which).u64(self.soft.unwrap_or(0)).u64(self.hard.unwrap_or(0));
    }

    fn take(r: &mut Reader) -> Result<Self, Malformed> {
        let (number, which, soft, hard) = (r.u32()?, r.u32()?, r.u64()?, r.u64()?);
        let one = |bit: u32, value: u64| match which & bit {
            0 if value == 0 => Ok(None),
            0 => Err(Malformed),
            _ => Ok(Some(value)),
        };
        match which {
            1..=3 if number < RLIMITS => Ok(Rlimit { number, soft: one(1, soft)?, hard: one(2, hard)? }),
            _ => Err(Malformed),
        }
    }
}

/// By number, each once.
fn ascending<T>(list: Vec<T>, number: impl Fn(&T) -> u32) -> Result<Vec<T>, Malformed> {
    let sorted = list.windows(2).all(|two| number(&two[0]) < number(&two[1]));
    Some(list).filter(|list| sorted && !list.is_empty()).ok_or(Malformed)
}

fn take_rlimits(r: &mut Reader) -> Result<Vec<Rlimit>, Malformed> {
    let n = r.count(24)?;
    ascending((0..n).map(|_| Rlimit::take(r)).collect::<Result<_, _>>()?, |limit| limit.number)
}

fn take_fds(r: &mut Reader) -> Result<Vec<(u32, Source)>, Malformed> {
    let n = r.count(12)?;
    if n > FDS_MAX {
        return Err(Malformed);
    }
    let one = |r: &mut Reader| match (r.u32()?, r.u32()?, r.u32()?) {
        (number, _, _) if !(3..=i32::MAX as u32).contains(&number) => Err(Malformed),
        (number, 0, 0) => Ok((number, Source::Piped)),
        (number, 1, own) if own <= i32::MAX as u32 => Ok((number, Source::Descriptor(own))),
        _ => Err(Malformed),
    };
    ascending((0..n).map(|_| one(r)).collect::<Result<_, _>>()?, |&(number, _)| number)
}
