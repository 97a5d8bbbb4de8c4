// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! What the doors open to: looking a program up, starting it, and the rest of
//! a port's calls. All of it on the calling thread, and none of it waits.

use crate::kernel::socket;
use crate::kernel::sys::host;
use crate::kernel::wire::{
    Cause, Launch, Scheduler, Scope, Spec, Stage, Stdio, ToGuardian, ToKeeper, LAUNCH_MAX,
};
use crate::runtime::environment;
use crate::runtime::inherit::{self, Inherited};
use crate::runtime::pair::Pair;
use crate::runtime::pipe::{self, End};
use crate::runtime::port::{lock, Port, Terms};
use crate::runtime::reactor::{reactor, Reactor};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

type Failed = (Stage, Errno);

fn at(stage: Stage) -> impl Fn(Errno) -> Failed {
    move |errno| (stage, errno)
}

fn decode(spec: &[u8]) -> Result<Spec, Failed> {
    Spec::decode(spec).map_err(|_| (Stage::Spec, Errno::INVAL))
}

fn native_environment() -> Result<Vec<Vec<u8>>, Failed> {
    host::environment().map_err(at(Stage::Spec))
}

/// The absolute path that would be executed.
pub fn resolve(env: u32, spec: &[u8]) -> Result<Vec<u8>, Failed> {
    reactor().and_then(|reactor| reactor.env(env)).map_err(at(Stage::Spec))?;
    let path = environment::program(&decode(spec)?, native_environment()?)?;
    Ok(path.into_os_string().into_vec())
}

/// The child's side and ours of its stdio.
fn stdio(modes: [Stdio; 3]) -> Result<([Option<End>; 3], Vec<OwnedFd>), Errno> {
    let mut ends = [None, None, None];
    let mut childs = Vec::with_capacity(4);
    for (number, mode) in modes.into_iter().enumerate() {
        childs.push(match mode {
            Stdio::Inherit => pipe::inherited(number)?,
            Stdio::Null => pipe::null()?,
            Stdio::Piped => {
                let (ours, theirs) = pipe::piped(number == 0)?;
                ends[number] = Some(ours);
                theirs
            }
        });
    }
    Ok((ends, childs))
}

fn record(spec: &Spec, path: &[u8], inherited: Inherited) -> Result<Launch, Failed> {
    let env = environment::entries(environment::compose(native_environment()?, spec));
    let argv = std::iter::once(&spec.arg0).chain(&spec.args).cloned().collect();
    let (policy, priority) = inherited.priorities.scheduler;
    Ok(Launch {
        path: path.to_vec(),
        argv,
        env,
        grace_ms: spec.grace_ms,
        flush_ms: spec.flush_ms,
        timeout_ms: spec.timeout_ms,
        kill_on_owner_death: spec.kill_on_owner_death,
        output_piped: spec.stdio[1..].contains(&Stdio::Piped),
        join_group: inherited.foreground_group,
        umask: inherited.umask,
        rlimits: inherited.rlimits,
        nice: inherited.priorities.nice,
        scheduler: Scheduler { policy, priority },
        ioprio: inherited.priorities.ioprio,
        oom_score_adj: inherited.oom_score_adj,
        affinity: inherited.priorities.affinity,
    })
}

/// Starts `path` as `spec` says; the outcome is an event. Returns the handle.
pub fn spawn(env: u32, spec: &[u8], path: &[u8]) -> Result<i32, Failed> {
    let reactor = reactor().map_err(at(Stage::Library))?;
    let env = reactor.env(env).map_err(at(Stage::Library))?;
    let spec = decode(spec)?;
    let directory = environment::directory(&spec)?;
    let cwd = inherit::open_directory(&directory).map_err(at(Stage::Cwd))?;
    let launch = record(&spec, path, inherit::inherited().map_err(at(Stage::Library))?)?;
    let encoded = launch.encode();
    if path.is_empty() || path.contains(&0) || encoded.len() > LAUNCH_MAX {
        let errno = if encoded.len() > LAUNCH_MAX { Errno::TOOBIG } else { Errno::INVAL };
        return Err((Stage::Exec, errno));
    }
    let (ends, mut childs) = stdio(spec.stdio).map_err(at(Stage::Stdio))?;
    childs.push(cwd);
    let (near, far) = socket::pair().map_err(at(Stage::Stdio))?;
    let pair = pair_for_this_thread(reactor)?;
    let terms = Terms {
        grace: Duration::from_millis(u64::from(spec.grace_ms)),
        kill_on_owner_death: spec.kill_on_owner_death,
    };
    let port = insert(reactor, &pair, |handle| Port::new(handle, env, pair.id, terms, near, ends))?;
    let grace_ms = if spec.kill_on_owner_death { 0 } else { spec.grace_ms };
    if let Err(failed) = ask(reactor, &pair, &port, grace_ms, far, &encoded, childs) {
        port.released.store(true, Ordering::Release);
        lock(&reactor.shared).ports.remove(port.handle);
        pair.ports.fetch_sub(1, Ordering::AcqRel);
        return Err(failed);
    }
    Ok(port.handle)
}

fn insert(reactor: &Reactor, pair: &Pair, make: impl FnOnce(i32) -> Port) -> Result<Arc<Port>, Failed> {
    let mut shared = lock(&reactor.shared);
    let handle = shared.ports.insert(|handle| Arc::new(make(handle))).ok_or((Stage::Keeper, Errno::AGAIN))?;
    pair.ports.fetch_add(1, Ordering::AcqRel);
    shared.ports.get(handle).cloned().ok_or((Stage::Library, Errno::BADF))
}

/// Hands the guardian the far end, and the keeper that it will fork everything else.
fn ask(
    reactor: &Reactor,
    pair: &Pair,
    port: &Port,
    grace_ms: u32,
    far: OwnedFd,
    record: &[u8],
    childs: Vec<OwnedFd>,
) -> Result<(), Failed> {
    reactor.watch_port(port).map_err(at(Stage::Stdio))?;
    let keep = ToGuardian::Keep { id: port.handle as u32, grace_ms }.encode();
    let sent = lock(&pair.requests).send(keep, vec![far]).map_err(at(Stage::Guardian))?;
    if !sent {
        reactor.want_room_at_guardian(pair);
    }
    let mut childs = Some(childs);
    let mut room = true;
    for packet in Launch::packets(record) {
        // An error here is the keeper's end, which its guardian tells of.
        room = lock(&port.keeper).send(packet, childs.take().unwrap_or_default()).unwrap_or(true);
    }
    if !room {
        reactor.want_room(port);
    }
    Ok(())
}

/// The helpers that have this thread's rights and confinement, started where there are none.
fn pair_for_this_thread(reactor: &Reactor) -> Result<Arc<Pair>, Failed> {
    let identity = inherit::identity().map_err(at(Stage::Guardian))?;
    let shared = lock(&reactor.shared);
    let usable = |pair: &&Arc<Pair>| pair.current.load(Ordering::Acquire) && pair.identity == identity;
    if let Some(pair) = shared.pairs.values().find(usable) {
        return Ok(pair.clone());
    }
    drop(shared);
    let pair = Arc::new(Pair::start(reactor.next_id(), identity)?);
    lock(&reactor.shared).pairs.insert(pair.id, pair.clone());
    reactor.watch_pair(&pair).map_err(at(Stage::Guardian))?;
    Ok(pair)
}

/// The next spawn starts new helpers.
pub fn reset(env: u32) -> Result<(), Errno> {
    let reactor = reactor()?;
    reactor.env(env)?;
    let pairs: Vec<_> = lock(&reactor.shared).pairs.values().cloned().collect();
    pairs.iter().for_each(|pair| reactor.retire(pair));
    Ok(())
}

fn output(stream: i32) -> Result<usize, Errno> {
    if stream == 1 || stream == 2 {
        Ok(stream as usize)
    } else {
        Err(Errno::INVAL)
    }
}

pub fn read(env: u32, port: i32, stream: i32, into: &mut [u8]) -> Result<usize, Errno> {
    let reactor = reactor()?;
    let (port, stream) = (reactor.port(env, port)?, output(stream)?);
    if port.discard.load(Ordering::Acquire) {
        return Ok(0);
    }
    let mut stdio = lock(&port.stdio[stream]);
    let Some(end) = stdio.end.as_mut() else { return Ok(0) };
    let got = end.read(into)?;
    if got == 0 {
        (stdio.end, stdio.over) = (None, true);
        drop(stdio);
        reactor.tell_eof(&port);
    }
    Ok(got)
}

pub fn write(env: u32, port: i32, bytes: &[u8]) -> Result<usize, Errno> {
    let port = reactor()?.port(env, port)?;
    let stdio = lock(&port.stdio[0]);
    let end = stdio.end.as_ref().ok_or(Errno::PIPE)?;
    // SIGPIPE is ignored in all three runtimes.
    rustix::io::retry_on_intr(|| rustix::io::write(&end.fd, bytes))
}

pub fn arm(env: u32, port: i32, stream: i32) -> Result<(), Errno> {
    let reactor = reactor()?;
    let stream = usize::try_from(stream).ok().filter(|&s| s < 3).ok_or(Errno::INVAL)?;
    reactor.arm(&reactor.port(env, port)?, stream)
}

pub fn shut(env: u32, port: i32, stream: i32) -> Result<(), Errno> {
    let reactor = reactor()?;
    let stream = usize::try_from(stream).ok().filter(|&s| s < 3).ok_or(Errno::INVAL)?;
    reactor.shut(&reactor.port(env, port)?, stream);
    Ok(())
}

pub fn signal(env: u32, port: i32, signal: i32, scope: i32) -> Result<(), Errno> {
    let reactor = reactor()?;
    let port = reactor.port(env, port)?;
    let scope = u32::try_from(scope).ok().and_then(|n| Scope::from_number(n).ok()).ok_or(Errno::INVAL)?;
    if port.is_over() {
        return Err(Errno::SRCH);
    }
    reactor.tell(&port, ToKeeper::Signal { signal, scope });
    Ok(())
}

/// The oldest unread answer to a signal; 1 where there is none. Whoever waits when the keeper is gone is told so.
pub fn signalled(env: u32, port: i32) -> Result<i32, Errno> {
    let port = reactor()?.port(env, port)?;
    let mut state = lock(&port.state);
    Ok(state.answers.pop_front().unwrap_or(1))
}

pub fn close(env: u32, port: i32, cause: u32, grace_ms: u32, deadline_ms: u32) -> Result<(), Errno> {
    let reactor = reactor()?;
    let cause = Cause::from_number(cause).map_err(|_| Errno::INVAL)?;
    reactor.close(&reactor.port(env, port)?, cause, grace_ms, deadline_ms);
    Ok(())
}

pub fn release(env: u32, port: i32) -> Result<(), Errno> {
    let reactor = reactor()?;
    reactor.release(&reactor.port(env, port)?);
    Ok(())
}

pub fn report(env: u32, port: i32) -> Result<Vec<u8>, Errno> {
    let reactor = reactor()?;
    let port = reactor.port(env, port)?;
    Ok(port.report(reactor.guards(port.pair)))
}

/// Ready ports and their bits, at most `most`.
pub fn drain(env: u32, most: usize) -> Result<Vec<(i32, u32)>, Errno> {
    Ok(reactor()?.env(env)?.drain(most))
}
