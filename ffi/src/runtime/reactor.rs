// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! The one thread that waits: for keepers, guardians and pipes of all isolates.
//!
//! It never reads a byte that anybody wants: JavaScript reads pipes itself,
//! straight into the consumer's buffer. Joined pipes it pours from one into the other. A pipe is armed for one event at a
//! time; once the child has exited and left others behind it is watched for its
//! end as well, so that the keeper can be told when nobody holds it any more.

use crate::kernel::cgroup::{Base, Leaf};
use crate::kernel::sabotage::{fault, sabotaged, Step};
use crate::kernel::socket;
use crate::kernel::sys::host;
use crate::kernel::tree::{Outcome, UNSEEN};
use crate::kernel::wire::{
    Cause, Done, FromGuardian, FromKeeper, Lack, Stage, ToGuardian, ToKeeper, Wait, ABI, PACKET,
};
use crate::runtime::alarms::{self, Alarms};
use crate::runtime::environment::{errno_of, Program};
use crate::runtime::handle::Slots;
use crate::runtime::pair::Pair;
use crate::runtime::pipe::Poured;
use crate::runtime::port::{
    is_output, lock, ready, Env, Key, Port, State, Stdio, Terms, Wake, ALARM, DONE, SIGNALLED, STARTED,
};
use crate::runtime::remains::Remains;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{eventfd, EventfdFlags, Timespec};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions};
use rustix::rand::GetRandomFlags;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

/// How long after a port's deadline its keeper may still speak before the guardian is asked to end it.
const PATIENCE: Duration = Duration::from_secs(2);
/// What an owner's end leaves for the hard phase.
const OWNER_DEADLINE_MS: u32 = 5_000;

/// What an epoll event is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Topic {
    Poke = 0,
    Keeper = 1,
    Stdio = 2,
    Guardian = 3,
    Watchdog = 4,
    Alarm = 5,
}

fn token(topic: Topic, stream: usize, id: u32) -> EventData {
    EventData::new_u64((topic as u64) << 56 | (stream as u64) << 48 | u64::from(id))
}

fn topic(data: EventData) -> (u64, usize, u32) {
    let bits = data.u64();
    (bits >> 56, (bits >> 48 & 0xff) as usize, bits as u32)
}

#[derive(Default)]
pub struct Shared {
    pub ports: Slots<Arc<Port>>,
    pub pairs: HashMap<u32, Arc<Pair>>,
    envs: HashMap<u32, Arc<Env>>,
    /// By isolate: what was looked up, and may be started next.
    prepared: HashMap<u32, Prepared>,
    /// By isolate: a port whose keeper waits for something to start, so that the next start need not wait for it.
    spares: HashMap<u32, Arc<Port>>,
}

/// A program that was looked up and may be started next.
pub struct Prepared {
    pub program: Program,
    /// Its keeper is there or has been asked for, where there was a guardian.
    pub port: Option<Arc<Port>>,
}

pub struct Reactor {
    /// A fork of the runtime that did not exec has no thread to wait on it.
    process: u32,
    epoll: OwnedFd,
    poke: OwnedFd,
    pub shared: Mutex<Shared>,
    /// Held while a pair is looked for and started.
    pub starting: Mutex<()>,
    deadlines: Mutex<BinaryHeap<Reverse<(Instant, i32)>>>,
    remains: Remains,
    next: AtomicU32,
    /// This copy of the library in this process, and no other.
    pub library: [u8; 8],
}

/// Bytes that nobody can guess.
pub fn random<const N: usize>() -> Result<[u8; N], Errno> {
    let mut bytes = [0; N];
    // So few come at once, or not at all.
    rustix::io::retry_on_intr(|| rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty()))?;
    Ok(bytes)
}

/// The reactor of this process, started at the first call.
pub fn reactor() -> Result<&'static Reactor, Errno> {
    static REACTOR: OnceLock<Arc<Reactor>> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());
    if REACTOR.get().is_none() {
        let _one = lock(&STARTING);
        if REACTOR.get().is_none() {
            // A failure is not kept: what was lacking may be there at the next call.
            let _ = REACTOR.set(Reactor::started()?); // nobody else could
        }
    }
    let reactor = REACTOR.get().ok_or(Errno::AGAIN)?;
    if reactor.process == std::process::id() {
        Ok(reactor)
    } else {
        Err(Errno::CHILD)
    }
}

impl Reactor {
    fn started() -> Result<Arc<Self>, Errno> {
        fault("reactor")?;
        let reactor = Arc::new(Reactor::new()?);
        let running = reactor.clone();
        let builder = std::thread::Builder::new().name("proton-reactor".into()).stack_size(256 * 1024);
        builder.spawn(move || running.run()).map_err(|error| errno_of(&error))?;
        Ok(reactor)
    }

    fn new() -> Result<Self, Errno> {
        let reactor = Reactor {
            process: std::process::id(),
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            poke: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            shared: Mutex::default(),
            starting: Mutex::default(),
            deadlines: Mutex::default(),
            remains: Remains::default(),
            next: AtomicU32::new(1),
            library: random()?,
        };
        epoll::add(&reactor.epoll, &reactor.poke, token(Topic::Poke, 0, 0), EventFlags::IN)?;
        Ok(reactor)
    }

    pub fn next_id(&self) -> u32 {
        self.next.fetch_add(1, Ordering::AcqRel)
    }

    // ---- isolates

    pub fn open_env(&self, wake: Box<dyn Wake>) -> u32 {
        let id = self.next_id();
        lock(&self.shared).envs.insert(id, Arc::new(Env::new(id, wake)));
        id
    }

    /// The isolate that calls, by its number; another's is EBADF.
    pub fn env(&self, id: u32) -> Result<Arc<Env>, Errno> {
        lock(&self.shared).envs.get(&id).filter(|env| env.calls()).cloned().ok_or(Errno::BADF)
    }

    /// The isolate is gone: its ports' trees end as by their owner.
    pub fn close_env(&self, id: u32) {
        let mut shared = lock(&self.shared);
        shared.envs.remove(&id);
        drop(shared);
        self.unprepare(id);
        self.abandon_spares(|port| port.env().id == id);
        let shared = lock(&self.shared);
        let ports: Vec<Arc<Port>> = shared.ports.iter().filter(|port| port.env().id == id).cloned().collect();
        drop(shared);
        // One that another isolate adopts at this moment is either gone with this one, or not its any more.
        ports.iter().filter(|port| port.release_with(id)).for_each(|port| self.release(port));
    }

    /// A port that is on its way to this isolate, for who has the key; any other is EBADF.
    pub fn adopt(&self, env: u32, handle: i32, key: &Key) -> Result<(), Errno> {
        let env = self.env(env)?;
        let port = lock(&self.shared).ports.get(handle).cloned().ok_or(Errno::BADF)?;
        port.adopt(env, key).then_some(()).ok_or(Errno::BADF)
    }

    /// A port that this isolate was given the handle of and has not given up;
    /// any other number, a spare's among them, is EBADF.
    pub fn port(&self, env: u32, handle: i32) -> Result<Arc<Port>, Errno> {
        let named = |port: &&Arc<Port>| {
            let given = port.terms.get().is_some() && !port.released.load(Ordering::Acquire);
            given && port.is_of(env)
        };
        lock(&self.shared).ports.get(handle).filter(named).cloned().ok_or(Errno::BADF)
    }

    // ---- ports to be

    /// Asks the guardian of `pair` for a keeper. Its port starts nothing before it gets a launch record.
    pub fn ask(&self, pair: &Pair, env: &Arc<Env>) -> Result<Arc<Port>, (Stage, Errno)> {
        let at = |stage| move |errno| (stage, errno);
        let (near, far) = fault("port-socket").and_then(|()| socket::pair()).map_err(at(Stage::Stdio))?;
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

    fn insert(&self, pair: &Pair, make: impl FnOnce(i32) -> Port) -> Result<Arc<Port>, (Stage, Errno)> {
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
            Some(spare) if !spare.is_over() => Some(spare),
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
        let unused = if current && shared.envs.contains_key(&env) {
            shared.spares.insert(env, port)
        } else {
            Some(port)
        };
        drop(shared);
        unused.inspect(|port| self.abandon(port));
    }

    /// The keeper of a port that is over waits for the next child: at a new port.
    fn reuse(&self, old: &Port, socket: OwnedFd) {
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

    fn abandon_spares(&self, of: impl Fn(&Port) -> bool) {
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

    fn unprepare(&self, env: u32) {
        let unused = self.prepared(env).and_then(|prepared| prepared.port);
        unused.into_iter().for_each(|port| self.keep_spare(port));
    }

    // ---- watching

    pub fn watch_port(&self, port: &Port) -> Result<(), Errno> {
        fault("watch-port")?;
        let keeper = lock(&port.keeper);
        let socket = keeper.socket.as_ref().ok_or(Errno::PIPE)?;
        epoll::add(&self.epoll, socket, token(Topic::Keeper, 0, port.handle as u32), EventFlags::IN)
    }

    pub fn watch_pair(&self, pair: &Pair) -> Result<(), Errno> {
        fault("watch-pair")?;
        if let Some(socket) = &lock(&pair.requests).socket {
            epoll::add(&self.epoll, socket, token(Topic::Guardian, 0, pair.id), EventFlags::IN)?;
        }
        epoll::add(&self.epoll, pair.watchdog_end(), token(Topic::Watchdog, 0, pair.id), EventFlags::IN)
    }

    /// Some of what was sent waits for room.
    pub fn want_room(&self, port: &Port) {
        if let Some(socket) = &lock(&port.keeper).socket {
            let both = EventFlags::IN | EventFlags::OUT;
            let _ = epoll::modify(&self.epoll, socket, token(Topic::Keeper, 0, port.handle as u32), both);
        }
    }

    pub fn want_room_at_guardian(&self, pair: &Pair) {
        if let Some(socket) = &lock(&pair.requests).socket {
            let both = EventFlags::IN | EventFlags::OUT;
            let _ = epoll::modify(&self.epoll, socket, token(Topic::Guardian, 0, pair.id), both);
        }
    }

    /// Watches one of our pipe ends from now on for `flags` (and a hang-up, which is always told).
    fn watch_stream(
        &self,
        port: &Port,
        stream: usize,
        stdio: &mut Stdio,
        flags: EventFlags,
    ) -> Result<(), Errno> {
        let Some(end) = &stdio.end else { return Ok(()) };
        let data = token(Topic::Stdio, stream, port.handle as u32);
        if stdio.watched {
            return epoll::modify(&self.epoll, &end.fd, data, flags);
        }
        epoll::add(&self.epoll, &end.fd, data, flags)?;
        stdio.watched = true;
        Ok(())
    }

    // ---- what JavaScript asks for

    pub fn arm(&self, port: &Arc<Port>, stream: usize) -> Result<(), Errno> {
        let wanted = if is_output(stream) { EventFlags::IN } else { EventFlags::OUT };
        let mut stdio = lock(port.stream(stream).ok_or(Errno::INVAL)?);
        let discard = port.discard.load(Ordering::Acquire);
        if stdio.end.is_none() || discard {
            port.announce(ready(stream)); // over: a read or write says so
            return Ok(());
        }
        self.watch_stream(port, stream, &mut stdio, wanted | EventFlags::ONESHOT)?;
        stdio.armed = true;
        Ok(())
    }

    /// Our end of a stream is closed; for output that means that we do not want to know when it ends.
    pub fn shut(&self, port: &Arc<Port>, stream: usize) {
        let Some(stdio) = port.stream(stream) else { return };
        let mut stdio = lock(stdio);
        stdio.end = None;
        stdio.over = true;
        let armed = std::mem::take(&mut stdio.armed);
        drop(stdio);
        if armed {
            port.announce(ready(stream));
        }
        self.part(port, stream);
        self.tell_eof(port);
    }

    // ---- joined pipes. Locks are taken in one order: an output's before a stdin's.

    /// From now on what comes out of `stream` is poured into the stdin of `to`, until one of them ends or somebody
    /// parts them. That is told as `stream` being ready: a read and a write will show what was the reason.
    pub fn join(&self, port: &Arc<Port>, stream: usize, to: &Arc<Port>) -> Result<(), Errno> {
        let mut output = lock(&port.stdio[stream]);
        let mut stdin = lock(&to.stdio[0]);
        let (Some(from), Some(into)) = (&output.end, &stdin.end) else { return Err(Errno::PIPE) };
        if !from.is_pipe() || !into.is_pipe() {
            return Err(Errno::INVAL);
        }
        if port.discard.load(Ordering::Acquire) {
            return Err(Errno::PIPE);
        }
        if output.into.is_some() || output.armed || stdin.from.is_some() {
            return Err(Errno::BUSY);
        }
        self.watch_stream(port, stream, &mut output, EventFlags::IN | EventFlags::ONESHOT)?;
        (output.into, stdin.from) = (Some(Arc::downgrade(to)), Some((Arc::downgrade(port), stream)));
        Ok(())
    }

    /// Nothing is poured from or into this stream any more.
    pub fn part(&self, port: &Arc<Port>, stream: usize) {
        let Some(stdio) = port.stdio.get(stream) else { return };
        let from = lock(stdio).from.take();
        let source = from.and_then(|(source, stream)| Some((source.upgrade()?, stream)));
        let (output, stream) = source.unwrap_or_else(|| (port.clone(), stream));
        let into = lock(&output.stdio[stream]).into.take();
        if let Some(sink) = into {
            sink.upgrade().inspect(|sink| lock(&sink.stdio[0]).from = None);
            output.announce(ready(stream));
        }
    }

    fn pour(&self, port: &Arc<Port>, stream: usize) {
        let Some(stdio) = port.stdio.get(stream) else { return };
        let mut output = lock(stdio);
        let Some(sink) = output.into.as_ref().and_then(Weak::upgrade) else { return };
        let mut stdin = lock(&sink.stdio[0]);
        let poured = match (&mut output.end, &mut stdin.end) {
            (Some(from), Some(to)) => from.pour(to),
            _ => Poured::Over,
        };
        let watched = match poured {
            Poured::Dry => self.watch_stream(port, stream, &mut output, EventFlags::IN | EventFlags::ONESHOT),
            Poured::Full => {
                if !output.over && lock(&port.state).wait.is_some() {
                    // For its end alone; where that fails its keeper ends by its timer.
                    let _ = self.watch_stream(port, stream, &mut output, EventFlags::ONESHOT);
                }
                self.watch_stream(&sink, 0, &mut stdin, EventFlags::OUT | EventFlags::ONESHOT)
            }
            Poured::Over => Err(Errno::PIPE),
        };
        if watched.is_err() {
            (output.into, stdin.from) = (None, None);
            drop((output, stdin));
            port.announce(ready(stream));
        }
    }

    pub fn tell(&self, port: &Port, message: ToKeeper) {
        // EPIPE: the keeper has said its last word, which is on its way to us, or its guardian speaks for it.
        if port.tell(message) == Ok(false) {
            self.want_room(port);
        }
    }

    /// Ends the tree. The first cause is told; the keeper decides which came first.
    pub fn close(&self, port: &Arc<Port>, cause: Cause, grace_ms: u32, deadline_ms: u32) {
        if port.is_over() {
            return;
        }
        lock(&port.state).cause.get_or_insert(cause);
        self.tell(port, ToKeeper::Close { cause, grace_ms, deadline_ms });
        let until = Instant::now() + Duration::from_millis(u64::from(deadline_ms)) + PATIENCE;
        lock(&self.deadlines).push(Reverse((until, port.handle)));
        let _ = rustix::io::write(&self.poke, &1_u64.to_ne_bytes()); // EAGAIN: poked already
        if cause != Cause::Timeout {
            self.discard(port);
        }
    }

    /// Nobody reads any more: a handler of the child's must not block on a full pipe.
    fn discard(&self, port: &Arc<Port>) {
        if port.discard.swap(true, Ordering::AcqRel) {
            return;
        }
        for stream in port.streams() {
            if !is_output(stream) {
                self.shut(port, stream);
                continue;
            }
            self.part(port, stream);
            let Some(stdio) = port.stream(stream) else { continue };
            let mut stdio = lock(stdio);
            let _ = self.watch_stream(port, stream, &mut stdio, EventFlags::IN);
            if std::mem::take(&mut stdio.armed) {
                port.announce(ready(stream)); // its reader finds the end
            }
        }
    }

    /// The handle is given up.
    pub fn release(&self, port: &Arc<Port>) {
        port.released.store(true, Ordering::Release);
        if port.is_over() {
            self.forget(port);
        } else {
            let grace_ms = match port.terms.get() {
                Some(Terms { grace_ms, kill_on_owner_death: false }) => *grace_ms,
                _ => 0,
            };
            self.close(port, Cause::Owner, grace_ms, grace_ms.saturating_add(OWNER_DEADLINE_MS));
            if port.is_over() {
                self.forget(port); // it ended in between, when it was not known to be released yet
            }
        }
    }

    /// Frees the slot of a port that is over and released.
    fn forget(&self, port: &Arc<Port>) {
        (0..3).for_each(|stream| self.part(port, stream));
        port.streams().filter_map(|stream| port.stream(stream)).for_each(|stdio| lock(stdio).end = None);
        lock(&self.shared).ports.remove(port.handle);
    }

    // ---- the thread

    fn run(&self) {
        host::block_all_signals();
        let mut events = Vec::with_capacity(128);
        let mut buffer = vec![0; PACKET];
        loop {
            events.clear();
            let pause = self.pause();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), pause.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => std::thread::sleep(Duration::from_millis(10)), // not with these arguments; never a busy loop
            }
            for event in &events {
                self.handle(*event, &mut buffer);
            }
            self.deadlines_up();
            self.end_remains();
        }
    }

    fn handle(&self, event: Event, buffer: &mut [u8]) {
        let (kind, stream, id) = topic(event.data);
        let flags = event.flags;
        if kind == Topic::Poke as u64 {
            let _ = rustix::io::read(&self.poke, &mut [0; 8]);
        } else if kind == Topic::Keeper as u64 || kind == Topic::Stdio as u64 || kind == Topic::Alarm as u64 {
            let found = lock(&self.shared).ports.get(id as i32).cloned();
            let Some(port) = found else { return };
            if kind == Topic::Keeper as u64 {
                self.keeper_event(&port, flags, buffer);
            } else if kind == Topic::Alarm as u64 {
                self.alarm_event(&port, stream, flags);
            } else {
                self.stdio_event(&port, stream, flags, buffer);
            }
        } else {
            let found = lock(&self.shared).pairs.get(&id).cloned();
            let Some(pair) = found else { return };
            if kind == Topic::Guardian as u64 {
                self.guardian_event(&pair, flags, buffer);
            } else {
                self.watchdog_event(&pair);
            }
        }
    }

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

    fn alarm_event(&self, port: &Arc<Port>, which: usize, flags: EventFlags) {
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

    fn stdio_event(&self, port: &Arc<Port>, stream: usize, flags: EventFlags, buffer: &mut [u8]) {
        let over = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        let Some(stdio) = port.stream(stream) else { return };
        let mut stdio = lock(stdio);
        if port.discard.load(Ordering::Acquire) && is_output(stream) {
            let gone = stdio.end.as_mut().is_none_or(|end| drain(end, port, buffer));
            if gone {
                stdio.end = None;
                stdio.over = true;
            }
            drop(stdio);
            return self.tell_eof(port);
        }
        stdio.over |= over;
        let armed = std::mem::take(&mut stdio.armed);
        let joined = stdio.into.is_some();
        let source = stdio.from.clone().and_then(|(source, stream)| Some((source.upgrade()?, stream)));
        if !over && matches!(stream, 1 | 2) && !joined && lock(&port.state).wait.is_some() {
            // Before the event is told: whoever is told may arm at once, and that must not be undone.
            let _ = self.watch_stream(port, stream, &mut stdio, EventFlags::ONESHOT);
        }
        drop(stdio);
        if armed {
            port.announce(ready(stream));
        }
        if over && is_output(stream) {
            self.tell_eof(port);
        }
        if joined {
            self.pour(port, stream);
        } else if let Some((source, stream)) = source {
            self.pour(&source, stream);
        }
    }

    /// The child has exited and left others behind: from now on the end of its output matters to its keeper.
    fn watch_ends(&self, port: &Arc<Port>) {
        for stream in [1, 2] {
            self.pour(port, stream); // watches its end, too, where it waits for room
            let mut stdio = lock(&port.stdio[stream]);
            if !stdio.armed && stdio.into.is_none() && !port.discard.load(Ordering::Acquire) {
                let _ = self.watch_stream(port, stream, &mut stdio, EventFlags::ONESHOT);
            }
        }
        self.tell_eof(port);
    }

    /// Once the child has exited and no pipe of ours has a writer any more, its
    /// keeper need not wait for what the child left behind.
    pub fn tell_eof(&self, port: &Arc<Port>) {
        let both = [1, 2].iter().all(|&stream| lock(&port.stdio[stream]).over);
        let mut state = lock(&port.state);
        let first = state.wait.is_some() && both && !std::mem::replace(&mut state.eof_told, true);
        drop(state);
        if first {
            self.tell(port, ToKeeper::Eof);
        }
    }

    fn keeper_event(&self, port: &Arc<Port>, flags: EventFlags, buffer: &mut [u8]) {
        if flags.contains(EventFlags::OUT) {
            let mut keeper = lock(&port.keeper);
            if !matches!(keeper.flush(), Ok(false)) {
                if let Some(socket) = &keeper.socket {
                    let data = token(Topic::Keeper, 0, port.handle as u32);
                    let _ = epoll::modify(&self.epoll, socket, data, EventFlags::IN);
                }
            }
        }
        // One packet an event: the next is told at once, and there is seldom one.
        let keeper = lock(&port.keeper);
        let Some(socket) = &keeper.socket else { return };
        let received = socket::receive(socket, buffer).map(|packet| packet.map(|p| p.len));
        drop(keeper);
        match received {
            Ok(Some(len)) => {
                // What is no message was not said by a keeper.
                let message = FromKeeper::decode(&buffer[..len]);
                message.into_iter().for_each(|message| self.keeper_says(port, message));
            }
            Err(Errno::AGAIN) => {}
            Ok(None) | Err(_) => self.keeper_silent(port),
        }
    }

    fn keeper_says(&self, port: &Arc<Port>, message: FromKeeper) {
        let mut state = lock(&port.state);
        let bits = match message {
            FromKeeper::Started { pid, own_group, lack, held } => {
                (state.started, state.pid, state.own_group, state.lack) = (true, pid, own_group, Some(lack));
                state.held = Some(held);
                STARTED
            }
            FromKeeper::Placed { leaves } => {
                state.leaves = leaves.into_iter().map(Leaf::from).collect();
                return;
            }
            FromKeeper::About { at, subject } => {
                state.about = Some((at, subject));
                return;
            }
            FromKeeper::Exited { wait } => {
                state.wait = Some(wait);
                drop(state);
                return self.watch_ends(port);
            }
            FromKeeper::Signalled { errno } => {
                state.answers.push_back(-errno);
                SIGNALLED
            }
            FromKeeper::Failed { stage, errno } => {
                drop(state);
                let errno = Errno::from_raw_os_error(errno);
                return self.over(port, |state| state.failure = Some((stage, errno)), false);
            }
            FromKeeper::Done(done) => {
                drop(state);
                let again = done.again;
                return self.over(port, |state| state.done = Some(done), again);
            }
        };
        drop(state);
        port.announce(bits);
    }

    /// The keeper's socket has ended without its last word: its guardian sweeps and tells us.
    fn keeper_silent(&self, port: &Arc<Port>) {
        lock(&port.keeper).close();
        lock(&port.state).orphaned = true;
        self.resolve_orphan(port);
    }

    /// Ends a port whose keeper is lost, once its tree is known to be gone.
    fn resolve_orphan(&self, port: &Arc<Port>) {
        let pair = lock(&self.shared).pairs.get(&port.pair).cloned();
        let mut state = lock(&port.state);
        if !state.orphaned || state.done.is_some() || state.failure.is_some() {
            return;
        }
        if state.swept.is_none() && pair.as_ref().is_none_or(|pair| pair.is_gone()) {
            // Nobody else is left who could end its tree: where it has a cgroup, we do.
            let inside = state.lack.is_none_or(|(lack, _)| lack == Lack::Nothing);
            let base = pair.as_ref().and_then(|pair| pair.base.get()).filter(|_| inside);
            let usual = base.map(|base| base.leaf(port.keeper_id));
            // Beside the usual one, which stands among them where it is in use.
            let others = state.leaves.iter().filter(|leaf| Some(*leaf) != usual.as_ref()).cloned();
            let leaves: Vec<_> = usual.iter().cloned().chain(others).collect();
            if !leaves.is_empty() {
                drop(state);
                return self.remains.add(leaves, Some(port.clone()));
            }
            // Unless the watchdog has proven it before it left, nobody can know whether something is.
            let proven = pair.as_ref().is_none_or(|pair| pair.proven.load(Ordering::Acquire));
            let survivors = if proven || !state.started { Vec::new() } else { vec![UNSEEN] };
            state.swept = Some(Outcome { killed: 0, survivors });
        }
        let Some(Outcome { killed, survivors }) = state.swept.clone() else { return };
        let (wait, cause) = (state.wait.unwrap_or(Wait::Lost), state.cause.unwrap_or(Cause::Guardian));
        let started = state.started;
        drop(state);
        let (wall_us, user_us, system_us, max_rss_bytes) = (0, 0, 0, 0);
        let again = false;
        let figures = Vec::new();
        let done = Done {
            wait,
            cause,
            killed,
            wall_us,
            user_us,
            system_us,
            max_rss_bytes,
            again,
            survivors,
            figures,
        };
        let learn = |state: &mut State| match started {
            true => state.done = Some(done),
            false => state.failure = Some((Stage::Keeper, Errno::CHILD)),
        };
        self.over(port, learn, false);
    }

    /// A watchdog that no port will ever need: it leaves by itself, with its cgroups, and is our child to reap.
    pub fn give_up(&self, watchdog: Pid) {
        self.remains.reap(watchdog);
        let _ = rustix::io::write(&self.poke, &1_u64.to_ne_bytes()); // EAGAIN: poked already
    }

    /// Ends cgroups that nobody else is left to end, a step at each turn of the loop.
    fn end_remains(&self) {
        for (port, outcome) in self.remains.step() {
            lock(&port.state).swept = Some(outcome);
            self.resolve_orphan(&port);
        }
    }

    /// The last thing that is ever learnt of a port. Its keeper may be there for another one.
    fn over(&self, port: &Arc<Port>, learn: impl FnOnce(&mut State), again: bool) {
        let mut state = lock(&port.state);
        if state.done.is_some() || state.failure.is_some() {
            return;
        }
        // Whoever still waits for an answer to a signal gets one: there is nobody left.
        learn(&mut state);
        let bits = if state.failure.is_some() { STARTED } else { DONE };
        let again = again && !state.end_asked;
        drop(state);
        let socket = lock(&port.keeper).take();
        if let (true, Some(socket)) = (again, socket) {
            self.reuse(port, socket);
        }
        *lock(&port.alarms) = Alarms::default();
        self.leave_pair(port.pair);
        port.announce(bits);
        if port.released.load(Ordering::Acquire) {
            self.forget(port);
        } else if port.discard.load(Ordering::Acquire) {
            let outputs = port.streams().filter(|&stream| is_output(stream));
            outputs.filter_map(|stream| port.stream(stream)).for_each(|stdio| lock(stdio).end = None);
        }
    }

    /// A pair that gets no new ports ends with its last one.
    fn leave_pair(&self, id: u32) {
        let found = lock(&self.shared).pairs.get(&id).cloned();
        let Some(pair) = found else { return };
        if pair.ports.fetch_sub(1, Ordering::AcqRel) == 1 && !pair.current.load(Ordering::Acquire) {
            self.dismiss(&pair);
            self.bury(&pair);
        }
    }

    /// Forgets a pair whose helpers and ports are gone, and removes what helpers that were killed could not.
    fn bury(&self, pair: &Pair) {
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
    fn dismiss(&self, pair: &Pair) {
        lock(&pair.requests).finish();
        let _ = rustix::net::shutdown(&pair.watch, rustix::net::Shutdown::Write);
        // it ended before
    }

    fn guardian_event(&self, pair: &Arc<Pair>, flags: EventFlags, buffer: &mut [u8]) {
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
    fn kept_by(&self, id: u32) -> Option<Arc<Port>> {
        let of_it = |port: &&Arc<Port>| port.keeper_id == id && !port.is_over();
        lock(&self.shared).ports.iter().find(of_it).cloned()
    }

    fn refused(&self, id: u32, errno: Errno) {
        let Some(port) = self.kept_by(id) else { return };
        lock(&port.keeper).close();
        self.over(&port, |state| state.failure = Some((Stage::Keeper, errno)), false);
    }

    fn swept(&self, id: u32, outcome: Outcome) {
        let Some(port) = self.kept_by(id) else { return };
        lock(&port.state).swept = Some(outcome);
        self.resolve_orphan(&port);
    }

    fn guardian_silent(&self, pair: &Arc<Pair>) {
        lock(&pair.requests).close();
        pair.current.store(false, Ordering::Release);
        pair.guardian_gone.store(true, Ordering::Release);
        let guardian = lock(&pair.guardian).take();
        if let Some(guardian) = guardian {
            // It is ours only where the watchdog was gone before it: ECHILD otherwise.
            let _ = rustix::process::waitid(WaitId::PidFd(guardian.as_fd()), WaitIdOptions::EXITED);
        }
        self.settle(pair);
    }

    fn watchdog_event(&self, pair: &Arc<Pair>) {
        let _ = epoll::delete(&self.epoll, pair.watchdog_end());
        if !sabotaged(Step::WatchdogReap) {
            pair.reap_watchdog();
            pair.hear_watchdog();
        }
        pair.current.store(false, Ordering::Release);
        pair.watchdog_gone.store(true, Ordering::Release);
        self.settle(pair);
    }

    /// Ports whose keepers are silent end when both helpers are gone; so does the pair, with its last port.
    fn settle(&self, pair: &Arc<Pair>) {
        self.abandon_spares(|port| port.pair == pair.id);
        let shared = lock(&self.shared);
        let ports: Vec<_> = shared.ports.iter().filter(|port| port.pair == pair.id).cloned().collect();
        drop(shared);
        ports.iter().for_each(|port| self.resolve_orphan(port));
        self.bury(pair);
    }

    fn pause(&self) -> Option<Timespec> {
        let deadline = lock(&self.deadlines).peek().map(|Reverse((at, _))| *at);
        let first = [deadline, self.remains.next()].into_iter().flatten().min();
        first.and_then(|at| Timespec::try_from(at.saturating_duration_since(Instant::now())).ok())
    }

    /// Keepers that have missed their deadline are the guardian's business.
    fn deadlines_up(&self) {
        let now = Instant::now();
        loop {
            let mut deadlines = lock(&self.deadlines);
            match deadlines.peek() {
                Some(Reverse((at, _))) if *at <= now => {}
                _ => return,
            }
            let Some(Reverse((_, handle))) = deadlines.pop() else { return };
            drop(deadlines);
            let shared = lock(&self.shared);
            let Some(port) = shared.ports.get(handle).cloned() else { continue };
            let pair = shared.pairs.get(&port.pair).cloned();
            drop(shared);
            let asked = std::mem::replace(&mut lock(&port.state).end_asked, true);
            if let (false, false, Some(pair)) = (port.is_over(), asked, pair) {
                let request = ToGuardian::End { id: port.keeper_id }.encode();
                if lock(&pair.requests).send(request, Vec::new()) == Ok(false) {
                    self.want_room_at_guardian(&pair);
                }
            }
        }
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

/// Reads and drops; true at the end of the stream.
fn drain(end: &mut crate::runtime::pipe::End, port: &Port, buffer: &mut [u8]) -> bool {
    for _ in 0..16 {
        match end.read(buffer) {
            Ok(0) => return true,
            Ok(_) => port.discarded.store(true, Ordering::Release),
            Err(Errno::AGAIN) => return false,
            Err(_) => return true,
        }
    }
    false // level-triggered: the rest comes with the next event, after others had their turn
}
