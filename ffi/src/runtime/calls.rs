// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! The calls of a port that runs, all on the calling thread; none of them waits.

use crate::kernel::cgroup::file;
use crate::kernel::cgroup::hierarchy::{self, Hierarchy};
use crate::kernel::wire::plan::Check;
use crate::kernel::wire::{Cause, Scope, Size, ToKeeper, Writer};
use crate::runtime::pipe;
use crate::runtime::port::{is_output, lock, Key, Port, Stdio};
use crate::runtime::reactor::{random, reactor};
use rustix::io::Errno;
use std::sync::atomic::Ordering;
use std::sync::Mutex;

/// The next spawn starts new helpers.
pub fn reset(env: u32) -> Result<(), Errno> {
    let reactor = reactor()?;
    reactor.env(env)?;
    let pairs: Vec<_> = lock(&reactor.shared).pairs.values().cloned().collect();
    pairs.iter().for_each(|pair| reactor.retire(pair));
    Ok(())
}

/// One of a port's streams by its number, of the direction that is meant.
fn stream(port: &Port, number: i32, output: bool) -> Result<(usize, &Mutex<Stdio>), Errno> {
    let number = usize::try_from(number).map_err(|_| Errno::INVAL)?;
    let stdio = port.stream(number).filter(|_| is_output(number) == output);
    Ok((number, stdio.ok_or(Errno::INVAL)?))
}

pub fn read(env: u32, port: i32, stream: i32, into: &mut [u8]) -> Result<usize, Errno> {
    let reactor = reactor()?;
    let port = reactor.port(env, port)?;
    let (_, stdio) = self::stream(&port, stream, true)?;
    if port.discard.load(Ordering::Acquire) {
        return Ok(0);
    }
    let mut stdio = lock(stdio);
    let Some(end) = stdio.end.as_mut() else { return Ok(0) };
    let got = end.read(into)?;
    if got == 0 {
        (stdio.end, stdio.over) = (None, true);
        drop(stdio);
        reactor.tell_eof(&port);
    }
    Ok(got)
}

pub fn write(env: u32, port: i32, stream: i32, bytes: &[u8]) -> Result<usize, Errno> {
    let port = reactor()?.port(env, port)?;
    let mut stdio = lock(self::stream(&port, stream, false)?.1);
    stdio.end.as_mut().ok_or(Errno::PIPE)?.write(bytes)
}

pub fn arm(env: u32, port: i32, stream: i32) -> Result<(), Errno> {
    let reactor = reactor()?;
    let port = reactor.port(env, port)?;
    let stream = usize::try_from(stream).ok().filter(|s| port.streams().contains(s)).ok_or(Errno::INVAL)?;
    reactor.arm(&port, stream)
}

pub fn shut(env: u32, port: i32, stream: i32) -> Result<(), Errno> {
    let reactor = reactor()?;
    let port = reactor.port(env, port)?;
    let stream = usize::try_from(stream).ok().filter(|s| port.streams().contains(s)).ok_or(Errno::INVAL)?;
    reactor.shut(&port, stream);
    Ok(())
}

/// The size of the child's terminal; ENOTTY where it has none.
pub fn resize(env: u32, port: i32, size: Size) -> Result<(), Errno> {
    let port = reactor()?.port(env, port)?;
    let stdio = lock(&port.stdio[1]);
    pipe::resize(&stdio.end.as_ref().ok_or(Errno::NOTTY)?.fd, size)
}

/// Has what comes out of `stream` poured into the stdin of `to`, both of this isolate.
pub fn join(env: u32, port: i32, stream: i32, to: i32) -> Result<(), Errno> {
    let reactor = reactor()?;
    let (port, to) = (reactor.port(env, port)?, reactor.port(env, to)?);
    reactor.join(&port, joinable(stream)?, &to)
}

pub fn part(env: u32, port: i32, stream: i32) -> Result<(), Errno> {
    let reactor = reactor()?;
    reactor.part(&reactor.port(env, port)?, joinable(stream)?);
    Ok(())
}

fn joinable(stream: i32) -> Result<usize, Errno> {
    usize::try_from(stream).ok().filter(|stream| matches!(stream, 1 | 2)).ok_or(Errno::INVAL)
}

pub fn signal(env: u32, port: i32, signal: i32, scope: i32) -> Result<(), Errno> {
    let reactor = reactor()?;
    let port = reactor.port(env, port)?;
    let scope = u32::try_from(scope).ok().and_then(|n| Scope::from_number(n).ok()).ok_or(Errno::INVAL)?;
    if port.is_over() {
        return Err(Errno::SRCH);
    }
    reactor.request(&port, ToKeeper::Signal { signal, scope })
}

/// The oldest unread answer to a signal; 1 where there is none. Whoever waits when the keeper is gone is told so.
pub fn signalled(env: u32, port: i32) -> Result<i32, Errno> {
    let port = reactor()?.port(env, port)?;
    let mut state = lock(&port.state);
    Ok(state.answers.pop_front().unwrap_or(1))
}

/// Stops the whole tree, or lets it go on; answered as a signal is.
pub fn freeze(env: u32, port: i32, on: bool) -> Result<(), Errno> {
    let reactor = reactor()?;
    let port = reactor.port(env, port)?;
    if port.is_over() {
        return Err(Errno::SRCH);
    }
    reactor.request(&port, ToKeeper::Freeze { on })
}

/// The cgroups of a tree: version, whether it can be frozen, and path, one after another.
pub fn leaves(env: u32, port: i32) -> Result<Vec<u8>, Errno> {
    let reactor = reactor()?;
    let port = reactor.port(env, port)?;
    let mut w = Writer::default();
    w.u32(port.pressed.load(Ordering::Acquire));
    let leaves = if port.is_over() { Vec::new() } else { reactor.leaves(&port) };
    w.u32(leaves.len() as u32);
    leaves.iter().for_each(|leaf| leaf.placed().put(&mut w));
    Ok(w.done())
}

/// From now on the port is told of by [`crate::runtime::port::ALARM`] when something happens to its limits.
pub fn watch(env: u32, port: i32) -> Result<(), Errno> {
    let reactor = reactor()?;
    let port = reactor.port(env, port)?;
    reactor.watch_limits(&port)
}

/// The mounted hierarchies: version, controllers, mount point, own directory (empty: not shown), one after another.
pub fn hierarchies() -> Vec<u8> {
    let all = hierarchy::hierarchies();
    let mut w = Writer::default();
    w.u32(all.len() as u32);
    for Hierarchy { version, controllers, mount, own } in &all {
        w.u32(*version as u32).u32(controllers.len() as u32);
        controllers.iter().for_each(|name| {
            w.blob(name.as_bytes());
        });
        w.blob(mount.as_bytes()).blob(own.as_deref().unwrap_or_default().as_bytes());
    }
    w.done()
}

fn path(bytes: &[u8]) -> Result<&str, Errno> {
    std::str::from_utf8(bytes).ok().filter(|path| path.starts_with('/')).ok_or(Errno::INVAL)
}

/// What a file of a cgroup says.
pub fn cgroup_read(at: &[u8]) -> Result<Vec<u8>, Errno> {
    file::read(path(at)?)
}

/// Writes one value to a file of a cgroup and reads it back.
pub fn cgroup_write(at: &[u8], value: &[u8], check: u32) -> Result<(), Errno> {
    let check = Check::from_number(check).map_err(|_| Errno::INVAL)?;
    let value = std::str::from_utf8(value).map_err(|_| Errno::INVAL)?;
    file::set(path(at)?, value, check)
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

/// Which library this is and a new key: with both, another isolate gets the port.
pub fn offer(env: u32, port: i32) -> Result<Vec<u8>, Errno> {
    let reactor = reactor()?;
    let port = reactor.port(env, port)?;
    let key: Key = random()?;
    port.offer(key);
    Ok([&reactor.library[..], &key].concat())
}

/// The port that was offered so is this isolate's from now on. Another copy of the library's is EXDEV.
pub fn adopt(env: u32, port: i32, ticket: &[u8]) -> Result<(), Errno> {
    let reactor = reactor()?;
    reactor.env(env)?;
    let key = ticket.strip_prefix(&reactor.library[..]).ok_or(Errno::XDEV)?;
    reactor.adopt(env, port, key.try_into().map_err(|_| Errno::BADF)?)
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
