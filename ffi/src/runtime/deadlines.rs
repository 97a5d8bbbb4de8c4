// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! When to look at a port again: one moment for each, and one timer for all.
//! Whoever sets a moment wakes nobody: the timer does, where it is the first.

use crate::runtime::port::lock;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::{Duration, Instant};

#[derive(Default)]
struct All {
    by_time: BTreeSet<(Instant, i32)>,
    by_port: HashMap<i32, Instant>,
    /// When the timer rings: with the first of all, or before it.
    armed: Option<Instant>,
}

pub struct Deadlines {
    /// Readable when a moment may have come.
    pub timer: OwnedFd,
    all: Mutex<All>,
}

impl Deadlines {
    pub fn new() -> Result<Self, Errno> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Deadlines { timer, all: Mutex::default() })
    }

    /// A port is to be looked at then, or sooner where that was said before.
    pub fn set(&self, port: i32, at: Instant) {
        let mut all = lock(&self.all);
        if all.by_port.get(&port).is_some_and(|&before| before <= at) {
            return;
        }
        all.remove(port);
        all.by_port.insert(port, at);
        all.by_time.insert((at, port));
        self.arm(&mut all);
    }

    /// It is over.
    pub fn remove(&self, port: i32) {
        lock(&self.all).remove(port);
    }

    /// The timer has rung: the ports whose moment has come. They have none any more.
    pub fn due(&self) -> Vec<i32> {
        let _ = rustix::io::read(&self.timer, &mut [0; 8]); // EAGAIN: it has been set anew meanwhile
        let now = Instant::now();
        let mut all = lock(&self.all);
        let mut due = Vec::new();
        while let Some(&(at, port)) = all.by_time.first().filter(|(at, _)| *at <= now) {
            all.by_time.remove(&(at, port));
            all.by_port.remove(&port);
            due.push(port);
        }
        all.armed = None;
        self.arm(&mut all);
        due
    }

    fn arm(&self, all: &mut All) {
        let Some(&(first, _)) = all.by_time.first() else { return };
        if all.armed.is_some_and(|at| at <= first) {
            return;
        }
        // Nothing at all would stop it.
        let left = first.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let Ok(it_value) = Timespec::try_from(left) else { return }; // further away than any clock goes
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let new = Itimerspec { it_interval, it_value };
        // Nothing in it can be refused.
        if rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &new).is_ok() {
            all.armed = Some(first);
        }
    }
}

impl All {
    fn remove(&mut self, port: i32) {
        if let Some(at) = self.by_port.remove(&port) {
            self.by_time.remove(&(at, port));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags};

    fn rings(deadlines: &Deadlines) -> bool {
        let mut waiting = [PollFd::new(&deadlines.timer, PollFlags::IN)];
        let minute = Timespec { tv_sec: 60, tv_nsec: 0 };
        rustix::event::poll(&mut waiting, Some(&minute)) == Ok(1)
    }

    #[test]
    fn the_sooner_moment_counts_and_comes_once() {
        let deadlines = Deadlines::new().expect("a timer");
        let now = Instant::now();
        let hour = Duration::from_secs(3600);
        deadlines.set(1, now + hour);
        deadlines.set(1, now + Duration::from_millis(5));
        deadlines.set(1, now + hour * 2);
        deadlines.set(2, now + hour);
        assert!(rings(&deadlines));
        assert_eq!(deadlines.due(), [1]);
        assert_eq!(deadlines.due(), [0; 0]);
    }

    #[test]
    fn a_port_that_is_over_is_not_looked_at_and_leaves_nothing() {
        let deadlines = Deadlines::new().expect("a timer");
        let soon = Instant::now() + Duration::from_millis(5);
        deadlines.set(1, soon);
        deadlines.set(2, soon + Duration::from_millis(5));
        deadlines.remove(1);
        assert!(rings(&deadlines), "it was armed for the first");
        let mut due = deadlines.due();
        while due.is_empty() {
            assert!(rings(&deadlines));
            due = deadlines.due();
        }
        assert_eq!(due, [2]);
        let all = lock(&deadlines.all);
        assert!(all.by_time.is_empty() && all.by_port.is_empty() && all.armed.is_none());
    }
}
