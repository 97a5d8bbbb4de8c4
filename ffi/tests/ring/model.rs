// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! An isolate's event ring beside the simplest thing that does the same: a
//! queue of ports with their bits. Used by tests/ring.rs and by the cargo-fuzz
//! target in fuzz/.

use proton_stream::runtime::port::{Env, Port, Wake};
use std::collections::VecDeque;
use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

/// Ports at a time.
const PORTS: usize = 6;
/// The bits of docs/abi.md.
const ALL_BITS: u32 = 63;

/// Counts how often the isolate was woken.
struct Count(Arc<AtomicUsize>);

impl Wake for Count {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// A port that no keeper stands behind: its socket is never used here.
pub fn port(env: &Arc<Env>, handle: i32) -> Arc<Port> {
    let nowhere = File::open("/dev/null").expect("/dev/null is there");
    Arc::new(Port::new(handle, env.clone(), 0, 0, nowhere.into()))
}

/// What the ring is to do.
struct Model {
    env: Arc<Env>,
    wakes: Arc<AtomicUsize>,
    ports: Vec<Arc<Port>>,
    /// Handle and gathered bits, in the order of the first announcement.
    queue: VecDeque<(i32, u32)>,
    /// A wake-up is on its way.
    awake: bool,
    expected_wakes: usize,
    next_handle: i32,
}

impl Default for Model {
    fn default() -> Self {
        let wakes = Arc::new(AtomicUsize::new(0));
        let env = Arc::new(Env::new(1, Box::new(Count(wakes.clone()))));
        let ports = (0..PORTS as i32).map(|handle| port(&env, handle)).collect();
        Model {
            env,
            wakes,
            ports,
            queue: VecDeque::new(),
            awake: false,
            expected_wakes: 0,
            next_handle: PORTS as i32,
        }
    }
}

impl Model {
    /// One step, chosen by two bytes.
    fn step(&mut self, [what, how]: [u8; 2]) {
        let at = usize::from(what >> 4) % PORTS;
        match what % 8 {
            0..=3 => self.announce(at, 1 + u32::from(how) % ALL_BITS),
            4 | 5 => self.drain(usize::from(how) % (PORTS + 3)),
            6 => self.ports[at].released.store(true, Ordering::Release),
            _ => self.replace(at),
        }
        assert_eq!(self.wakes.load(Ordering::Acquire), self.expected_wakes, "wake-ups");
    }

    fn announce(&mut self, at: usize, bits: u32) {
        let port = &self.ports[at];
        port.announce(bits);
        if port.released.load(Ordering::Acquire) {
            return;
        }
        if let Some((_, gathered)) = self.queue.iter_mut().find(|(handle, _)| *handle == port.handle) {
            *gathered |= bits;
            return;
        }
        self.queue.push_back((port.handle, bits));
        self.expected_wakes += usize::from(!std::mem::replace(&mut self.awake, true));
    }

    /// Takes up to `most` ports, the oldest first.
    fn drain(&mut self, most: usize) {
        let expected: Vec<_> = self.queue.drain(..most.min(self.queue.len())).collect();
        self.awake = false;
        assert_eq!(self.env.drain(most), expected);
    }

    /// Another port in place of one that was given up, or that was not.
    fn replace(&mut self, at: usize) {
        self.ports[at] = port(&self.env, self.next_handle);
        self.next_handle += 1;
    }

    /// How many ports wait to be told of.
    fn waiting(&self) -> usize {
        self.queue.len()
    }
}

/// Follows the steps that `bytes` choose, and takes what is left.
pub fn follow(bytes: &[u8]) {
    let mut model = Model::default();
    for step in bytes.chunks_exact(2) {
        model.step([step[0], step[1]]);
    }
    while model.waiting() > 0 {
        model.drain(2);
    }
    model.drain(2);
}
