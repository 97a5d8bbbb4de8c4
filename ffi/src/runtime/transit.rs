// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Emptying a pipe without holding up its writer.
//!
//! read(2) holds the pipe's lock while it copies, and the writer on the other
//! processor spins on that. splice(2) holds it for as long as it takes to move
//! the pages into a pipe of our own, and they are copied from there
//! (docs/decisions/0010).

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// A pipe that is empty whenever nobody holds its lock.
struct Transit {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// One for all ports, made when it is first needed and closed with the last pipe that has grown.
static TRANSIT: Mutex<Option<Transit>> = Mutex::new(None);

/// The host does not let us splice (a seccomp filter, as a rule): not tried again.
static REFUSED: AtomicBool = AtomicBool::new(false);

impl Transit {
    fn open(bytes: usize) -> Result<Self, Errno> {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let _ = rustix::pipe::fcntl_setpipe_size(&writer, bytes); // refused: less is moved at a time
        Ok(Transit { reader, writer })
    }

    /// All that is moved in comes out again.
    fn take_out(&self, into: &mut [u8]) -> Result<(), Errno> {
        let mut done = 0;
        while done < into.len() {
            match rustix::io::retry_on_intr(|| rustix::io::read(&self.reader, &mut into[done..]))? {
                0 => return Err(Errno::IO),
                got => done += got,
            }
        }
        Ok(())
    }
}

fn idle() -> Option<MutexGuard<'static, Option<Transit>>> {
    match TRANSIT.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// As read(2) of a non-blocking pipe. `None` where it cannot be had this way:
/// another isolate is at it, or the host refuses. Nothing was read then.
pub fn read(from: &OwnedFd, into: &mut [u8], bytes: usize) -> Option<Result<usize, Errno>> {
    if REFUSED.load(Ordering::Acquire) {
        return None;
    }
    let mut held = idle()?;
    if held.is_none() {
        *held = Transit::open(bytes).ok();
    }
    let transit = held.as_ref()?;
    let flags = SpliceFlags::NONBLOCK;
    match rustix::pipe::splice(from, None, &transit.writer, None, into.len(), flags) {
        Ok(0) => Some(Ok(0)),
        Ok(moved) => {
            let taken = transit.take_out(&mut into[..moved]).map(|()| moved);
            if taken.is_err() {
                *held = None; // what is left in it belongs to this reader, who is told
            }
            Some(taken)
        }
        Err(errno @ (Errno::AGAIN | Errno::INTR)) => Some(Err(errno)),
        Err(_) => {
            REFUSED.store(true, Ordering::Release);
            *held = None;
            None
        }
    }
}

/// No pipe has grown any more.
pub fn close() {
    *TRANSIT.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_in_order_and_the_end_and_an_empty_pipe_are_told_as_by_read() {
        let (ours, childs) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK).expect("a pipe");
        let mut into = vec![0; 64 * 1024];
        // Where another test is at it: until it is not.
        let mut take = |most: usize| loop {
            if let Some(got) = read(&ours, &mut into[..most], 64 * 1024) {
                return got.map(|n| into[..n].to_vec());
            }
        };
        assert_eq!(take(9), Err(Errno::AGAIN));
        let written: Vec<u8> = (0..60_000_u32).map(|n| (n % 251) as u8).collect();
        rustix::io::write(&childs, &written).expect("room");
        let mut taken = Vec::new();
        for most in [1, 4095, 4097, 60_000] {
            taken.extend(take(most).expect("bytes"));
        }
        assert_eq!(taken, written);
        drop(childs);
        assert_eq!(take(9), Ok(vec![]));
        close();
    }
}
