// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! What guardians and watchdogs say, and the end of a pair of them.

use super::{token, Reactor, Topic};
use crate::kernel::cgroup::Base;
use crate::kernel::sabotage::{fault, sabotaged, Step};
use crate::kernel::socket;
use crate::kernel::tree::Outcome;
use crate::kernel::wire::{FromGuardian, Stage, ABI};
use crate::runtime::pair::Pair;
use crate::runtime::port::{lock, Port};
use rustix::event::epoll;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::process::Pid;
use std::sync::atomic::Ordering;
use std::sync::Arc;

impl Reactor {
    pub fn watch_pair(&self, pair: &Pair) -> Result<(), Errno> {
        fault("watch-pair")?;
        if let Some(socket) = &lock(&pair.requests).socket {
            epoll::add(&self.epoll, socket, token(Topic::Guardian, 0, pair.id), EventFlags::IN)?;
        }
        epoll::add(&self.epoll, pair.watchdog_end(), token(Topic::Watchdog, 0, pair.id), EventFlags::IN)
    }

    pub fn want_room_at_guardian(&self, pair: &Pair) {
        if let Some(socket) = &lock(&pair.requests).socket {
            let both = EventFlags::IN | EventFlags::OUT;
            let _ = epoll::modify(&self.epoll, socket, token(Topic::Guardian, 0, pair.id), both);
        }
    }

    /// A watchdog that no port will ever need: it leaves by itself, with its cgroups, and is our child to reap.
    pub fn give_up(&self, watchdog: Pid) {
        self.remains.reap(watchdog);
        let _ = rustix::io::write(&self.poke, &1_u64.to_ne_bytes()); // EAGAIN: poked already
    }

    /// A pair that gets no new ports ends with its last one.
    pub(super) fn leave_pair(&self, id: u32) {
        let found = lock(&self.shared).pairs.get(&id).cloned();
        let Some(pair) = found else { return };
        if pair.ports.fetch_sub(1, Ordering::AcqRel) == 1 && !pair.current.load(Ordering::Acquire) {
            self.dismiss(&pair);
            self.bury(&pair);
        }
    }

    /// Forgets a pair whose helpers and ports are gone, and removes what helpers that were killed could not.
    pub(super) fn bury(&self, pair: &Pair) {
        if !pair.is_gone() || pair.ports.load(Ordering::Acquire) > 0 {
            return;
        }
        let first = lock(&self.shared).pairs.remove(&pair.id).is_some();
        if let (true, Some(base)) = (first, pair.base.get()) {
            self.remains.add(vec![base.whole()], None);
            let _ = rustix::io::write(&self.poke, &1_u64.to_ne_bytes()); // EAGAIN: poked already
        }
    }

    /// The next spawn starts new helpers; these end with their last port.
    pub fn retire(&self, pair: &Pair) {
        pair.current.store(false, Ordering::Release);
        self.abandon_spares(|port| port.pair == pair.id);
        if pair.ports.load(Ordering::Acquire) == 0 {
            self.dismiss(pair);
            self.bury(pair); // the watchdog may have been quicker than this thread
        }
    }

    /// Both read the end of their sockets; ours stay, to hear when they have left.
    pub(super) fn dismiss(&self, pair: &Pair) {
        lock(&pair.requests).finish();
        let _ = rustix::net::shutdown(&pair.watch, rustix::net::Shutdown::Write);
        // it ended before
    }

    pub(super) fn guardian_event(&self, pair: &Arc<Pair>, flags: EventFlags, buffer: &mut [u8]) {
        if flags.contains(EventFlags::OUT) {
            let mut requests = lock(&pair.requests);
            if !matches!(requests.flush(), Ok(false)) {
                if let Some(socket) = &requests.socket {
                    let _ = epoll::modify(
                        &self.epoll,
                        socket,
                        token(Topic::Guardian, 0, pair.id),
                        EventFlags::IN,
                    );
                }
            }
        }
        loop {
            let requests = lock(&pair.requests);
            let Some(socket) = &requests.socket else { return };
            let received = socket::receive(socket, buffer);
            drop(requests);
            let Ok(Some(packet)) = received else {
                if received.is_err_and(|errno| errno == Errno::AGAIN) {
                    return;
                }
                return self.guardian_silent(pair);
            };
            match FromGuardian::decode(&buffer[..packet.len]) {
                Ok(FromGuardian::Hello { abi: ABI, base }) => {
                    *lock(&pair.guardian) = packet.fds.into_iter().next();
                    // Not UTF-8 is not ours: a hierarchy is mounted where the guardian cannot name it.
                    let path = String::from_utf8(base).ok().filter(|path| !path.is_empty());
                    path.map(|path| pair.base.set(Base { path }));
                }
                Ok(FromGuardian::Refused { id, errno }) => self.refused(id, Errno::from_raw_os_error(errno)),
                Ok(FromGuardian::Swept { id, killed, survivors }) => {
                    self.swept(id, Outcome { killed, survivors });
                }
                _ => return self.guardian_silent(pair),
            }
        }
    }

    /// The port of this keeper that is not over.
    pub(super) fn kept_by(&self, id: u32) -> Option<Arc<Port>> {
        let of_it = |port: &&Arc<Port>| port.keeper_id == id && !port.is_over();
        lock(&self.shared).ports.iter().find(of_it).cloned()
    }

    pub(super) fn refused(&self, id: u32, errno: Errno) {
        let Some(port) = self.kept_by(id) else { return };
        lock(&port.keeper).close();
        self.over(&port, |state| state.failure = Some((Stage::Keeper, errno)), false);
    }

    pub(super) fn swept(&self, id: u32, outcome: Outcome) {
        let Some(port) = self.kept_by(id) else { return };
        lock(&port.state).swept = Some(outcome);
        self.resolve_orphan(&port);
    }

    pub(super) fn guardian_silent(&self, pair: &Arc<Pair>) {
        lock(&pair.requests).close();
        pair.current.store(false, Ordering::Release);
        pair.guardian_gone.store(true, Ordering::Release);
        pair.go_on(); // its watchdog, should somebody have stopped it: what is left is its to end
        self.settle(pair);
    }

    pub(super) fn watchdog_event(&self, pair: &Arc<Pair>) {
        let _ = epoll::delete(&self.epoll, pair.watchdog_end());
        if !sabotaged(Step::WatchdogReap) {
            self.remains.reap(pair.watchdog);
            pair.hear_watchdog();
        }
        pair.current.store(false, Ordering::Release);
        pair.watchdog_gone.store(true, Ordering::Release);
        self.settle(pair);
    }

    /// Ports whose keepers are silent end when both helpers are gone; so does the pair, with its last port.
    pub(super) fn settle(&self, pair: &Arc<Pair>) {
        self.abandon_spares(|port| port.pair == pair.id);
        let shared = lock(&self.shared);
        let ports: Vec<_> = shared.ports.iter().filter(|port| port.pair == pair.id).cloned().collect();
        drop(shared);
        ports.iter().for_each(|port| self.resolve_orphan(port));
        if pair.is_gone() {
            // All helpers of a watchdog's are in its group. Whom those that were killed have left is ours where the
            // runtime is a subreaper or process 1, and no runtime waits for children it does not know.
            self.remains.reap_group(pair.watchdog);
            *lock(&pair.guardian) = None;
        }
        self.bury(pair);
    }

    /// 0 both, 1 the guardian or the watchdog alone, 2 none.
    pub fn guards(&self, pair: u32) -> u32 {
        match lock(&self.shared).pairs.get(&pair) {
            Some(pair) if !pair.guardian_gone.load(Ordering::Acquire) => {
                u32::from(pair.watchdog_gone.load(Ordering::Acquire))
            }
            _ => 2,
        }
    }
}
