// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Ports that are late: one that is not over when it should be, one that does
//! not start because a helper does not read, one that was asked and does not
//! answer. Whoever is next above takes over, and the runtime is the last:
//!
//! - a keeper that is late is its guardian's to end;
//! - a guardian that does not read is continued, and then gets no new ports;
//! - a start that nobody has begun is called off;
//! - what has a cgroup the runtime ends by itself; else the guardian is ended, and its watchdog goes on;
//! - and a port whose helpers all fail is told to be over, with a survivor, so that nobody waits for ever.

use super::{Reactor, PATIENCE};
use crate::kernel::cgroup::Leaf;
use crate::kernel::sabotage::{sabotaged, Step};
use crate::kernel::tree::{Outcome, UNSEEN};
use crate::kernel::wire::{Lack, Stage, ToGuardian, ToKeeper};
use crate::runtime::pair::Pair;
use crate::runtime::port::{lock, Port, State, Terms, SIGNALLED};
use crate::runtime::silence::TICK;
use rustix::io::Errno;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a helper may leave a start or a request lying before it is looked at.
const NOTICE: Duration = Duration::from_secs(5);

/// So many looks in a row at a guardian that does not read are its end.
const LOOKS: u32 = 5;

/// When the runtime itself ends a tree's cgroups: a guardian has had the time for it.
const OWN_HAND: Duration = Duration::from_secs(7);

/// When nothing more is to be expected.
const GIVEN_UP: Duration = Duration::from_secs(12);

/// What a keeper takes of itself for the end of a tree (guard/keeper.rs).
const HARD_PHASE: Duration = Duration::from_secs(5);

fn ms(n: u32) -> Duration {
    Duration::from_millis(u64::from(n))
}

impl Reactor {
    /// The launch record has been sent.
    pub fn expect_start(&self, port: &Port, timeout_ms: Option<u32>) {
        let now = Instant::now();
        if let Some(timeout) = timeout_ms {
            let grace = port.terms.get().map_or(0, |terms| terms.grace_ms);
            self.due_by(port, now + ms(timeout) + ms(grace) + HARD_PHASE + PATIENCE);
        }
        self.deadlines.set(port.handle, now + NOTICE);
    }

    /// A port is to be over by then, or sooner where that was said before.
    pub(super) fn due_by(&self, port: &Port, at: Instant) {
        let mut state = lock(&port.state);
        state.due = Some(state.due.map_or(at, |before| before.min(at)));
        drop(state);
        self.deadlines.set(port.handle, at);
    }

    /// Its keeper is lost: the guardian has so long to tell what has become of the tree.
    pub(super) fn expect_word(&self, port: &Port) {
        self.due_by(port, Instant::now() + HARD_PHASE + PATIENCE);
    }

    /// Tells the keeper what it is to answer; EAGAIN where it has left too much unread.
    pub fn request(&self, port: &Port, message: ToKeeper) -> Result<(), Errno> {
        if lock(&port.keeper).is_full() {
            return Err(Errno::AGAIN);
        }
        let until = Instant::now() + NOTICE;
        lock(&port.state).asked.push_back(until);
        self.deadlines.set(port.handle, until);
        self.tell(port, message);
        Ok(())
    }

    /// Looks at those whose moment has come.
    pub(super) fn look_at_late(&self) {
        for handle in self.deadlines.due() {
            let found = lock(&self.shared).ports.get(handle).cloned();
            if let Some(port) = found.filter(|port| !port.is_over()) {
                self.look_at(&port, Instant::now());
            }
        }
    }

    fn look_at(&self, port: &Arc<Port>, now: Instant) {
        self.answer_for(port, now);
        let Some(pair) = lock(&self.shared).pairs.get(&port.pair).cloned() else { return };
        let state = lock(&port.state);
        let (is_late, waits) = (state.is_late(now), !state.started);
        drop(state);
        if is_late {
            self.end_late(port, &pair, now);
        } else if waits {
            self.look_at_start(port, &pair, now);
        }
        let next = lock(&port.state).next(now);
        if let (false, Some(next)) = (port.is_over(), next) {
            self.deadlines.set(port.handle, next);
        }
    }

    /// Whoever waits for an answer of a keeper that gives none is told so. Should it come later nobody is told it.
    fn answer_for(&self, port: &Arc<Port>, now: Instant) {
        let mut state = lock(&port.state);
        let mut any = false;
        while state.asked.pop_front_if(|until| *until <= now).is_some() {
            state.answers.push_back(-Errno::TIMEDOUT.raw_os_error());
            state.forgone += 1;
            any = true;
        }
        drop(state);
        if any {
            port.announce(SIGNALLED);
        }
    }

    /// A start takes its time on the way to the exec, which is the program's affair; or a helper does not read.
    fn look_at_start(&self, port: &Arc<Port>, pair: &Arc<Pair>, now: Instant) {
        if lock(&port.keeper).is_read() {
            return;
        }
        let looks = self.look_at_guardian(pair, now);
        let mut state = lock(&port.state);
        let called_off = state.cause.is_some() || looks > LOOKS;
        if looks == 0 || (state.orphaned && state.lost != Errno::CONNRESET) {
            state.due = Some(now); // its keeper is the guardian's to end, or has begun something
        }
        drop(state);
        if called_off {
            self.call_off(port);
        }
        self.deadlines.set(port.handle, now + TICK);
    }

    /// Ends a start that its keeper has not begun, and will not: it looks whether we are there once it has read.
    fn call_off(&self, port: &Arc<Port>) {
        let mut keeper = lock(&port.keeper);
        if keeper.is_read() {
            return;
        }
        keeper.hang_up();
        let read = keeper.socket.is_some() && keeper.is_read(); // in between: it ends what it has begun
        drop(keeper);
        let state = lock(&port.state);
        let begun = state.orphaned && state.lost != Errno::CONNRESET;
        drop(state);
        if !read && !begun {
            self.over(port, |state| state.failure = Some((Stage::Keeper, Errno::TIMEDOUT)), false);
        }
    }

    /// The end of a port that is late, by the next one up.
    fn end_late(&self, port: &Arc<Port>, pair: &Arc<Pair>, now: Instant) {
        let mut state = lock(&port.state);
        let first = state.late_since.is_none();
        let since = *state.late_since.get_or_insert(now);
        let started = state.started;
        let has_cgroup = !self.leaves_to_end(port, Some(pair), &state).is_empty();
        drop(state);
        if first {
            let request = ToGuardian::End { id: port.keeper_id }.encode();
            // EPIPE: it has ended, and the watchdog goes on.
            if lock(&pair.requests).send(request, Vec::new()) == Ok(false) {
                self.want_room_at_guardian(pair);
            }
        }
        let looks = self.look_at_guardian(pair, now);
        if looks > LOOKS && !started {
            self.call_off(port);
        }
        let gone = pair.guardian_gone.load(Ordering::Acquire);
        if looks > LOOKS && !has_cgroup && !gone && !port.is_over() {
            self.end_guardian(pair);
        }
        let allowance = match port.terms.get() {
            Some(Terms { grace_ms, kill_on_owner_death: false }) => ms(*grace_ms),
            _ => Duration::ZERO,
        };
        let given_up = now >= since + GIVEN_UP + allowance;
        if given_up || ((looks > 0 || gone) && now >= since + OWN_HAND) {
            self.end_unaided(port, pair, given_up);
        }
    }

    /// How often in a row the guardian has been seen not to read; 0 where it has read all, 1 where it is only behind. At first it is let go on, should
    /// somebody have stopped it; later it gets no new ports.
    fn look_at_guardian(&self, pair: &Arc<Pair>, now: Instant) -> u32 {
        let progress = lock(&pair.requests).progress();
        let looks = lock(&pair.silence).look(progress, now);
        if looks == 1 {
            pair.go_on();
        }
        if looks > LOOKS && pair.current.swap(false, Ordering::AcqRel) {
            self.abandon_spares(|port| port.pair == pair.id);
        }
        looks
    }

    /// Whatever it guards is its watchdog's then. Others lose their trees by it: only where one could not be ended
    /// otherwise.
    fn end_guardian(&self, pair: &Pair) {
        if !sabotaged(Step::StuckGuardian) && !pair.kill_guardian() {
            self.dismiss(pair); // its watchdog ends it, as if we were gone
        }
    }

    /// Nobody above the tree does anything about it: what has a cgroup is ended by it, and what has none is not known.
    fn end_unaided(&self, port: &Arc<Port>, pair: &Pair, given_up: bool) {
        let mut state = lock(&port.state);
        let leaves = self.leaves_to_end(port, Some(pair), &state);
        if leaves.is_empty() && !given_up {
            return;
        }
        state.orphaned = true;
        if leaves.is_empty() {
            let survivors = if state.started { vec![UNSEEN] } else { Vec::new() };
            state.swept.get_or_insert(Outcome { killed: 0, survivors });
        }
        state.lost = Errno::TIMEDOUT;
        drop(state);
        lock(&port.keeper).close(); // should it go on one day, its runtime is gone
        if !leaves.is_empty() {
            self.remains.add(leaves, Some(port.clone())); // once, as long as they are fought for
        }
        self.resolve_orphan(port);
    }

    /// The cgroups by which the runtime itself can end a tree.
    pub(super) fn leaves_to_end(&self, port: &Port, pair: Option<&Pair>, state: &State) -> Vec<Leaf> {
        let inside = state.lack.is_none_or(|(lack, _)| lack == Lack::Nothing);
        let base = pair.and_then(|pair| pair.base.get()).filter(|_| inside);
        let usual = base.map(|base| base.leaf(port.keeper_id));
        // Beside the usual one, which stands among them where it is in use.
        let others = state.leaves.iter().filter(|leaf| Some(*leaf) != usual.as_ref()).cloned();
        usual.iter().cloned().chain(others).collect()
    }
}

impl State {
    fn is_late(&self, now: Instant) -> bool {
        self.late_since.is_some() || self.due.is_some_and(|due| due <= now)
    }

    /// When to look again.
    fn next(&self, now: Instant) -> Option<Instant> {
        let tick = self.late_since.map(|_| now + TICK);
        [tick, self.due.filter(|due| *due > now), self.asked.front().copied()].into_iter().flatten().min()
    }
}
