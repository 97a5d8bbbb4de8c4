// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! The one thread that waits: for keepers, guardians and pipes of all isolates.
//!
//! It never reads a byte that anybody wants: JavaScript reads pipes itself,
//! straight into the consumer's buffer. Joined pipes it pours from one into the other. A pipe is armed for one event at a
//! time; once the child has exited and left others behind it is watched for its
//! end as well, so that the keeper can be told when nobody holds it any more.

mod guardians;
mod keepers;
mod late;
mod limits;
mod spares;
mod streams;

use crate::kernel::sabotage::fault;
use crate::kernel::sys::host;
use crate::kernel::wire::PACKET;
use crate::runtime::deadlines::Deadlines;
use crate::runtime::environment::{errno_of, Program};
use crate::runtime::handle::Slots;
use crate::runtime::pair::Pair;
use crate::runtime::port::{lock, Env, Key, Port, Wake};
use crate::runtime::remains::Remains;
use rustix::event::epoll::{CreateFlags, Event, EventData, EventFlags};
use rustix::event::{epoll, eventfd, EventfdFlags, Timespec};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::rand::GetRandomFlags;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// How long after a port's deadline its keeper may still speak before it is late.
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
    Timer = 6,
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
    deadlines: Deadlines,
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
            deadlines: Deadlines::new()?,
            remains: Remains::default(),
            next: AtomicU32::new(1),
            library: random()?,
        };
        epoll::add(&reactor.epoll, &reactor.poke, token(Topic::Poke, 0, 0), EventFlags::IN)?;
        let timer = &reactor.deadlines.timer;
        epoll::add(&reactor.epoll, timer, token(Topic::Timer, 0, 0), EventFlags::IN)?;
        Ok(reactor)
    }

    pub fn next_id(&self) -> u32 {
        self.next.fetch_add(1, Ordering::AcqRel)
    }

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
            self.end_remains();
        }
    }

    fn handle(&self, event: Event, buffer: &mut [u8]) {
        let (kind, stream, id) = topic(event.data);
        let flags = event.flags;
        if kind == Topic::Poke as u64 {
            let _ = rustix::io::read(&self.poke, &mut [0; 8]);
        } else if kind == Topic::Timer as u64 {
            self.look_at_late();
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

    fn pause(&self) -> Option<Timespec> {
        self.remains
            .next()
            .and_then(|at| Timespec::try_from(at.saturating_duration_since(Instant::now())).ok())
    }
}
