// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! A keeper without a child: it waits for a launch record.
//!
//! It is forked when the runtime asks for one, and it is back here when its
//! tree has ended by itself and nothing is left of it: the next child saves a
//! fork. It goes when the runtime closes its socket, and with runtime and
//! guardian.

use crate::guard::keeper::{poll, said, Keeper, Links, Prepared};
use crate::guard::oom;
use crate::guard::place::is_runtimes;
use crate::guard::record;
use crate::guard::rooms::Lot;
use crate::kernel::sabotage::{fault, sabotaged, Step};
use crate::kernel::socket;
use crate::kernel::sys::helper::{self, Title};
use crate::kernel::wire::{Assembler, FromKeeper, Launch, Stage, ToKeeper};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// What a keeper is born with.
pub struct Birth<'a> {
    /// To the runtime's reactor.
    pub port: OwnedFd,
    /// The guardian holds the other end and never writes.
    pub leash: OwnedFd,
    /// The runtime's pidfd.
    pub runtime: OwnedFd,
    pub title: &'a Title,
    /// The resource limits that helpers have.
    pub limits: &'a [(u64, u64)],
    /// Its number, its place in the table, and where the cgroups of its children go. (The guardian may not have
    /// written it into the table yet.)
    pub lot: Lot<'a>,
}

/// The life of a keeper; never returns to the guardian's code.
pub fn main(birth: Birth) -> ! {
    helper::exit(match live(birth) {
        Ok(()) => 0,
        Err(_) => 1, // the guardian sweeps and tells the runtime
    })
}

fn live(birth: Birth) -> Result<(), Errno> {
    helper::become_subreaper(Step::KeeperSubreaper)?;
    fault("birth")?;
    helper::interrupt_nobody(); // its child's exec wakes it, and what runs then is the child
    helper::take_usage(); // what the guardian has reaped is not of our children
    let [port, leash, runtime] = helper::keep_only([birth.port, birth.leash, birth.runtime])?;
    let mut links = Links { port, leash, runtime, events: helper::child_events()? };
    let seat = Seat { limits: birth.limits, lot: birth.lot };
    while let Some(keeper) = next(links, &seat, birth.title)? {
        links = match keeper.run()? {
            Some(links) => links,
            None => break,
        };
    }
    Ok(())
}

/// A keeper with the next child; none where nothing is to be started any more, which has been told.
/// Never inlined: what it takes would stand on the stack of each keeper for as long as its child lives.
#[inline(never)]
fn next(links: Links, seat: &Seat<'_>, title: &Title) -> Result<Option<Box<Keeper>>, Errno> {
    let (table, at) = seat.lot.seat;
    let _ = rustix::thread::set_name(c"proton-spare");
    title.show("proton-spare");
    table.grant(at, 0);
    let (launch, fds, prepared) = match read_launch(&links, seat) {
        Ok(Some(all)) => all,
        Ok(None) => return Ok(None), // the runtime or the guardian is gone: nothing was started
        Err(errno) => return tell_failure(&links.port, Stage::Keeper, errno).map(|()| None),
    };
    let _ = rustix::thread::set_name(c"proton-keeper");
    title.show("proton-keeper");
    table.grant(at, if launch.kill_on_owner_death { 0 } else { launch.grace_ms });
    let started = match prepared.map_or_else(|| seat.prepare(launch.cgroup), Ok) {
        Ok(prepared) => Keeper::start(launch, fds, (prepared, seat.lot), links),
        Err((stage, errno)) => Err((links.port, stage, errno)),
    };
    match started {
        Ok(keeper) => Ok(Some(keeper)),
        Err((port, stage, errno)) => tell_failure(&port, stage, errno).map(|()| None),
    }
}

/// The other end is closed.
fn has_left(port: &OwnedFd) -> Result<bool, Errno> {
    let mut waiting = [PollFd::new(port, PollFlags::empty())];
    poll(&mut waiting, Some(Instant::now()))?;
    let [port] = &waiting;
    Ok(said(port))
}

fn tell_failure(port: &OwnedFd, stage: Stage, errno: Errno) -> Result<(), Errno> {
    let failed = FromKeeper::Failed { stage, errno: errno.raw_os_error() };
    // Nobody to tell is no error: the runtime is gone then.
    let _ = socket::send(port, &failed.encode(), &[]);
    Ok(())
}

/// What a keeper has for each of its children.
struct Seat<'a> {
    limits: &'a [(u64, u64)],
    lot: Lot<'a>,
}

impl<'a> Seat<'a> {
    fn prepare(&self, cgroup: bool) -> Result<Prepared<'a>, (Stage, Errno)> {
        Prepared::new(cgroup, self.limits, (self.lot.found, self.lot.id))
    }
}

/// How long a keeper that has prepared looks out for the launch record without going to sleep: to be woken
/// would take a tenth of what a start takes, and the record is on its way.
const WATCHFUL: Duration = Duration::from_millis(1);

/// How long what was prepared is kept for it.
const PATIENCE: Duration = Duration::from_millis(50);

/// With one alone, whatever is done early is done at the runtime's expense.
fn has_processors() -> bool {
    rustix::thread::sched_getaffinity(None).is_ok_and(|set| set.count() > 1)
}

type Asked<'a> = (Launch, Vec<OwnedFd>, Option<Prepared<'a>>);

/// What has come of a launch so far.
struct Waiting<'a, 'b> {
    seat: &'b Seat<'a>,
    assembler: Assembler,
    fds: Vec<OwnedFd>,
    prepared: Option<Prepared<'a>>,
    /// When a record was announced that has not begun to come.
    since: Option<Instant>,
    /// When what was lent to the last child is taken back, should there be no other before.
    quiet: Option<Instant>,
}

impl<'a> Waiting<'a, '_> {
    /// Sleeps, unless the record is to come at any moment. False when the runtime or the guardian is gone.
    fn rest(&mut self, Links { port, leash, runtime, .. }: &Links) -> Result<bool, Errno> {
        if self.since.is_some_and(|since| since.elapsed() < WATCHFUL) {
            std::thread::yield_now();
            return Ok(true);
        }
        let mut waiting = [port, leash, runtime].map(|fd| PollFd::new(fd, PollFlags::IN));
        poll(&mut waiting, self.since.map(|since| since + PATIENCE).or(self.quiet))?;
        let [asked, guardian, owner] = &waiting;
        if !said(asked) && self.since.take_if(|since| since.elapsed() >= PATIENCE).is_some() {
            self.prepared.take().into_iter().for_each(Prepared::undo); // there is no such program, or no permission
        }
        if self.quiet.take_if(|at| *at <= Instant::now()).is_some() {
            oom::take_back();
        }
        let left = said(guardian) && !sabotaged(Step::Leash);
        Ok(!left && !said(owner))
    }

    /// A record is being made.
    fn prepare(&mut self, cgroup: bool) {
        if !has_processors() {
            return; // the runtime makes it sooner without us
        }
        self.keep_fitting(cgroup);
        if self.prepared.is_none() {
            self.prepared = self.seat.prepare(cgroup).ok().map(Prepared::with_child);
            // what fails now fails again, and is told then
        }
        self.since = Some(Instant::now());
    }

    fn keep_fitting(&mut self, cgroup: bool) {
        match self.prepared.take() {
            Some(prepared) if prepared.cgroup() == cgroup => self.prepared = Some(prepared),
            other => other.into_iter().for_each(Prepared::undo),
        }
    }

    /// A packet of the record; all of it with the last.
    fn take(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) -> Result<Option<Asked<'a>>, Errno> {
        self.since = None;
        self.fds.extend(fds);
        let Some(launch) = self.assembler.push(bytes).map_err(|_| Errno::PROTO)? else { return Ok(None) };
        self.keep_fitting(launch.cgroup);
        let fds = std::mem::take(&mut self.fds);
        if fds.len() != 4 + launch.asked.as_ref().map_or(0, |asked| asked.fds.len()) {
            return Err(Errno::PROTO);
        }
        Ok(Some((launch, fds, self.prepared.take())))
    }
}

impl Drop for Waiting<'_, '_> {
    fn drop(&mut self) {
        self.prepared.take().into_iter().for_each(Prepared::undo);
    }
}

/// Puts the launch record together, with the child's 0, 1, 2, its working
/// directory and its other descriptors, and with what could be prepared for it.
fn read_launch<'a>(links: &Links, seat: &Seat<'a>) -> Result<Option<Asked<'a>>, Errno> {
    let (assembler, fds) = (Assembler::default(), Vec::new());
    let quiet = oom::is_lent().then(|| Instant::now() + PATIENCE);
    let mut waiting = Waiting { seat, assembler, fds, prepared: None, since: None, quiet };
    let mut buffer = record::buffer();
    while waiting.rest(links)? {
        let packet = match socket::receive(&links.port, &mut buffer[..]) {
            Ok(Some(packet)) => packet,
            Ok(None) if sabotaged(Step::Eof) => continue,
            Ok(None) | Err(Errno::CONNRESET) => return Ok(None),
            Err(Errno::AGAIN) => continue,
            Err(errno) => return Err(errno),
        };
        if !is_runtimes(seat.lot.site.runtime, &packet) {
            continue; // somebody that the socket has leaked to
        }
        if packet.cut {
            return Err(Errno::MFILE);
        }
        // (No first packet of a launch record can be read as a message: it begins with the length of the whole.)
        let bytes = &buffer[..packet.len];
        match ToKeeper::decode(bytes) {
            Ok(ToKeeper::Prepare { cgroup }) => waiting.prepare(cgroup),
            Ok(_) => {} // for the child before, said when its end was on its way already
            Err(_) => match waiting.take(bytes, packet.fds)? {
                None => {}
                // It may have lain here until nobody wants it any more.
                Some(_) if has_left(&links.port)? => return Ok(None),
                whole => return Ok(whole),
            },
        }
    }
    Ok(None)
}
