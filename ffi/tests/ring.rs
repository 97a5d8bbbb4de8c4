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
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
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

/// What the isolate's thread hears.
enum Heard {
    Woken,
    /// A thread has announced all it has in this round.
    Finished,
}

struct Line(mpsc::Sender<Heard>);

impl Wake for Line {
    fn wake(&self) {
        let _ = self.0.send(Heard::Woken); // a failed test hears no more
    }
}

const THREADS: usize = 3;
const ROUNDS: usize = 4_000;
const PORTS: usize = 4;
const BITS: usize = 6;
/// Longer than this takes on any machine: a wake-up that was lost.
const DEADLINE: Duration = Duration::from_secs(60);

/// For each port and bit how often it was announced, or when it was seen last.
#[derive(Default)]
struct Counts([[AtomicU32; BITS]; PORTS]);

impl Counts {
    fn numbers(&self) -> Vec<u32> {
        self.0.iter().flatten().map(|count| count.load(Ordering::Acquire)).collect()
    }
}

/// The round that runs. Threads spin for it, so that they begin at the same moment.
#[derive(Default)]
struct Rounds(AtomicUsize);

impl Rounds {
    fn wait_for(&self, round: usize) {
        while self.0.load(Ordering::Acquire) < round {
            std::thread::yield_now();
        }
    }
}

/// Lets nobody wait for a round that does not come because the one before has failed.
struct End<'a>(&'a Rounds);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0 .0.store(usize::MAX, Ordering::Release);
    }
}

/// A few announcements a round, at the same time as the other threads.
fn announce(seed: u64, ports: &[Arc<Port>], announced: &Counts, rounds: &Rounds, line: &mpsc::Sender<Heard>) {
    let mut random = Random::new(seed);
    for round in 1..=ROUNDS {
        rounds.wait_for(round);
        for _ in 0..=random.below(2) {
            let (port, bit) = (random.below(PORTS), random.below(BITS));
            // Counted before it is told: a drain that sees this bit sees this count, or a later one.
            announced.0[port][bit].fetch_add(1, Ordering::AcqRel);
            ports[port].announce(1 << bit);
        }
        let _ = line.send(Heard::Finished); // as above
    }
}

/// As an isolate does: until a batch is not full.
fn drain(env: &Env, announced: &Counts, seen: &Counts) {
    const ROOM: usize = 2;
    let mut full = true;
    while full {
        let events = env.drain(ROOM);
        full = events.len() == ROOM;
        for (handle, bits) in events {
            let port = handle as usize;
            for bit in (0..BITS).filter(|bit| bits & 1 << bit != 0) {
                let count = announced.0[port][bit].load(Ordering::Acquire);
                seen.0[port][bit].store(count, Ordering::Release);
            }
        }
    }
}

/// Drains when it is woken and not otherwise, until the round is over and all of it was seen.
fn hear_round(env: &Env, heard: &mpsc::Receiver<Heard>, announced: &Counts, seen: &Counts) {
    let mut finished = 0;
    while finished < THREADS || seen.numbers() != announced.numbers() {
        match heard.recv_timeout(DEADLINE).expect("a wake-up for what was announced") {
            Heard::Woken => drain(env, announced, seen),
            Heard::Finished => finished += 1,
        }
    }
}

#[test]
fn of_what_several_threads_announce_nothing_is_lost_and_the_isolate_is_woken_for_it() {
    let (line, heard) = mpsc::channel();
    let env = Arc::new(Env::new(1, Box::new(Line(line.clone()))));
    let ports: Vec<_> = (0..PORTS as i32).map(|handle| model::port(&env, handle)).collect();
    let (announced, seen) = (Counts::default(), Counts::default());
    let rounds = Rounds::default();
    std::thread::scope(|scope| {
        for n in 0..THREADS as u64 {
            let (ports, announced, rounds, line) = (&ports, &announced, &rounds, line.clone());
            scope.spawn(move || announce(100 + n, ports, announced, rounds, &line));
        }
        let end = End(&rounds);
        for round in 1..=ROUNDS {
            end.0 .0.store(round, Ordering::Release);
            hear_round(&env, &heard, &announced, &seen);
        }
    });
}
