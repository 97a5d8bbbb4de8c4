// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Ports to be: a keeper waits at each for something to start.

use super::{token, Prepared, Reactor, Topic};
use crate::kernel::sabotage::fault;
use crate::kernel::socket;
use crate::kernel::wire::{Stage, ToGuardian};
use crate::runtime::pair::Pair;
use crate::runtime::port::{lock, Env, Port};
use rustix::event::epoll;
use rustix::event::epoll::EventFlags;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::sync::atomic::Ordering;
use std::sync::Arc;

impl Reactor {
    /// Asks the guardian of `pair` for a keeper. Its port starts nothing before it gets a launch record.
    pub fn ask(&self, pair: &Pair, env: &Arc<Env>) -> Result<Arc<Port>, (Stage, Errno)> {
        let at = |stage| move |errno| (stage, errno);
        let (near, far) = fault("port-socket").and_then(|()| socket::pair()).map_err(at(Stage::Stdio))?;
        // Before the first record: what is sent earlier would carry no sender.
        socket::tell_senders(&far).map_err(at(Stage::Stdio))?;
        let id = self.next_id();
        let port = self.insert(pair, |handle| Port::new(handle, env.clone(), pair.id, id, near))?;
        let keep = ToGuardian::Keep { id }.encode();
        let sent = self.watch_port(&port).map_err(at(Stage::Stdio)).and_then(|()| {
            let sent = fault("keep").and_then(|()| lock(&pair.requests).send(keep, vec![far]));
            sent.map_err(at(Stage::Guardian))
        });
        match sent {
            Ok(true) => {}
            Ok(false) => self.want_room_at_guardian(pair),
            Err(failed) => {
                self.abandon(&port);
                return Err(failed);
            }
        }
        Ok(port)
    }

    pub(super) fn insert(
        &self,
        pair: &Pair,
        make: impl FnOnce(i32) -> Port,
    ) -> Result<Arc<Port>, (Stage, Errno)> {
        let mut shared = lock(&self.shared);
        let handle =
            shared.ports.insert(|handle| Arc::new(make(handle))).ok_or((Stage::Keeper, Errno::AGAIN))?;
        pair.ports.fetch_add(1, Ordering::AcqRel);
        shared.ports.get(handle).cloned().ok_or((Stage::Library, Errno::BADF))
    }

    /// Gives up a port that was never started; its keeper sees that by its socket's end.
    pub fn abandon(&self, port: &Arc<Port>) {
        port.released.store(true, Ordering::Release);
        let mut state = lock(&port.state);
        let first = state.failure.replace((Stage::Keeper, Errno::CANCELED)).is_none();
        drop(state);
        lock(&port.keeper).close();
        self.forget(port);
        if first {
            self.leave_pair(port.pair); // else it has left when its keeper was lost
        }
    }

    /// A port of this isolate that a keeper waits at, or is on its way to; none where there is no guardian yet.
    pub fn port_to_be(&self, env: &Arc<Env>) -> Option<Arc<Port>> {
        let mut shared = lock(&self.shared);
        let spare = shared.spares.remove(&env.id);
        let pair = shared.pairs.get(&env.pair.load(Ordering::Acquire)).cloned();
        drop(shared);
        match spare {
            Some(spare) if spare.is_kept() => Some(spare),
            lost => {
                lost.inspect(|port| self.abandon(port));
                let pair = pair.filter(|pair| pair.current.load(Ordering::Acquire))?;
                self.ask(&pair, env).ok()
            }
        }
    }

    /// Keeps a port that nothing was started at for the next start.
    pub fn keep_spare(&self, port: Arc<Port>) {
        let mut shared = lock(&self.shared);
        let current = shared.pairs.get(&port.pair).is_some_and(|pair| pair.current.load(Ordering::Acquire));
        let env = port.env().id;
        let unused = if current && port.is_kept() && shared.envs.contains_key(&env) {
            shared.spares.insert(env, port)
        } else {
            Some(port)
        };
        drop(shared);
        unused.inspect(|port| self.abandon(port));
    }

    /// The keeper of a port that is over waits for the next child: at a new port.
    pub(super) fn reuse(&self, old: &Port, socket: OwnedFd) {
        let shared = lock(&self.shared);
        let pair = shared.pairs.get(&old.pair).filter(|pair| pair.current.load(Ordering::Acquire)).cloned();
        let env = old.env();
        let enough = shared.spares.contains_key(&env.id) || !shared.envs.contains_key(&env.id);
        drop(shared);
        let (Some(pair), false) = (pair, enough) else { return };
        let make = |handle| Port::new(handle, env.clone(), old.pair, old.keeper_id, socket);
        let Ok(port) = self.insert(&pair, make) else { return };
        let keeper = lock(&port.keeper);
        let data = token(Topic::Keeper, 0, port.handle as u32);
        let watched = keeper.socket.as_ref().map(|fd| epoll::modify(&self.epoll, fd, data, EventFlags::IN));
        drop(keeper);
        match watched {
            Some(Ok(())) => self.keep_spare(port),
            _ => self.abandon(&port),
        }
    }

    pub(super) fn abandon_spares(&self, of: impl Fn(&Port) -> bool) {
        let mut shared = lock(&self.shared);
        let unused: Vec<_> = shared.spares.values().filter(|port| of(port)).cloned().collect();
        shared.spares.retain(|_, port| !of(port));
        drop(shared);
        unused.iter().for_each(|port| self.abandon(port));
    }

    /// Keeps what was looked up for an isolate until it is started.
    pub fn prepare(&self, env: u32, next: Prepared) {
        self.unprepare(env);
        lock(&self.shared).prepared.insert(env, next);
    }

    /// What was looked up last, once.
    pub fn prepared(&self, env: u32) -> Option<Prepared> {
        lock(&self.shared).prepared.remove(&env)
    }

    pub(super) fn unprepare(&self, env: u32) {
        let unused = self.prepared(env).and_then(|prepared| prepared.port);
        unused.into_iter().for_each(|port| self.keep_spare(port));
    }
}
