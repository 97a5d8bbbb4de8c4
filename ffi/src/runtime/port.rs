// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! One child as its runtime sees it: its pipes, the socket to its keeper, what
//! is known of it, and the isolate that is to hear of it.

use crate::kernel::cgroup::Leaf;
use crate::kernel::socket;
use crate::kernel::sys::host::unread;
use crate::kernel::tree::Outcome;
use crate::kernel::wire::plan::Version;
use crate::kernel::wire::{Cause, Done, Figure, Held, Lack, Stage, Survivor, ToKeeper, Wait, Writer};
use crate::runtime::alarms::Alarms;
use crate::runtime::pipe::End;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::ThreadId;
use std::time::Instant;

/// Event bits (docs/abi.md).
pub const STARTED: u32 = 1;
pub const DONE: u32 = 2;
pub const SIGNALLED: u32 = 32;
/// Not of a port: a question to the user database has an answer.
pub const LOOKED_UP: u32 = 1 << 30;
/// Something has happened to its limits.
pub const ALARM: u32 = 1 << 31;

/// The streams of a port: 0, 1 and 2 are the child's own; behind them, for each descriptor of its that is a socket
/// of ours, one for reading and one for writing.
const FIRST_MORE: usize = 3;

/// The bit of a stream that is ready.
pub fn ready(stream: usize) -> u32 {
    match stream {
        0..FIRST_MORE => 4 << stream,
        _ => 64 << (stream - FIRST_MORE),
    }
}

/// Whether we read it: the child writes.
pub fn is_output(stream: usize) -> bool {
    stream == 2 || stream % 2 == 1
}

/// A lock whose holder panicked still guards sound data: every change below is one assignment.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls an isolate's own thread, without waiting for it.
pub trait Wake: Send + Sync {
    fn wake(&self);
}

/// Whom an event is about.
enum Told {
    Port(Arc<Port>),
    Answer(u32),
}

/// One isolate.
pub struct Env {
    pub id: u32,
    /// Its own thread, the one that made it: no other isolate's number is of use to anybody.
    thread: ThreadId,
    wake: Box<dyn Wake>,
    /// Each port and each answer stands here at most once, so that it cannot overflow.
    ring: Mutex<VecDeque<Told>>,
    answers: Mutex<HashMap<u32, Vec<u8>>>,
    awake: AtomicBool,
    /// The pair that served it last.
    pub pair: AtomicU32,
}

impl Env {
    pub fn new(id: u32, wake: Box<dyn Wake>) -> Self {
        let thread = std::thread::current().id();
        Env {
            id,
            thread,
            wake,
            ring: Mutex::default(),
            answers: Mutex::default(),
            awake: AtomicBool::new(false),
            pair: AtomicU32::new(0),
        }
    }

    /// Whether it is this isolate that calls.
    pub fn calls(&self) -> bool {
        self.thread == std::thread::current().id()
    }

    fn push(&self, told: Told) {
        lock(&self.ring).push_back(told);
        if !self.awake.swap(true, Ordering::AcqRel) {
            self.wake.wake();
        }
    }

    /// Up to `most` ports with their gathered bits; fewer only where no more are there.
    pub fn drain(&self, most: usize) -> Vec<(i32, u32)> {
        // First the flag, then the ring: whatever is pushed in between wakes once too often, never once too little.
        self.awake.store(false, Ordering::Release);
        let mut events = Vec::with_capacity(most.min(64));
        // First out of the ring, then the bits: a bit that comes in between enters the ring anew.
        while events.len() < most {
            let Some(told) = lock(&self.ring).pop_front() else { break };
            match told {
                Told::Port(port) => events.extend(port.take_bits(self.id).map(|bits| (port.handle, bits))),
                Told::Answer(ticket) => events.push((ticket as i32, LOOKED_UP)),
            }
        }
        events
    }

    /// Keeps an answer until it is taken, and tells of it.
    pub fn answer(&self, ticket: u32, answer: Vec<u8>) {
        lock(&self.answers).insert(ticket, answer);
        self.push(Told::Answer(ticket));
    }

    /// An answer of at most so many bytes: a longer one stays (ERANGE).
    pub fn take_answer(&self, ticket: u32, most: usize) -> Result<Vec<u8>, Errno> {
        let mut answers = lock(&self.answers);
        match answers.remove(&ticket) {
            None => Err(Errno::BADF),
            Some(answer) if answer.len() > most => {
                answers.insert(ticket, answer);
                Err(Errno::RANGE)
            }
            Some(answer) => Ok(answer),
        }
    }
}

/// What is to be sent to a keeper as soon as its socket has room.
type Unsent = (Vec<u8>, Vec<OwnedFd>);

/// How many requests may wait for a keeper that does not read, beside those that its socket holds.
const UNSENT_MOST: usize = 256;

/// A socket with what did not fit into it yet.
#[derive(Default)]
pub struct Outlet {
    pub socket: Option<OwnedFd>,
    /// Of a keeper's: some of a launch record has been sent.
    pub begun: bool,
    /// Of a guardian's: all that the socket has ever taken in, in bytes as the kernel counts them.
    sent: Option<u64>,
    unsent: VecDeque<Unsent>,
}

impl Outlet {
    pub fn new(socket: OwnedFd) -> Self {
        Outlet { socket: Some(socket), ..Outlet::default() }
    }

    /// One whose reader's progress can be seen.
    pub fn counted(socket: OwnedFd) -> Self {
        Outlet { sent: Some(0), ..Outlet::new(socket) }
    }

    /// Sends in order. `Ok(false)`: some of it waits for room.
    pub fn send(&mut self, bytes: Vec<u8>, fds: Vec<OwnedFd>) -> Result<bool, Errno> {
        self.unsent.push_back((bytes, fds));
        self.flush()
    }

    pub fn flush(&mut self) -> Result<bool, Errno> {
        let socket = self.socket.as_ref().ok_or(Errno::PIPE)?;
        while let Some((bytes, fds)) = self.unsent.front() {
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            let before = self.sent.map(|sent| (sent, unread(socket)));
            match socket::send(socket, bytes, &borrowed) {
                Ok(()) => {
                    // What is read in between is not counted at all: rather too little than too much.
                    self.sent = before.map(|(sent, before)| sent + added(socket, before));
                    self.unsent.pop_front();
                }
                Err(Errno::AGAIN) => return Ok(false),
                Err(errno) => {
                    self.unsent.clear();
                    return Err(errno);
                }
            }
        }
        Ok(true)
    }

    pub fn close(&mut self) {
        drop(self.take());
    }

    /// So much waits already that its reader does not read: no more is taken in.
    pub fn is_full(&self) -> bool {
        self.unsent.len() >= UNSENT_MOST
    }

    /// Whatever was to be sent has been received. One that is closed is not read any more.
    pub fn is_read(&self) -> bool {
        self.unsent.is_empty() && self.socket.as_ref().is_some_and(|socket| unread(socket) == 0)
    }

    /// How much of what was sent has been received, in the kernel's bytes: who goes on reading has received more at the
    /// next look. None where that is all of it.
    pub fn progress(&self) -> Option<u64> {
        let left = self.socket.as_ref().map_or(0, unread) as u64;
        (!self.is_read()).then(|| self.sent.unwrap_or_default().saturating_sub(left))
    }

    /// Nothing is said here any more, in either direction.
    pub fn hang_up(&mut self) {
        self.unsent.clear();
        if let Some(socket) = &self.socket {
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both); // it has left before
        }
    }

    /// The other end reads the end of the stream; we still hear it.
    pub fn finish(&mut self) {
        self.unsent.clear();
        if let Some(socket) = &self.socket {
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Write);
            // it has left before
        }
    }

    /// The socket, where nothing waits for room in it. Closed it is in any case.
    pub fn take(&mut self) -> Option<OwnedFd> {
        let idle = self.unsent.is_empty();
        self.unsent.clear();
        self.socket.take().filter(|_| idle)
    }
}

/// What a message that was just sent has added to what is unread.
fn added(socket: &OwnedFd, before: usize) -> u64 {
    unread(socket).saturating_sub(before) as u64
}

/// One of our pipe ends and what is asked of it.
#[derive(Default)]
pub struct Stdio {
    pub end: Option<End>,
    /// The reactor knows it.
    pub watched: bool,
    /// JavaScript has asked for one event.
    pub armed: bool,
    /// Nobody can write any more, or nobody wants to know.
    pub over: bool,
    /// Of an output: the port into whose stdin it is poured.
    pub into: Option<Weak<Port>>,
    /// Of a stdin: the port, and its output, that is poured into it.
    pub from: Option<(Weak<Port>, usize)>,
}

impl Stdio {
    fn of(end: Option<End>) -> Self {
        Stdio { over: end.is_none(), end, ..Stdio::default() }
    }
}

/// What is known of the child.
pub struct State {
    pub started: bool,
    pub pid: i32,
    pub own_group: bool,
    /// Why it is in no cgroup of its own, known once it has started.
    pub lack: Option<(Lack, i32)>,
    /// By which cgroups, known then, too.
    pub held: Option<Held>,
    /// Those of a tree with limits.
    pub leaves: Vec<Leaf>,
    pub failure: Option<(Stage, Errno)>,
    /// What it is about: the number of a setting, and a path.
    pub about: Option<(u32, Vec<u8>)>,
    pub wait: Option<Wait>,
    pub done: Option<Done>,
    pub answers: VecDeque<i32>,
    /// The first reason that this side has sent.
    pub cause: Option<Cause>,
    pub eof_told: bool,
    /// The keeper's socket has ended without its last word.
    pub orphaned: bool,
    /// The guardian's word on such a keeper's tree.
    pub swept: Option<Outcome>,
    /// When it is to be over at the latest.
    pub due: Option<Instant>,
    /// It was not, and somebody else than its keeper has been asked to end it.
    pub late_since: Option<Instant>,
    /// By when each of the requests to its keeper that are not answered is to be.
    pub asked: VecDeque<Instant>,
    /// How many of its answers nobody waits for any more.
    pub forgone: u32,
    /// Why it did not start, where its keeper was lost.
    pub lost: Errno,
}

impl Default for State {
    fn default() -> Self {
        State {
            started: false,
            pid: 0,
            own_group: false,
            lack: None,
            held: None,
            leaves: Vec::new(),
            failure: None,
            about: None,
            wait: None,
            done: None,
            answers: VecDeque::new(),
            cause: None,
            eof_told: false,
            orphaned: false,
            swept: None,
            due: None,
            late_since: None,
            asked: VecDeque::new(),
            forgone: 0,
            lost: Errno::CHILD,
        }
    }
}

/// How the end of a port is asked for where nobody else says.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    pub grace_ms: u32,
    pub kill_on_owner_death: bool,
}

/// What names a port that is on its way to another isolate, and nobody can guess.
pub type Key = [u8; 16];

/// Whose a port is.
struct Place {
    env: Arc<Env>,
    /// It is on its way: the isolate that shows this key gets it. Until then nobody hears of it.
    key: Option<Key>,
}

pub struct Port {
    pub handle: i32,
    /// Held while its isolate is told something, so that what comes before a move is told there or goes along.
    place: Mutex<Place>,
    /// The pair of helpers it belongs to.
    pub pair: u32,
    /// Its keeper's number at the guardian.
    pub keeper_id: u32,
    /// Known once there is something to start.
    pub terms: OnceLock<Terms>,
    pub keeper: Mutex<Outlet>,
    pub stdio: [Mutex<Stdio>; 3],
    /// In pairs, for reading and for writing; as a rule there are none.
    more: OnceLock<Vec<Mutex<Stdio>>>,
    pub state: Mutex<State>,
    /// Output is read by the reactor and thrown away.
    pub discard: AtomicBool,
    /// Some was.
    pub discarded: AtomicBool,
    /// JavaScript has given the handle up.
    pub released: AtomicBool,
    /// What tells of its limits, once that is wanted.
    pub alarms: Mutex<Alarms>,
    /// How often memory was said to be under pressure.
    pub pressed: AtomicU32,
    bits: AtomicU32,
}

impl Port {
    pub fn new(handle: i32, env: Arc<Env>, pair: u32, keeper_id: u32, keeper: OwnedFd) -> Self {
        Port {
            handle,
            place: Mutex::new(Place { env, key: None }),
            pair,
            keeper_id,
            terms: OnceLock::new(),
            keeper: Mutex::new(Outlet::new(keeper)),
            stdio: Default::default(),
            more: OnceLock::new(),
            state: Mutex::default(),
            discard: AtomicBool::new(false),
            discarded: AtomicBool::new(false),
            released: AtomicBool::new(false),
            alarms: Mutex::default(),
            pressed: AtomicU32::new(0),
            bits: AtomicU32::new(0),
        }
    }

    /// Our ends of the child's descriptors, once they are made.
    pub fn take_ends(&self, ends: [Option<End>; 3], more: Vec<End>) {
        for (stdio, end) in self.stdio.iter().zip(ends) {
            *lock(stdio) = Stdio::of(end);
        }
        if !more.is_empty() {
            self.more.get_or_init(|| more.into_iter().map(|end| Mutex::new(Stdio::of(Some(end)))).collect());
        }
    }

    /// One of its streams, by number.
    pub fn stream(&self, number: usize) -> Option<&Mutex<Stdio>> {
        self.stdio.get(number).or_else(|| self.more.get()?.get(number - FIRST_MORE))
    }

    /// The numbers of all its streams.
    pub fn streams(&self) -> std::ops::Range<usize> {
        0..FIRST_MORE + self.more.get().map_or(0, Vec::len)
    }

    /// The isolate that owns it, also while it is on its way to another.
    pub fn env(&self) -> Arc<Env> {
        lock(&self.place).env.clone()
    }

    /// Whether this isolate, which calls, has it.
    pub fn is_of(&self, env: u32) -> bool {
        let place = lock(&self.place);
        place.env.id == env && place.key.is_none() && place.env.calls()
    }

    /// Puts the port into its isolate's ring, if it does not stand there.
    pub fn announce(self: &Arc<Self>, bits: u32) {
        let place = lock(&self.place);
        let first = !self.released.load(Ordering::Acquire) && self.bits.fetch_or(bits, Ordering::AcqRel) == 0;
        if first && place.key.is_none() {
            place.env.push(Told::Port(self.clone()));
        }
    }

    /// None where it has left that isolate since it was put into its ring.
    fn take_bits(&self, env: u32) -> Option<u32> {
        let place = lock(&self.place);
        let there = place.env.id == env && place.key.is_none();
        there.then(|| self.bits.swap(0, Ordering::AcqRel))
    }

    /// From now on it is whose who shows `key`; it still ends with its isolate.
    pub fn offer(&self, key: Key) {
        lock(&self.place).key = Some(key);
    }

    /// Moves it, and what nobody has been told, to `env`. False where this is not its key, or no more.
    pub fn adopt(self: &Arc<Self>, env: Arc<Env>, key: &Key) -> bool {
        let mut place = lock(&self.place);
        if place.key.as_ref() != Some(key) || self.released.load(Ordering::Acquire) {
            return false;
        }
        *place = Place { env, key: None };
        if self.bits.load(Ordering::Acquire) != 0 {
            place.env.push(Told::Port(self.clone()));
        }
        true
    }

    /// That isolate is gone. False where the port is not its any more.
    pub fn release_with(&self, env: u32) -> bool {
        let place = lock(&self.place);
        let its = place.env.id == env;
        if its {
            self.released.store(true, Ordering::Release);
        }
        its
    }

    pub fn tell(&self, message: ToKeeper) -> Result<bool, Errno> {
        lock(&self.keeper).send(message.encode(), Vec::new())
    }

    /// Over: done, or never started.
    pub fn is_over(&self) -> bool {
        let state = lock(&self.state);
        state.done.is_some() || state.failure.is_some()
    }

    /// Its keeper is there, as far as this side knows.
    pub fn is_kept(&self) -> bool {
        let orphaned = lock(&self.state).orphaned;
        !orphaned && !self.is_over() && lock(&self.keeper).socket.is_some()
    }

    /// The record of docs/abi.md.
    pub fn report(&self, guards: u32) -> Vec<u8> {
        let state = lock(&self.state);
        let done = state.done.as_ref();
        let wait = done.map(|d| d.wait).or(state.wait);
        let (wait, value) = match wait {
            None => (0, 0),
            Some(Wait::Code(n)) => (1, n),
            Some(Wait::Signal(n)) => (2, n),
            Some(Wait::Lost) => (3, 0),
        };
        let flag = |bit: u32, on: bool| if on { bit } else { 0 };
        let flags = flag(1, state.started)
            | flag(2, state.failure.is_some())
            | flag(4, wait != 0)
            | flag(8, done.is_some())
            | flag(16, state.own_group)
            | flag(32, self.discarded.load(Ordering::Acquire))
            | flag(64, has_more(&state));
        let (stage, errno) = state.failure.map_or((0, 0), |(s, e)| (s as u32, e.raw_os_error()));
        let cause = done.map(|d| d.cause).or(state.cause).unwrap_or(Cause::Exit);
        let micros = |n: Option<u64>| n.unwrap_or(0) as f64 / 1000.0;
        let mut w = Writer::default();
        w.u32(flags).i32(state.pid).u32(stage).i32(errno).u32(wait).i32(value).u32(cause as u32);
        w.u32(done.map_or(0, |d| d.killed));
        w.f64(micros(done.map(|d| d.wall_us))).f64(micros(done.map(|d| d.user_us)));
        w.f64(micros(done.map(|d| d.system_us))).f64(done.map_or(0.0, |d| d.max_rss_bytes as f64));
        let (lack, errno) = state.lack.unwrap_or((Lack::Unwanted, 0));
        w.u32(guards).u32(lack as u32).i32(errno);
        let survivors: &[Survivor] = done.map_or(&[], |d| &d.survivors);
        w.u32(survivors.len() as u32);
        survivors.iter().for_each(|s| s.put(&mut w));
        if has_more(&state) {
            more(&state, &mut w);
        }
        w.done()
    }
}

/// A tree without limits has nothing to say of them.
fn has_more(state: &State) -> bool {
    let limited = |held: Held| held.limits != Version::None || held.kill == Version::One;
    state.about.is_some() || state.held.is_some_and(limited) || !figures(state).is_empty()
}

fn figures(state: &State) -> &[Figure] {
    state.done.as_ref().map_or(&[], |done| &done.figures)
}

fn more(state: &State, w: &mut Writer) {
    let held = state.held.unwrap_or(Held { kill: Version::None, limits: Version::None });
    w.u32(held.kill as u32).u32(held.limits as u32);
    let (at, subject) = state.about.as_ref().map_or((u32::MAX, &[][..]), |(at, subject)| (*at, subject));
    w.u32(at).blob(subject);
    w.u32(figures(state).len() as u32);
    figures(state).iter().for_each(|figure| figure.put(w));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    struct Count(Arc<AtomicUsize>);
    impl Wake for Count {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn port(env: &Arc<Env>, handle: i32) -> Arc<Port> {
        let (near, _far) = socket::pair().expect("a pair");
        Arc::new(Port::new(handle, env.clone(), 0, 0, near))
    }

    #[test]
    fn a_port_stands_in_the_ring_once_and_wakes_once_until_it_is_drained() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let env = Arc::new(Env::new(1, Box::new(Count(wakes.clone()))));
        let (a, b) = (port(&env, 7), port(&env, 8));
        a.announce(STARTED);
        b.announce(ready(1));
        a.announce(DONE);
        assert_eq!(wakes.load(Ordering::Acquire), 1);
        assert_eq!(env.drain(8), [(7, STARTED | DONE), (8, ready(1))]);
        assert_eq!(env.drain(8), []);
        a.announce(SIGNALLED);
        assert_eq!(wakes.load(Ordering::Acquire), 2);
        assert_eq!(env.drain(0), []);
        assert_eq!(env.drain(1), [(7, SIGNALLED)]);
    }

    #[test]
    fn what_a_reader_has_read_is_seen_and_what_waits_for_one_is_bounded() {
        let (near, far) = socket::pair().expect("a pair");
        let mut outlet = Outlet::counted(near);
        assert_eq!(outlet.progress(), None);
        while outlet.send(vec![7; 8], Vec::new()).expect("it is open") {}
        assert_eq!(outlet.progress(), Some(0), "nobody reads");
        let mut read = 0;
        for _ in 0..3 {
            assert!(matches!(socket::receive(&far, &mut [0; 8]), Ok(Some(_))));
            let more = outlet.progress().expect("there is more");
            assert!(more > read);
            read = more;
        }
        assert_eq!(outlet.progress(), Some(read), "and no more since");
        while !outlet.is_full() {
            outlet.send(vec![7; 8], Vec::new()).expect("it is open");
        }
        assert!(outlet.unsent.len() <= UNSENT_MOST);
        while let Ok(Some(_)) = socket::receive(&far, &mut [0; 8]) {
            outlet.flush().expect("it is open");
        }
        assert_eq!(outlet.progress(), None);
    }

    #[test]
    fn a_port_moves_with_what_nobody_was_told() {
        let (wakes, none) = (Arc::new(AtomicUsize::new(0)), Arc::default());
        let old = Arc::new(Env::new(1, Box::new(Count(none))));
        let new = Arc::new(Env::new(2, Box::new(Count(wakes.clone()))));
        let (a, b) = (port(&old, 7), port(&old, 8));
        a.announce(STARTED);
        b.announce(DONE);
        a.offer([9; 16]);
        assert!(!a.is_of(1), "nobody's to use");
        assert_eq!(old.drain(1), [(8, DONE)], "what has left does not count, and keeps nobody waiting");
        a.announce(ready(1));
        assert!(!a.adopt(new.clone(), &[8; 16]), "another key");
        assert!(a.adopt(new.clone(), &[9; 16]));
        assert!(!a.adopt(old.clone(), &[9; 16]), "used");
        assert!(a.is_of(2) && !a.is_of(1));
        assert_eq!((old.drain(8), wakes.load(Ordering::Acquire)), (vec![], 1));
        assert_eq!(new.drain(8), [(7, STARTED | ready(1))]);
        a.announce(DONE);
        assert_eq!((old.drain(8), new.drain(8)), (vec![], vec![(7, DONE)]));
    }

    #[test]
    fn a_port_on_its_way_ends_with_its_sender_and_not_after_it_has_arrived() {
        let old = Arc::new(Env::new(1, Box::new(Count(Arc::default()))));
        let new = Arc::new(Env::new(2, Box::new(Count(Arc::default()))));
        let (lost, kept) = (port(&old, 7), port(&old, 8));
        lost.offer([1; 16]);
        kept.offer([2; 16]);
        assert!(kept.adopt(new.clone(), &[2; 16]));
        assert!(lost.release_with(1) && !kept.release_with(1));
        assert!(!lost.adopt(new, &[1; 16]), "it is gone with its sender");
    }

    #[test]
    fn a_released_port_is_not_heard_of() {
        let env = Arc::new(Env::new(1, Box::new(Count(Arc::default()))));
        let a = port(&env, 7);
        a.released.store(true, Ordering::Release);
        a.announce(DONE);
        assert_eq!(env.drain(8), []);
    }
}
