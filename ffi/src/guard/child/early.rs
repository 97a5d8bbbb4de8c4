// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! A child that is cloned before there is anything for it to do.
//!
//! To clone is a tenth of what a start takes, and nothing in it depends on what
//! is started: so a keeper that knows that a launch record is being made clones
//! meanwhile. The child has no descriptor of the launch then. It waits on a
//! socket of its keeper's, gets them over that, into a table of its own, and
//! finds its plan in the memory that they share. Where nothing comes of it, it
//! is killed; where the keeper ends, the kernel kills it.

use super::{call, clone, die_with_keeper, idle_stack, serve, Memory, Plan};
use crate::kernel::socket;
use crate::kernel::sys::helper::{self, Stack, Whose};
use crate::kernel::wire::Stage;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::process::Signal;
use std::sync::atomic::{AtomicPtr, Ordering};

/// The most that is waited for the end of a child that was killed; it is in no call that could hold it.
const PATIENCE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Where the child waits, and what it finds there.
pub struct Place {
    plan: AtomicPtr<Plan>,
    socket: i32,
    keeper: i32,
}

pub struct Early {
    pid: i32,
    pidfd: OwnedFd,
    /// Its own end of the socket is in its own table.
    wire: OwnedFd,
    /// What it runs on; none once it is somebody else's.
    memory: Option<(Stack, Box<Place>)>,
}

impl Early {
    /// Clones it, into the cgroup `born` where there is one; gives the stack back where it cannot.
    pub fn new(stack: Stack, born: Option<&OwnedFd>) -> Result<Early, Stack> {
        let Ok((wire, theirs)) = socket::pair() else { return Err(stack) };
        let keeper = std::process::id() as i32;
        let place = Place { plan: AtomicPtr::default(), socket: theirs.as_raw_fd(), keeper };
        let place = Box::new(place);
        // SAFETY: both are kept in `memory`, and given up with the child's end or to `Memory`.
        match unsafe { clone(wait, std::ptr::from_ref(&*place).cast(), &stack, born.map(AsFd::as_fd)) } {
            Ok((pid, pidfd)) => Ok(Early { pid, pidfd, wire, memory: Some((stack, place)) }),
            Err(_) => Err(stack),
        }
    }

    /// Gives it what it has waited for: its 0, 1 and 2 and its working directory. The plan comes back where that is not
    /// to be done, as when somebody has killed it.
    pub fn start(mut self, plan: Box<Plan>, fds: [&OwnedFd; 4]) -> Result<(i32, OwnedFd, Memory), Box<Plan>> {
        let (Ok(pidfd), Some((_, place))) = (self.pidfd.try_clone(), &self.memory) else { return Err(plan) };
        place.plan.store(std::ptr::from_ref(&*plan).cast_mut(), Ordering::Release);
        if socket::send(&self.wire, &[1], &fds.map(AsFd::as_fd)).is_err() {
            drop(self); // before the plan goes elsewhere
            return Err(plan);
        }
        let (stack, place) =
            self.memory.take().map_or((None, None), |(stack, place)| (Some(stack), Some(place)));
        Ok((self.pid, pidfd, Memory { stack, plan, _place: place }))
    }
}

impl Drop for Early {
    fn drop(&mut self) {
        let Some((stack, place)) = self.memory.take() else { return };
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL); // ESRCH: somebody else was quicker
        let mut ended = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let _ = rustix::io::retry_on_intr(|| rustix::event::poll(&mut ended, Some(&PATIENCE)));
        if matches!(helper::wait(Whose::Pid(self.pid), false), Ok(Some(_))) {
            *idle_stack() = Some(stack);
        } else {
            std::mem::forget((stack, place)); // its tracer keeps it, and it may still run on them
        }
    }
}

extern "C" fn wait(place: *const ()) -> ! {
    // SAFETY: `Early` keeps its place until this process has exec'ed or ended.
    let place = unsafe { &*place.cast::<Place>() };
    call(libc::SYS_prctl, [libc::PR_SET_NAME as usize, c"proton-keeper".as_ptr() as usize, 0, 0, 0]);
    if die_with_keeper(place.keeper).is_ok() {
        if let Some(fds) = receive(place.socket) {
            // SAFETY: it was put there before the descriptors were sent, and is kept as the place is.
            let plan = unsafe { &*place.plan.load(Ordering::Acquire) };
            serve(plan, fds)
        }
    }
    loop {
        call(libc::SYS_exit_group, [127, 0, 0, 0, 0]);
    }
}

/// Four descriptors; none where nothing came over the socket: then there is no plan either.
fn receive(socket: i32) -> Option<Result<[i32; 4], (Stage, isize)>> {
    const WHOLE: usize = 4 * size_of::<u64>(); // the header of 16 bytes and four numbers
    let mut byte = 0_u8;
    let mut control = [0_u64; 4];
    let mut data = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // SAFETY: plain data; null and 0 are what absent parts are.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = WHOLE as _;
    let arguments = [socket as usize, &raw mut message as usize, libc::MSG_CMSG_CLOEXEC as usize, 0, 0];
    let got = loop {
        match call(libc::SYS_recvmsg, arguments) {
            result if result == -(libc::EINTR as isize) => {}
            result => break result,
        }
    };
    if got != 1 {
        return None;
    }
    if control[0] != WHOLE as u64 {
        return Some(Err((Stage::Fds, -(libc::EMFILE as isize)))); // there was no room for all in its table
    }
    let [a, b, c, d] =
        [control[2] as i32, (control[2] >> 32) as i32, control[3] as i32, (control[3] >> 32) as i32];
    Some(Ok([a, b, c, d]))
}
