// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! What both doors open to, in the ABI's words (docs/abi.md): numbers in,
//! `>= 0` or `-errno` out, a panic is [`PANIC`].

use crate::kernel::wire::{Size, Stage, ABI};
use crate::runtime::launch::{self, Refusal};
use crate::runtime::{calls, users};
use rustix::io::Errno;

/// What a caught panic answers.
const PANIC: i32 = -4095;

fn guarded(call: impl FnOnce() -> Result<usize, Errno>) -> i32 {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
    match result {
        Ok(Ok(n)) => i32::try_from(n).unwrap_or(i32::MAX),
        Ok(Err(errno)) => -errno.raw_os_error(),
        Err(_) => PANIC,
    }
}

/// Copies a record into the caller's buffer; ERANGE where it does not fit.
fn fill(out: &mut [u8], record: &[u8]) -> Result<usize, Errno> {
    out.get_mut(..record.len()).ok_or(Errno::RANGE)?.copy_from_slice(record);
    Ok(record.len())
}

/// A failed start leaves its stage in the first four bytes.
fn staged<T>(out: &mut [u8], result: Result<T, (Stage, Errno)>) -> Result<T, Errno> {
    result.map_err(|(stage, errno)| {
        let _ = fill(out, &(stage as u32).to_le_bytes()); // a shorter buffer gets the errno alone
        errno
    })
}

pub fn abi_version() -> u32 {
    ABI
}

/// Behind the place of the stage, what there is to say beside it; a buffer that it does not fit into gets none.
fn detailed(out: &mut [u8], refusal: Refusal) -> (Stage, Errno) {
    let _ = out.get_mut(4..).map(|out| fill(out, &refusal.detail));
    refusal.failed
}

pub fn resolve(env: u32, spec: &[u8], out: &mut [u8]) -> i32 {
    guarded(|| {
        let path = launch::resolve(env, spec).map_err(|refusal| detailed(out, refusal));
        let path = staged(out, path)?;
        fill(out, &path)
    })
}

pub fn user(env: u32, question: &[u8]) -> i32 {
    guarded(|| users::look_up(env, question).map(|ticket| ticket as usize))
}

pub fn answer(env: u32, ticket: i32, out: &mut [u8]) -> i32 {
    guarded(|| {
        let ticket = u32::try_from(ticket).map_err(|_| Errno::BADF)?;
        fill(out, &users::answer(env, ticket, out.len())?)
    })
}

pub fn spawn(env: u32, path: &[u8], out: &mut [u8]) -> i32 {
    guarded(|| {
        let started = launch::spawn(env, path).map_err(|refusal| detailed(out, refusal));
        staged(out, started).map(|handle| handle as usize)
    })
}

pub fn drain(env: u32, out: &mut [u8]) -> i32 {
    guarded(|| {
        let events = calls::drain(env, out.len() / 8)?;
        for (slot, (handle, bits)) in out.chunks_exact_mut(8).zip(&events) {
            slot[..4].copy_from_slice(&handle.to_le_bytes());
            slot[4..].copy_from_slice(&bits.to_le_bytes());
        }
        Ok(events.len())
    })
}

pub fn report(env: u32, port: i32, out: &mut [u8]) -> i32 {
    guarded(|| fill(out, &calls::report(env, port)?))
}

pub fn read(env: u32, port: i32, stream: i32, out: &mut [u8]) -> i32 {
    guarded(|| calls::read(env, port, stream, out))
}

pub fn write(env: u32, port: i32, stream: i32, bytes: &[u8]) -> i32 {
    guarded(|| calls::write(env, port, stream, bytes))
}

pub fn arm(env: u32, port: i32, stream: i32) -> i32 {
    guarded(|| calls::arm(env, port, stream).map(|()| 0))
}

pub fn shut(env: u32, port: i32, stream: i32) -> i32 {
    guarded(|| calls::shut(env, port, stream).map(|()| 0))
}

pub fn resize(env: u32, port: i32, columns: u32, rows: u32) -> i32 {
    guarded(|| {
        let short = |n: u32| u16::try_from(n).map_err(|_| Errno::INVAL);
        let size = Size { columns: short(columns)?, rows: short(rows)? };
        calls::resize(env, port, size).map(|()| 0)
    })
}

pub fn join(env: u32, port: i32, stream: i32, to: i32) -> i32 {
    guarded(|| calls::join(env, port, stream, to).map(|()| 0))
}

pub fn part(env: u32, port: i32, stream: i32) -> i32 {
    guarded(|| calls::part(env, port, stream).map(|()| 0))
}

pub fn signal(env: u32, port: i32, signal: i32, scope: i32) -> i32 {
    guarded(|| calls::signal(env, port, signal, scope).map(|()| 0))
}

/// 0, `-errno`, or 1: an answer, not an error of this call.
pub fn signalled(env: u32, port: i32) -> i32 {
    let mut answer = 1;
    let result = guarded(|| {
        answer = calls::signalled(env, port)?;
        Ok(0)
    });
    if result < 0 {
        result
    } else {
        answer
    }
}

pub fn freeze(env: u32, port: i32, on: u32) -> i32 {
    guarded(|| calls::freeze(env, port, on != 0).map(|()| 0))
}

pub fn leaves(env: u32, port: i32, out: &mut [u8]) -> i32 {
    guarded(|| fill(out, &calls::leaves(env, port)?))
}

pub fn watch(env: u32, port: i32) -> i32 {
    guarded(|| calls::watch(env, port).map(|()| 0))
}

pub fn hierarchies(out: &mut [u8]) -> i32 {
    guarded(|| fill(out, &calls::hierarchies()))
}

pub fn cgroup_read(path: &[u8], out: &mut [u8]) -> i32 {
    guarded(|| fill(out, &calls::cgroup_read(path)?))
}

pub fn cgroup_write(path: &[u8], value: &[u8], check: u32) -> i32 {
    guarded(|| calls::cgroup_write(path, value, check).map(|()| 0))
}

pub fn close(env: u32, port: i32, cause: u32, grace_ms: u32, deadline_ms: u32) -> i32 {
    guarded(|| calls::close(env, port, cause, grace_ms, deadline_ms).map(|()| 0))
}

pub fn release(env: u32, port: i32) -> i32 {
    guarded(|| calls::release(env, port).map(|()| 0))
}

pub fn offer(env: u32, port: i32, out: &mut [u8]) -> i32 {
    guarded(|| fill(out, &calls::offer(env, port)?))
}

pub fn adopt(env: u32, port: i32, ticket: &[u8]) -> i32 {
    guarded(|| calls::adopt(env, port, ticket).map(|()| 0))
}

pub fn reset(env: u32) -> i32 {
    guarded(|| calls::reset(env).map(|()| 0))
}
