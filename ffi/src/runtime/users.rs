// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Names of users and groups, looked up on a short-lived thread: the database
//! may be a server that does not answer, and neither JavaScript nor the
//! reactor is to wait for it.

use crate::kernel::sabotage::{sabotaged, Step};
use crate::kernel::sys::{host, users};
use crate::kernel::wire::{Answer, Found, Lookup, Unknown, Who};
use crate::runtime::environment::errno_of;
use crate::runtime::reactor::reactor;
use rustix::io::Errno;
use rustix::process::{getegid, geteuid, getgid, getgroups, getuid};
use rustix::thread::{capabilities, CapabilitySet};

/// Asks. The answer is an event with this number; [`answer`] takes it.
pub fn look_up(env: u32, question: &[u8]) -> Result<u32, Errno> {
    let reactor = reactor()?;
    let env = reactor.env(env)?;
    let question = Lookup::decode(question).map_err(|_| Errno::INVAL)?;
    let ticket = reactor.next_id() & i32::MAX as u32;
    let own = Own::of_this_thread();
    let builder = std::thread::Builder::new().name("proton-lookup".into());
    let asked = builder.spawn(move || {
        host::block_all_signals();
        while sabotaged(Step::SlowLookup) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let answer = found(&question, own.as_ref()).map(|answer| answer.encode());
        env.answer(ticket, answer.unwrap_or_else(|(what, errno)| what.encode(errno.raw_os_error())));
    });
    asked.map(|_| ticket).map_err(|error| errno_of(&error)) // nobody waits for its end
}

/// The answer to a question, once; ERANGE, and it stays, where it does not fit into `most` bytes.
pub fn answer(env: u32, ticket: u32, most: usize) -> Result<Vec<u8>, Errno> {
    reactor()?.env(env)?.take_answer(ticket, most)
}

type Failed = (Unknown, Errno);

/// Who the asking thread is, where that is but one user.
struct Own {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    /// It may take on other groups.
    changes: bool,
}

impl Own {
    fn of_this_thread() -> Option<Own> {
        let (uid, gid) = (getuid(), getgid());
        if uid != geteuid() || gid != getegid() {
            return None;
        }
        let groups = getgroups().ok()?.iter().map(|gid| gid.as_raw()).collect();
        let changes = capabilities(None).ok()?.effective.contains(CapabilitySet::SETGID);
        Some(Own { uid: uid.as_raw(), gid: gid.as_raw(), groups, changes })
    }
}

fn known<T>(what: Unknown, answer: Result<Option<T>, Errno>) -> Result<T, Failed> {
    answer.and_then(|found| found.ok_or(Errno::NOENT)).map_err(|errno| (what, errno))
}

fn found(Lookup { user, group, groups }: &Lookup, own: Option<&Own>) -> Result<Answer, Failed> {
    let line = match user {
        Who::Nobody => None,
        Who::Name(name) => Some(known(Unknown::User, users::user_named(name))?),
        // Oneself needs no line in the database, as in containers that run as any number.
        Who::Number(uid) => Some(match own.filter(|own| own.uid == *uid) {
            Some(own) => users::User { name: Vec::new(), uid: *uid, gid: own.gid, home: Vec::new() },
            None => known(Unknown::User, users::user_of(*uid))?,
        }),
    };
    let group = match group {
        Who::Nobody => None,
        Who::Name(name) => Some(known(Unknown::Group, users::group_named(name))?),
        Who::Number(gid) => Some(*gid),
    };
    let each = groups.iter().enumerate();
    let groups = each.map(|(at, name)| known(Unknown::Groups(at as u32), users::group_named(name)));
    let groups = groups.collect::<Result<_, _>>()?;
    let named = matches!(user, Who::Name(_));
    let user = line.map(|users::User { name, uid, gid, home }| {
        // Whoever is this user already, and may take on no other groups, stays as it is.
        let stays = own.filter(|own| own.uid == uid && !own.changes && group.is_none());
        let gid = stays.map_or(gid, |own| own.gid);
        let own = match stays {
            _ if !named => Ok(Vec::new()),
            Some(own) => Ok(own.groups.clone()),
            None => users::groups_of(&name, group.unwrap_or(gid)),
        };
        own.map(|own| Found { uid, gid, name, home, own }).map_err(|errno| (Unknown::User, errno))
    });
    Ok(Answer { user: user.transpose()?, group, groups })
}
