// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! A keeper without a child: it waits for a launch record.
//!
//! It is forked when the runtime asks for one, and it is back here when its
//! tree has ended by itself and nothing is left of it: the next child saves a
//! fork. It goes when the runtime closes its socket, and with runtime and
//! guardian.

use crate::guard::keeper::{poll, said, Keeper, Links};
use crate::guard::place::Found;
use crate::guard::table::Table;
use crate::kernel::socket;
use crate::kernel::sys::helper::{self, Title};
use crate::kernel::wire::{Assembler, FromKeeper, Launch, ToKeeper, PACKET};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::sync::{Mutex, PoisonError};

/// What a keeper is born with.
pub struct Birth<'a> {
    /// Its number. (The guardian may not have written it into the table yet.)
    pub id: u32,
    /// To the runtime's reactor.
    pub port: OwnedFd,
    /// The guardian holds the other end and never writes.
    pub leash: OwnedFd,
    /// The runtime's pidfd.
    pub runtime: OwnedFd,
    pub title: &'a Title,
    /// The resource limits that helpers have.
    pub limits: &'a [(u64, u64)],
    /// Where the guardian has put it.
    pub seat: (Table, usize),
    /// Where the cgroups of its children go.
    pub place: Found<'a>,
}

/// The life of a keeper; never returns to the guardian's code.
pub fn main(birth: Birth) -> ! {
    helper::exit(match live(birth) {
        Ok(()) => 0,
        Err(_) => 1, // the guardian sweeps and tells the runtime
    })
}

fn live(birth: Birth) -> Result<(), Errno> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let [port, leash, runtime] = helper::keep_only([birth.port, birth.leash, birth.runtime])?;
    let mut links = Links { port, leash, runtime, events: helper::child_events()? };
    let (table, at) = birth.seat;
    loop {
        let _ = rustix::thread::set_name(c"proton-spare");
        birth.title.show("proton-spare");
        table.grant(at, 0);
        let Some((launch, fds)) = read_launch(&links)? else {
            return Ok(()); // the runtime or the guardian is gone: nothing was started
        };
        let _ = rustix::thread::set_name(c"proton-keeper");
        birth.title.show("proton-keeper");
        table.grant(at, if launch.kill_on_owner_death { 0 } else { launch.grace_ms });
        let place = (birth.place, birth.id);
        links = match Keeper::start(launch, birth.limits, fds, place, links) {
            Ok(keeper) => match keeper.run()? {
                Some(links) => links,
                None => return Ok(()),
            },
            Err((port, stage, errno)) => {
                let failed = FromKeeper::Failed { stage, errno: errno.raw_os_error() };
                // Nobody to tell is no error: the runtime is gone then.
                let _ = socket::send(&port, &failed.encode(), &[]);
                return Ok(());
            }
        };
    }
}

/// Static, so that a keeper has only those of its pages that a record needs.
static RECORD: Mutex<[u8; PACKET]> = Mutex::new([0; PACKET]);

/// Puts the launch record together, with the child's 0, 1, 2 and its working directory.
fn read_launch(Links { port, leash, runtime, .. }: &Links) -> Result<Option<(Launch, [OwnedFd; 4])>, Errno> {
    let mut assembler = Assembler::default();
    let mut fds = Vec::new();
    let mut buffer = RECORD.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let mut waiting = [port, leash, runtime].map(|fd| PollFd::new(fd, PollFlags::IN));
        poll(&mut waiting, None)?;
        let [_, guardian, owner] = &waiting;
        if said(guardian) || said(owner) {
            return Ok(None);
        }
        let packet = match socket::receive(port, &mut buffer[..]) {
            // For the child before, said when its end was on its way already. (No first packet of a
            // launch record can be read as such: it begins with the length of the whole.)
            Ok(Some(packet)) if ToKeeper::decode(&buffer[..packet.len]).is_ok() => continue,
            Ok(Some(packet)) => packet,
            Ok(None) => return Ok(None),
            Err(Errno::AGAIN) => continue,
            Err(errno) => return Err(errno),
        };
        fds.extend(packet.fds);
        if let Some(launch) = assembler.push(&buffer[..packet.len]).map_err(|_| Errno::PROTO)? {
            let fds = fds.try_into().map_err(|_| Errno::PROTO)?;
            return Ok(Some((launch, fds)));
        }
    }
}
