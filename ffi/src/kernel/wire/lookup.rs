// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! The record in which TypeScript asks who somebody is, and the answer.

use super::{Malformed, Reader, Writer, ABI};

/// A user or group, as a caller names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    Nobody,
    Name(Vec<u8>),
    Number(u32),
}

/// A question to the user database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    pub user: Who,
    /// The group that takes the place of the user's own.
    pub group: Who,
    /// Names of supplementary groups.
    pub groups: Vec<Vec<u8>>,
}

/// Which of them there is not, or could not be looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    User,
    Group,
    /// By its place in the list.
    Groups(u32),
}

/// A user that was looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub uid: u32,
    pub gid: u32,
    pub name: Vec<u8>,
    pub home: Vec<u8>,
    /// Of one that was named: the groups of the database.
    pub own: Vec<u32>,
}

/// What is known of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub user: Option<Found>,
    pub group: Option<u32>,
    pub groups: Vec<u32>,
}

impl Who {
    fn take(r: &mut Reader) -> Result<Self, Malformed> {
        match r.u32()? {
            0 => Ok(Who::Nobody),
            1 => Some(r.text()?).filter(|name| !name.is_empty()).map(Who::Name).ok_or(Malformed),
            2 => Ok(Who::Number(r.u32()?)),
            _ => Err(Malformed),
        }
    }
}

impl Lookup {
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        if r.u32()? != ABI {
            return Err(Malformed);
        }
        let (user, group) = (Who::take(&mut r)?, Who::take(&mut r)?);
        let n = r.count(4)?;
        let groups = (0..n).map(|_| r.text()).collect::<Result<_, _>>()?;
        r.end()?;
        Ok(Lookup { user, group, groups })
    }
}

impl Unknown {
    pub fn encode(self, errno: i32) -> Vec<u8> {
        let (what, at) = match self {
            Unknown::User => (0, 0),
            Unknown::Group => (1, 0),
            Unknown::Groups(at) => (2, at),
        };
        Writer::default().u32(0).u32(what).u32(at).i32(errno).done()
    }
}

impl Answer {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.u32(1).u32(u32::from(self.user.is_some()));
        if let Some(Found { uid, gid, name, home, own }) = &self.user {
            w.u32(*uid).u32(*gid).blob(name).blob(home);
            put_ids(&mut w, own);
        }
        w.u32(u32::from(self.group.is_some())).u32(self.group.unwrap_or(0));
        put_ids(&mut w, &self.groups);
        w.done()
    }
}

fn put_ids(w: &mut Writer, ids: &[u32]) {
    w.u32(ids.len() as u32);
    for id in ids {
        w.u32(*id);
    }
}
