// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! The event ring: step by step beside its model, and with several threads
//! that announce while one drains.

#[path = "ring/model.rs"]
mod model;
#[path = "wire/random.rs"]
mod random;

use proton_stream::runtime::port::{Env, Port, Wake};
use random::Random;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{mpsc, Arc};
use std::time::Duration;

#[test]
fn any_order_of_announcements_drains_and_releases_is_as_the_model_says() {
    let mut random = Random::new(21);
    for _ in 0..200 {
        let steps: Vec<u8> = (0..600).map(|_| random.u64() as u8).collect();
        model::follow(&steps);
    }
}

/// Passes each wake-up on to a thread that waits for it.
struct Ring(mpsc::Sender<()>);

impl Wake for Ring {
    fn wake(&self) {
        let _ = self.0.send(()); // a failed test waits no more
    }
}

const BITS: usize = 6;
/// Longer than this takes on any machine: a wake-up that was lost.
const DEADLINE: Duration = Duration::from_secs(60);

/// For each port and bit how often it was announced.
type Counts = Vec<[AtomicU32; BITS]>;

fn counts(ports: usize) -> Counts {
    (0..ports).map(|_| Default::default()).collect()
}

fn announce_at_random(seed: u64, ports: &[Arc<Port>], announced: &Counts) {
    let mut random = Random::new(seed);
    for _ in 0..2_000 {
        let (port, bit) = (random.below(ports.len()), random.below(BITS));
        // Counted before it is told: a drain that sees this bit sees this count, or a later one.
        announced[port][bit].fetch_add(1, Ordering::AcqRel);
        ports[port].announce(1 << bit);
        if random.one_in(8) {
            std::thread::yield_now(); // lets the ring run empty, so that it must wake again
        }
    }
}

/// As an isolate does: drains when it is woken, until a batch is not full. Ends with port `last`.
fn drain_when_woken(env: &Env, woken: &mpsc::Receiver<()>, announced: &Counts, seen: &Counts, last: i32) {
    const ROOM: usize = 3;
    loop {
        woken.recv_timeout(DEADLINE).expect("a wake-up");
        let mut full = true;
        while full {
            let events = env.drain(ROOM);
            full = events.len() == ROOM;
            for (handle, bits) in events {
                if handle == last {
                    return;
                }
                let port = handle as usize;
                for bit in (0..BITS).filter(|bit| bits & 1 << bit != 0) {
                    let count = announced[port][bit].load(Ordering::Acquire);
                    seen[port][bit].store(count, Ordering::Release);
                }
            }
        }
    }
}

/// Three threads announce while a fourth drains; returns what was announced and what was seen of it.
fn crossed(seed: u64) -> (Counts, Counts) {
    const PORTS: usize = 8;
    let (wake, woken) = mpsc::channel();
    let env = Arc::new(Env::new(1, Box::new(Ring(wake))));
    let ports: Vec<_> = (0..PORTS as i32).map(|handle| model::port(&env, handle)).collect();
    let last = model::port(&env, PORTS as i32);
    let (announced, seen) = (counts(PORTS), counts(PORTS));
    std::thread::scope(|scope| {
        let (env, ports, announced, seen) = (&env, &ports, &announced, &seen);
        let announcers: Vec<_> =
            (0..3).map(|n| scope.spawn(move || announce_at_random(seed + n, ports, announced))).collect();
        let drainer = scope.spawn(move || drain_when_woken(env, &woken, announced, seen, PORTS as i32));
        announcers.into_iter().for_each(|announcer| announcer.join().expect("it ends"));
        // First in, first out: whatever was announced before is told before this.
        last.announce(1);
        drainer.join().expect("all was told");
    });
    (announced, seen)
}

#[test]
fn of_what_several_threads_announce_nothing_is_lost_and_the_isolate_is_woken_for_it() {
    let numbers = |counts: Counts| -> Vec<u32> {
        counts.iter().flatten().map(|count| count.load(Ordering::Acquire)).collect()
    };
    for round in 0..5 {
        let (announced, seen) = crossed(100 + 3 * round);
        assert_eq!(numbers(seen), numbers(announced));
    }
}
