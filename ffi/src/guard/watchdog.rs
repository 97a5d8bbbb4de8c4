// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! The guardian's parent, which acts when the guardian cannot.
//!
//! - It starts the guardian and waits for its end. Somebody who stops it achieves nothing: it is let go on.
//! - If the guardian ends before its time, whatever it leaves behind is ended.
//! - If the runtime is gone and the guardian does not leave in time, the guardian is ended.

use crate::guard::guardian::{self, Guarded};
use crate::guard::oom;
use crate::guard::place::Site;
use crate::guard::table::{Table, PATIENCE};
use crate::kernel::procfs;
use crate::kernel::sabotage::{self, sabotaged, Step};
use crate::kernel::socket;
use crate::kernel::sys::helper::{self, Forked, Title, Whose};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, Signal};
use std::time::{Duration, Instant};

/// What the runtime starts a watchdog with, by number (runtime/launch.rs):
/// the guardian's socket, one that only says by its end that the runtime is
/// gone, the library itself, and the runtime's pidfd.
const REQUESTS: i32 = 3;
const END_OF_RUNTIME: i32 = 4;
const RUNTIME: i32 = 6;
const FIRST_STRANGER: u32 = 7;

/// The life of a watchdog: all of the process.
pub fn main(title: &Title) -> ! {
    sabotage::arm();
    helper::settle_signals();
    let _ = rustix::thread::set_name(c"proton-watchdog");
    helper::exit(i32::from(live(title).is_err()))
}

fn live(title: &Title) -> Result<(), Errno> {
    helper::close_from(FIRST_STRANGER)?;
    let [requests, end, runtime] = [REQUESTS, END_OF_RUNTIME, RUNTIME].map(helper::adopt);
    helper::become_subreaper(Step::WatchdogSubreaper)?;
    rustix::process::chdir("/")?; // no file system of the runtime's is kept busy
    oom::lower();
    raise_limits();
    if !sabotaged(Step::Dumpable) {
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    }
    procfs::lists_children();
    let table = Table::new()?;
    let mut site = Site::of(&runtime);
    let place = site.find().or_else(|why| site.find_by_bus(why));
    let place = place.as_ref().map_err(|why| *why);
    let watchdog = rustix::process::getpid();
    let guardian = match helper::fork()? {
        Forked::Child => {
            guardian::main(requests, runtime, Guarded { table, place, site: &site, title, watchdog })
        }
        Forked::Parent(pid) => pid,
    };
    title.show("proton-watchdog");
    // The guardian's socket must end with the guardian; the library is not needed any more.
    drop(requests);
    let [end, runtime] = helper::keep_only([end, runtime])?;
    let events = helper::child_events()?;
    site.sweep();
    watch(&end, &runtime, &events, guardian, table)?;
    if sabotaged(Step::Watchdog) {
        return Ok(());
    }
    guardian::outlive(table, place, &events)?;
    site.leave();
    // The last word: nothing is left. Without it nobody can know that.
    let _ = socket::send(&end, &[1], &[]); // the runtime may be gone
    Ok(())
}

/// Helpers may have as much as they are allowed, whatever the runtime has taken upon itself for the moment: many
/// descriptors, one leash for each child, and children of all runtimes to come.
fn raise_limits() {
    use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
    let all =
        [Resource::Nofile, Resource::Nproc, Resource::Cpu, Resource::As, Resource::Data, Resource::Fsize];
    for resource in all {
        let maximum = getrlimit(resource).maximum;
        let _ = setrlimit(resource, Rlimit { current: maximum, maximum }); // the soft one serves as well
    }
}

/// Nobody has anything to say here: what is said all the same is nonsense, and not the end.
fn is_over(end: &OwnedFd) -> bool {
    loop {
        match socket::receive(end, &mut [0; 8]) {
            Ok(Some(_)) | Err(Errno::MSGSIZE) => {}
            Err(Errno::AGAIN) => return false,
            Ok(None) | Err(_) => return true,
        }
    }
}

/// Until the guardian has ended. Once the runtime is gone it has as long as its slowest keeper and a bit.
fn watch(
    end: &OwnedFd,
    runtime: &OwnedFd,
    events: &OwnedFd,
    guardian: i32,
    table: Table,
) -> Result<(), Errno> {
    let mut limit: Option<Instant> = None;
    loop {
        // Our child, and nobody else reaps it: its pid is its own.
        if helper::wait(Whose::Pid(guardian), true)?.is_some() {
            return Ok(());
        }
        let left = limit.map(|at| at.saturating_duration_since(Instant::now()));
        let mut waiting = vec![PollFd::new(events, PollFlags::IN)];
        if limit.is_none() {
            waiting.push(PollFd::new(runtime, PollFlags::IN));
            waiting.extend((!sabotaged(Step::Eof)).then(|| PollFd::new(end, PollFlags::IN)));
        }
        match rustix::event::poll(&mut waiting, left.and_then(|d| Timespec::try_from(d).ok()).as_ref()) {
            Err(Errno::INTR) => continue,
            other => other.map(drop)?,
        }
        let said: Vec<bool> = waiting[1..].iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(waiting);
        helper::drain_events(events);
        helper::continue_stopped(|pid| pid == guardian);
        let gone = said.first() == Some(&true) || (said.get(1) == Some(&true) && is_over(end));
        if limit.is_none() && gone {
            let slowest = table.keepers().map(|(at, _)| table.allowance(at)).max().unwrap_or(Duration::ZERO);
            limit = Some(Instant::now() + slowest + PATIENCE);
        }
        if limit.is_some_and(|at| at <= Instant::now()) {
            let _ = Pid::from_raw(guardian).map(|pid| rustix::process::kill_process(pid, Signal::KILL));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_nonsense_and_only_the_end_is_the_end() {
        let (near, far) = socket::pair().expect("a pair");
        assert!(!is_over(&far));
        for nonsense in [&[0][..], &[7; 8], &[255; 64]] {
            socket::send(&near, nonsense, &[]).expect("room");
        }
        assert!(!is_over(&far));
        socket::send(&near, &[1], &[]).expect("room");
        drop(near);
        assert!(is_over(&far));
    }
}
