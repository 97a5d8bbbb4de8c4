// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! The cgroups of trees that run, and what happens to their limits.

use super::{token, Reactor, Topic};
use crate::kernel::cgroup::Leaf;
use crate::kernel::wire::Lack;
use crate::runtime::alarms;
use crate::runtime::alarms::Alarms;
use crate::runtime::port::{lock, Port, ALARM};
use rustix::event::epoll;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use std::sync::atomic::Ordering;
use std::sync::Arc;

impl Reactor {
    /// From now on this isolate is told when something happens to the tree's limits.
    pub fn watch_limits(&self, port: &Port) -> Result<(), Errno> {
        let mut alarms = lock(&port.alarms);
        if alarms.changes.is_some() || alarms.memory.is_some() || alarms.pressure.is_some() {
            return Ok(());
        }
        *alarms = Alarms::set(&self.leaves(port))?;
        let Alarms { changes, memory, pressure } = &*alarms;
        let all = [(changes, EventFlags::IN), (memory, EventFlags::IN), (pressure, EventFlags::PRI)];
        for (which, (fd, flags)) in all.into_iter().enumerate() {
            let Some(fd) = fd else { continue };
            epoll::add(&self.epoll, fd, token(Topic::Alarm, which, port.handle as u32), flags)?;
        }
        Ok(())
    }

    pub(super) fn alarm_event(&self, port: &Arc<Port>, which: usize, flags: EventFlags) {
        let mut alarms = lock(&port.alarms);
        if which == 2 && flags.contains(EventFlags::ERR) {
            alarms.pressure = None; // its cgroup has been removed, which is no pressure
            return;
        }
        match which {
            0 => alarms.changes.iter().for_each(alarms::drain),
            1 => alarms.memory.iter().for_each(alarms::drain),
            _ => drop(port.pressed.fetch_add(1, Ordering::AcqRel)),
        }
        drop(alarms);
        port.announce(ALARM);
    }

    /// The cgroups of a tree that runs.
    pub fn leaves(&self, port: &Port) -> Vec<Leaf> {
        let state = lock(&port.state);
        if !state.leaves.is_empty() || state.lack.is_none_or(|(lack, _)| lack != Lack::Nothing) {
            return state.leaves.clone();
        }
        drop(state);
        let pair = lock(&self.shared).pairs.get(&port.pair).cloned();
        let base = pair.as_ref().and_then(|pair| pair.base.get());
        base.map(|base| base.leaf(port.keeper_id)).into_iter().collect()
    }
}
