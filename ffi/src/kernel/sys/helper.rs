// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Raw calls of the helper processes, which have one thread each.

use crate::kernel::sabotage::{sabotaged, Step};
use crate::kernel::sys::raw::{self, CloneArgs};
use crate::kernel::wire::Wait;
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use std::cell::Cell;
use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, Ordering};

/// Signals that no helper obeys: the runtime alone decides when trees end.
pub const IGNORED: [c_int; 10] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGPIPE,
];

fn last_errno() -> Errno {
    Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// What a libc call that says -1 on error returned.
fn checked(result: c_int) -> Result<c_int, Errno> {
    if result < 0 {
        Err(last_errno())
    } else {
        Ok(result)
    }
}

/// The first act of the watchdog: SIGCHLD to default (an ignored SIGCHLD
/// survives exec and loses exit codes), everything else too, then ignore what
/// helpers ignore, and block SIGCHLD for [`child_events`].
pub fn settle_signals() {
    for signal in 1..=64 {
        // SAFETY: plain dispositions, no handler is installed. The kernel refuses KILL, STOP and libc its own two.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    for signal in IGNORED.into_iter().filter(|_| !sabotaged(Step::IgnoredSignals)) {
        // SAFETY: as above.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let set = only_sigchld();
    // SAFETY: `set` is initialised and outlives the call; the old mask is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
}

fn only_sigchld() -> libc::sigset_t {
    // SAFETY: a signal set is plain bits; all zero is a valid value.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is valid and ours.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: as above, SIGCHLD is a valid number.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGCHLD) };
    set
}

/// A descriptor that is readable while a SIGCHLD is pending.
pub fn child_events() -> Result<OwnedFd, Errno> {
    let set = only_sigchld();
    // SAFETY: `set` is initialised and outlives the call.
    let fd = checked(unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })?;
    Ok(adopt(fd))
}

/// Takes what [`child_events`] has told; the children themselves are asked for their ends.
pub fn drain_events(events: &OwnedFd) {
    let mut record = [0; 512];
    while matches!(rustix::io::read(events, &mut record), Ok(n) if n > 0) {}
}

/// Takes a descriptor number that this process was started with, or that a call just returned.
pub fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: callers pass a number that is open and that nothing else in this process owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Orphans below this process become its children from now on.
pub fn become_subreaper(step: Step) -> Result<(), Errno> {
    rustix::process::set_child_subreaper((!sabotaged(step)).then(rustix::process::getpid))
}

/// Who came back from [`fork`].
pub enum Forked {
    Child,
    Parent(i32),
}

/// Copies this process. Only helpers call it, and helpers have one thread, so
/// the copy may do whatever the original may.
pub fn fork() -> Result<Forked, Errno> {
    // SAFETY: the caller is single-threaded (see above): no lock can be held by another thread.
    match checked(unsafe { libc::fork() })? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid)),
    }
}

/// A copy of this process that only waits, and ends with its parent: to see
/// whether a process gets into `cgroup`, and how it is ended there.
pub fn sleeper(cgroup: BorrowedFd<'_>) -> Result<(i32, OwnedFd), Errno> {
    let mut pidfd: c_int = -1;
    let arguments = CloneArgs {
        flags: libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    let arguments = arguments.into_cgroup(cgroup);
    // SAFETY: the child has a copy of this memory to itself; `sleep` makes raw system calls only.
    let pid = unsafe { raw::clone3(&arguments, sleep, std::ptr::null()) }?;
    Ok((pid, adopt(pidfd)))
}

extern "C" fn sleep(_: *const ()) -> ! {
    let (option, signal) = (libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize);
    // SAFETY: integers only.
    unsafe { raw::syscall(libc::SYS_prctl, [option, signal, 0, 0, 0]) };
    // A parent that ended before that has left us to somebody else: a minute is the most.
    let minute = libc::timespec { tv_sec: 60, tv_nsec: 0 };
    // SAFETY: `minute` outlives the call; the rest of the time is not asked for.
    unsafe { raw::syscall(libc::SYS_nanosleep, [&raw const minute as usize, 0, 0, 0, 0]) };
    exit(0)
}

/// Ends this process at once: no destructor, no exit handler of a copied host.
pub fn exit(code: i32) -> ! {
    // SAFETY: always allowed; never returns.
    unsafe { libc::_exit(code) }
}

/// What every helper keeps beside its own, by number; -1 is nothing.
static ALWAYS: AtomicI32 = AtomicI32::new(-1);

/// Keeps `fd` open in this process and all that it forks, for as long as they live.
pub fn keep_always(fd: OwnedFd) {
    ALWAYS.store(fd.into_raw_fd(), Ordering::Relaxed);
}

/// Keeps what is kept always, at 3 where there is such, and behind it just `wanted`; everything else above 2 is closed.
/// (Always at one number: a keeper need not write it down again, which would be a page of its own.)
pub fn keep_only<const N: usize>(wanted: [OwnedFd; N]) -> Result<[OwnedFd; N], Errno> {
    const FIRST: RawFd = 3;
    let always = ALWAYS.load(Ordering::Relaxed);
    let own = FIRST + RawFd::from(always >= 0);
    let behind = own + N as RawFd;
    // First out of the way of the targets, so that no dup3 lands on a source.
    let high = wanted.map(|fd| {
        let copy = rustix::io::fcntl_dupfd_cloexec(&fd, behind);
        std::mem::forget(fd); // closed with the rest below
        copy
    });
    if always >= 0 && always != FIRST {
        // SAFETY: open, and only this module knows its number.
        let kept = unsafe { BorrowedFd::borrow_raw(always) };
        ALWAYS.store(move_to(rustix::io::fcntl_dupfd_cloexec(kept, behind)?, FIRST)?, Ordering::Relaxed);
    }
    let mut numbers = [0; N];
    for (at, fd) in (own..).zip(high) {
        numbers[(at - own) as usize] = move_to(fd?, at)?;
    }
    close_from(behind as u32)?;
    Ok(numbers.map(adopt))
}

/// Gives `fd` this number. Whatever was open there belongs to the copied parent and is not used.
fn move_to(fd: OwnedFd, target: RawFd) -> Result<RawFd, Errno> {
    let flags = if sabotaged(Step::Descriptors) { 0 } else { libc::O_CLOEXEC };
    // SAFETY: both numbers are valid; see above for what is overwritten.
    checked(unsafe { libc::dup3(fd.as_raw_fd(), target, flags) })?;
    std::mem::forget(fd); // closed with the rest
    Ok(target)
}

/// Closes every descriptor from `first` on. Owners of those numbers must not be dropped afterwards.
pub fn close_from(first: u32) -> Result<(), Errno> {
    // SAFETY: three integers; see the note on owners above.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    if result == 0 {
        return Ok(());
    }
    // Kernels before 5.9, and seccomp filters that refuse it.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1 << 16);
    for fd in first..limit.min(1 << 20) as u32 {
        // SAFETY: as above; a number that is not open is EBADF and ignored.
        unsafe { libc::close(fd as c_int) };
    }
    Ok(())
}

/// What [`wait`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub pid: i32,
    pub wait: Wait,
}

/// Whose end is asked for.
#[derive(Debug, Clone, Copy)]
pub enum Whose {
    Any,
    Pid(i32),
}

/// waitid(2) without waiting: the next ended child, left as a zombie where
/// `leave` is set. `Ok(None)`: none has ended; ECHILD: there is none at all.
/// What a child that is not left has used, with all that it has reaped itself,
/// goes to [`take_usage`].
pub fn wait(whose: Whose, leave: bool) -> Result<Option<Ended>, Errno> {
    // SAFETY: siginfo_t is plain data; all zero is a valid value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: rusage is plain data; all zero is a valid value.
    let mut used: libc::rusage = unsafe { std::mem::zeroed() };
    let (kind, id) = match whose {
        Whose::Any => (libc::P_ALL, 0),
        Whose::Pid(pid) => (libc::P_PID, pid as libc::id_t),
    };
    // WALL, as a child may have been cloned without an exit signal.
    let keep = if leave { libc::WNOWAIT } else { 0 };
    let options = libc::WEXITED | libc::WNOHANG | libc::__WALL | keep;
    let call = libc::SYS_waitid;
    // SAFETY: `info` and `used` are ours and outlive the call; libc's waitid does not pass the fifth argument on.
    checked(unsafe { libc::syscall(call, kind, id, &raw mut info, options, &raw mut used) } as c_int)?;
    // SAFETY: waitid fills these fields, and leaves the pid 0 where nothing has ended.
    let pid = unsafe { info.si_pid() };
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    let wait = if info.si_code == libc::CLD_EXITED { Wait::Code(status) } else { Wait::Signal(status) };
    if pid != 0 && !leave {
        USED.with(|sum| sum.set(sum.get().and(&used)));
    }
    Ok((pid != 0).then_some(Ended { pid, wait }))
}

/// Lets those children go on that somebody has stopped, where they are `ours`. (A tracer's stops are the tracer's.)
pub fn continue_stopped(ours: impl Fn(i32) -> bool) {
    if sabotaged(Step::Continue) {
        return;
    }
    let options = libc::WSTOPPED | libc::WNOHANG | libc::__WALL;
    loop {
        // SAFETY: siginfo_t is plain data; all zero is a valid value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` is ours and outlives the call.
        let result = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, options) };
        // SAFETY: waitid fills this field, and leaves it 0 where nobody has stopped.
        let pid = unsafe { info.si_pid() };
        if result != 0 || pid == 0 {
            return;
        }
        if let Some(pid) = Pid::from_raw(pid).filter(|_| ours(pid)) {
            let _ = rustix::process::kill_process(pid, Signal::CONT); // our unreaped child
        }
    }
}

/// What reaped descendants of this process have used, all together.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub user_us: u64,
    pub system_us: u64,
    /// Of the largest.
    pub max_rss_bytes: u64,
}

impl Usage {
    const NONE: Usage = Usage { user_us: 0, system_us: 0, max_rss_bytes: 0 };

    fn and(self, more: &libc::rusage) -> Usage {
        let micros = |t: libc::timeval| t.tv_sec as u64 * 1_000_000 + t.tv_usec as u64;
        Usage {
            user_us: self.user_us + micros(more.ru_utime),
            system_us: self.system_us + micros(more.ru_stime),
            max_rss_bytes: self.max_rss_bytes.max(more.ru_maxrss as u64 * 1024),
        }
    }
}

thread_local! {
    static USED: Cell<Usage> = const { Cell::new(Usage::NONE) };
}

/// What all that was reaped since the last call has used. (RUSAGE_CHILDREN
/// would count what earlier children of the same keeper have used.)
pub fn take_usage() -> Usage {
    USED.with(|sum| sum.replace(Usage::NONE))
}

/// Memory that this process and all that it forks see together, zeroed, never unmapped.
pub fn shared_zeroed<T: Sync>(count: usize) -> Result<&'static [T], Errno> {
    let bytes = count * size_of::<T>();
    let protection = rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE;
    let flags = rustix::mm::MapFlags::SHARED | rustix::mm::MapFlags::NORESERVE;
    // SAFETY: a fresh anonymous mapping at a place of the kernel's choice.
    let start = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, protection, flags) }?;
    // SAFETY: mapped just now with `bytes` bytes, page-aligned, zero, and never unmapped; `T` is made of atomics
    // (both callers), for which zero is valid and sharing sound.
    Ok(unsafe { std::slice::from_raw_parts(start.cast::<T>(), count) })
}

/// Gives the pages of heap and stack that nothing uses back to the kernel.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: touches free blocks only; a helper has one thread.
    unsafe {
        libc::malloc_trim(0)
    };
    give_stack_back();
}

/// A start takes more of the stack than what goes on as long as the child lives.
#[inline(never)]
fn give_stack_back() {
    const PAGE: usize = 4096; // where pages are larger this is refused
    const DEEPEST: usize = 64 * 1024; // what no start takes
    const FRAMES: usize = 1024; // what is below of this frame, and that of one system call
    let mark = 0_u8;
    let end = ((&raw const mark) as usize - FRAMES) / PAGE * PAGE;
    let at = (end - DEEPEST) as *mut std::ffi::c_void;
    // SAFETY: there are frames of calls that have returned, and nothing else: the kernel keeps other mappings away from
    // a stack. It passes over pages that the stack does not have.
    let _ = unsafe { rustix::mm::madvise(at, DEEPEST, rustix::mm::Advice::LinuxDontNeed) };
    // ENOMEM: as said; refused otherwise, they stay as they are.
}

/// Gives the whole pages of a buffer back to the kernel, where nobody needs what stands in it: it reads as zero then.
pub fn forget(buffer: &mut [u8]) {
    const PAGE: usize = 4096; // where pages are larger this is refused
    let start = buffer.as_ptr() as usize;
    let (first, end) = (start.next_multiple_of(PAGE), (start + buffer.len()) / PAGE * PAGE);
    if let Some(pages) = buffer.get_mut(first - start..end.max(first) - start) {
        let at = pages.as_mut_ptr().cast();
        // SAFETY: pages of ours alone, borrowed for writing; any bytes are valid in them, zero as well.
        let _ = unsafe { rustix::mm::madvise(at, pages.len(), rustix::mm::Advice::LinuxDontNeed) };
        // Refused, they stay as they are.
    }
}

/// A stack with an unmapped page below it, gone when dropped.
pub struct Stack {
    start: *mut std::ffi::c_void,
    bytes: usize,
}

// SAFETY: the mapping belongs to whoever holds this, and to no thread in particular.
unsafe impl Send for Stack {}

const GUARD: usize = 64 * 1024;

impl Stack {
    pub fn new(bytes: usize) -> Result<Self, Errno> {
        let whole = bytes + GUARD;
        let (read, write) = (rustix::mm::ProtFlags::READ, rustix::mm::ProtFlags::WRITE);
        let flags = rustix::mm::MapFlags::PRIVATE | rustix::mm::MapFlags::NORESERVE;
        // SAFETY: a fresh anonymous mapping at a place of the kernel's choice.
        let start = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), whole, read | write, flags) }?;
        let stack = Stack { start, bytes: whole };
        // SAFETY: the lowest part of the mapping made just now, which nothing uses yet.
        unsafe { rustix::mm::mprotect(start, GUARD, rustix::mm::MprotectFlags::empty()) }?;
        Ok(stack)
    }

    /// The lowest usable address and the length above it.
    pub fn usable(&self) -> (u64, u64) {
        (self.start as u64 + GUARD as u64, (self.bytes - GUARD) as u64)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; whoever ran on it has exec'ed or ended (its owner's duty).
        let _ = unsafe { rustix::mm::munmap(self.start, self.bytes) };
    }
}

/// The process's own command line as `ps` shows it, rewritten in place.
pub struct Title {
    text: *mut u8,
    len: usize,
}

impl Title {
    /// # Safety
    ///
    /// `text` points at `len` bytes of this process's argument area, which
    /// nothing reads or writes any more.
    pub unsafe fn new(text: *mut u8, len: usize) -> Self {
        Title { text, len }
    }

    /// Shows `title`, cut to what fits; the rest of the area is cleared.
    pub fn show(&self, title: &str) {
        for i in 0..self.len {
            let byte = title.as_bytes().get(i).copied().unwrap_or(0);
            // SAFETY: within the area that `new` was promised; volatile, as only the kernel reads it.
            unsafe { write_byte(self.text, i, byte) };
        }
    }
}

/// # Safety
///
/// `start + i` is a writable byte of this process.
unsafe fn write_byte(start: *mut u8, i: usize, byte: u8) {
    // SAFETY: within one area, by the caller's promise.
    let at = unsafe { start.add(i) };
    // SAFETY: as above.
    unsafe { at.write_volatile(byte) };
}

/// Who is woken does not interrupt who runs (SCHED_BATCH, sched(7)). Where the runtime has another policy than the
/// usual one this process keeps that; where a filter forbids it, too.
pub fn interrupt_nobody() {
    // SAFETY: it only answers.
    if unsafe { libc::sched_getscheduler(0) } == libc::SCHED_OTHER {
        let parameter = libc::sched_param { sched_priority: 0 };
        // SAFETY: `parameter` is read during the call.
        unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameter) };
    }
}
