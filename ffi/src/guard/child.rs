// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! From clone to exec.
//!
//! The child shares its keeper's memory while the keeper runs on. Between the
//! two calls it therefore
//! - makes raw system calls only ([`raw`]): libc's would write the keeper's errno,
//! - allocates nothing, locks nothing and never panics: everything it needs stands in [`Plan`] before the clone,
//! - writes to no memory of the keeper's but what is there for it: one flag, [`Plan::at_exec`], and a list,
//! - never returns: it execs, or reports what failed and exits,
//! - does not write its own oom_score_adj: it would change its keeper's (the keeper sets it around the clone).
//!
//! It inherits from the runtime, not from the keeper: the launch record says
//! what the runtime's limits, priorities and masks were at the call.
#![allow(unsafe_code)]

mod early;
mod privileges;

use self::early::Early;
use self::privileges::Privileges;
use crate::kernel::cgroup::{Leaf, Way};
use crate::kernel::sabotage::{child_fault, fault, sabotaged, Step};
use crate::kernel::sys::helper::{adopt, Stack, IGNORED};
use crate::kernel::sys::raw::{self, CloneArgs};
use crate::kernel::wire::{Lack, Launch, Source, Stage};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::ffi::{c_char, CString};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A child between clone and exec, or beyond.
pub struct Started {
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// Eight bytes, stage and errno, when it failed; the end of the stream when it runs.
    pub outcome: OwnedFd,
    /// What it runs on until then; drop this only after `outcome` has spoken.
    pub memory: Memory,
    /// Why it is not in the cgroup that it was to be in.
    pub lack: (Lack, i32),
}

/// The stack and the plan of a child that has not exec'ed yet.
pub struct Memory {
    stack: Option<Stack>,
    plan: Box<Plan>,
    /// Where it has waited for the plan.
    _place: Option<Box<early::Place>>,
}

/// The last child's, for the next: to map and unmap one takes 20 µs of a start.
static STACK: Mutex<Option<Stack>> = Mutex::new(None);

fn idle_stack() -> MutexGuard<'static, Option<Stack>> {
    STACK.lock().unwrap_or_else(PoisonError::into_inner)
}

fn any_stack() -> Result<Stack, Errno> {
    fault("stack")?;
    idle_stack().take().map_or_else(|| Stack::new(STACK_BYTES), Ok)
}

impl Drop for Memory {
    fn drop(&mut self) {
        *idle_stack() = self.stack.take();
    }
}

/// Gives back what is kept for the next child.
pub fn give_memory_back() {
    *idle_stack() = None;
}

impl Memory {
    /// Whether the child has come as far as its exec.
    pub fn was_at_exec(&self) -> bool {
        self.plan.at_exec.load(Ordering::Acquire)
    }
}

const STACK_BYTES: usize = 32 * 1024;

/// Everything the child needs, in the form in which the kernel takes it.
struct Plan {
    path: CString,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    /// What `argv` and `envp` point into.
    _texts: Vec<CString>,
    /// Its 0, 1 and 2 and its working directory, where it was cloned with them.
    files: [i32; 4],
    report: i32,
    /// Set by the child when nothing is left to do but the exec: where its end of `report`
    /// closes before, it has been killed and has not become its program.
    at_exec: AtomicBool,
    /// Where to write "0" before anything else: none where it is born in its cgroup, or has none.
    joins: Vec<i32>,
    keeper: i32,
    join_group: i32,
    umask: u32,
    /// By number.
    rlimits: Vec<(usize, [u64; 2])>,
    nice: Option<i32>,
    affinity: Option<Vec<u8>>,
    scheduler: Option<(i32, i32)>,
    ioprio: Option<i32>,
    privileges: Option<Privileges>,
    /// Its descriptors above 2, and where each comes from: none of the one is among the other.
    moves: Vec<(i32, i32)>,
    /// Its 0 is to be its controlling terminal.
    terminal: bool,
}

/// What the child would get from its keeper anyway; only differences are set,
/// as setting a value back may need a privilege that keeping it does not.
pub struct Own<'a> {
    pub limits: &'a [(u64, u64)],
    pub nice: i32,
    pub affinity: Vec<u8>,
    pub scheduler: (i32, i32),
    pub ioprio: i32,
}

fn c_string(bytes: &[u8]) -> Result<CString, (Stage, Errno)> {
    CString::new(bytes).map_err(|_| (Stage::Spec, Errno::INVAL))
}

fn c_strings(list: &[Vec<u8>], texts: &mut Vec<CString>) -> Result<Vec<*const c_char>, (Stage, Errno)> {
    let mut pointers = Vec::with_capacity(list.len() + 1);
    for item in list {
        let text = c_string(item)?;
        pointers.push(text.as_ptr()); // the bytes stay where they are when the CString moves
        texts.push(text);
    }
    pointers.push(std::ptr::null());
    Ok(pointers)
}

fn different_limits(wanted: &[(u64, u64)], own: &[(u64, u64)]) -> Vec<(usize, [u64; 2])> {
    let all = wanted.iter().enumerate();
    all.filter(|(at, limit)| own.get(*at) != Some(limit))
        .map(|(at, &(soft, hard))| (at, [soft, hard]))
        .collect()
}

fn differs<T: PartialEq>(wanted: T, own: &T) -> Option<T> {
    (wanted != *own).then_some(wanted)
}

impl Plan {
    fn new(
        launch: Launch,
        own: &Own<'_>,
        files: [i32; 4],
        moves: Vec<(i32, i32)>,
        report: i32,
    ) -> Result<Plan, (Stage, Errno)> {
        let mut texts = Vec::with_capacity(launch.argv.len() + launch.env.len());
        let argv = c_strings(&launch.argv, &mut texts)?;
        let envp = c_strings(&launch.env, &mut texts)?;
        let scheduler = (launch.scheduler.policy, launch.scheduler.priority);
        Ok(Plan {
            path: c_string(&launch.path)?,
            argv,
            envp,
            _texts: texts,
            files,
            report,
            at_exec: AtomicBool::new(false),
            joins: Vec::new(),
            keeper: std::process::id() as i32,
            join_group: launch.join_group.unwrap_or(0),
            umask: launch.umask,
            rlimits: different_limits(&launch.rlimits, own.limits),
            nice: differs(launch.nice, &own.nice),
            affinity: differs(launch.affinity, &own.affinity),
            scheduler: differs(scheduler, &own.scheduler),
            ioprio: differs(launch.ioprio, &own.ioprio),
            privileges: launch.asked.as_deref().map(Privileges::of),
            moves,
            terminal: launch.asked.is_some_and(|asked| asked.terminal.is_some()),
        })
    }
}

/// Where a child is to live: its cgroup and the way into it, or why there is none.
pub type Home = Result<(Leaf, Way), (Lack, i32)>;

/// What a start needs that does not depend on what is started.
pub struct Ready {
    outcome: OwnedFd,
    report: OwnedFd,
    /// None while an early child has it.
    stack: Option<Stack>,
    /// The cgroup itself where the child is born there, its `cgroup.procs` where it joins.
    door: Option<OwnedFd>,
    pub home: Home,
    /// A child that waits for its plan already.
    early: Option<Early>,
}

impl Ready {
    /// Another home than the one it was made for.
    pub fn move_to(&mut self, (leaf, way): (Leaf, Way)) -> Result<(), (Stage, Errno)> {
        self.door = Some(leaf.open().map_err(|errno| (Stage::Cgroup, errno))?);
        self.home = Ok((leaf, way));
        Ok(())
    }

    pub fn new(home: Home) -> Result<Ready, (Stage, Errno)> {
        let at_clone = |errno| (Stage::Clone, errno);
        fault("outcome").map_err(at_clone)?;
        let (outcome, report) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(at_clone)?;
        let stack = any_stack().map_err(at_clone)?;
        let door = match &home {
            Ok((leaf, Way::Born)) => Some(leaf.open().map_err(|errno| (Stage::Cgroup, errno))?),
            Ok((leaf, Way::Joins)) => Some(leaf.procs().map_err(|errno| (Stage::Cgroup, errno))?),
            Err(_) => None,
        };
        Ok(Ready { outcome, report, stack: Some(stack), door, home, early: None })
    }

    /// Clones the child before there is anything for it to do: most of what a clone costs is then not part of the
    /// start. Where that fails it is cloned later.
    pub fn clone_early(&mut self) {
        let Some(stack) = self.stack.take() else { return };
        let born = matches!(self.home, Ok((_, Way::Born))).then_some(self.door.as_ref()).flatten();
        match Early::new(stack, born) {
            Ok(early) => self.early = Some(early),
            Err(stack) => self.stack = Some(stack),
        }
    }

    /// A child that was cloned already is of no use.
    pub fn clone_late(&mut self) {
        self.early = None;
    }

    /// Nothing comes of it: an early child is ended. Where it was to live is left to the caller.
    pub fn give_up(self) -> Home {
        self.home
    }
}

/// Starts the child of `launch`. `fds` are its 0, 1 and 2, its working
/// directory, and its descriptors above 2. Where it does not get into its
/// cgroup it is started without one, and `lack` says so; unless nobody could
/// end it then, or it has limits, whose other cgroups are `joins`.
pub fn start(
    launch: Launch,
    own: &Own<'_>,
    mut fds: Vec<OwnedFd>,
    joins: Option<&[OwnedFd]>,
    Ready { outcome, mut report, stack, door, home, early }: Ready,
) -> Result<Started, (Stage, Errno)> {
    let at_clone = |errno| (Stage::Clone, errno);
    let targets = launch.asked.as_ref().map_or_else(Vec::new, |asked| numbers(&asked.fds));
    if !targets.is_empty() {
        fds = fds.into_iter().map(|fd| aside(fd, &targets)).collect::<Result<_, _>>()?;
        report = aside(report, &targets)?;
    }
    let [stdin, stdout, stderr, cwd, more @ ..] = &fds[..] else { return Err((Stage::Fds, Errno::INVAL)) };
    let files = [stdin, stdout, stderr, cwd].map(AsRawFd::as_raw_fd);
    let moves = more.iter().map(AsRawFd::as_raw_fd).zip(targets).collect();
    let way = home.as_ref().ok().map(|(_, way)| *way);
    let (reach, plain) = (Reach::of(&launch), launch.asked.is_none() && joins.is_none());
    if reach == Reach::ByCgroup && !home.as_ref().is_ok_and(|(leaf, _)| leaf.kills_anybody()) {
        return Err((Stage::Reach, Errno::PERM));
    }
    let mut plan = Box::new(Plan::new(launch, own, files, moves, report.as_raw_fd())?);
    plan.joins.extend(joins.unwrap_or_default().iter().map(AsRawFd::as_raw_fd));
    plan.joins.extend(door.as_ref().filter(|_| way == Some(Way::Joins)).map(AsRawFd::as_raw_fd));
    let mut lack = home.as_ref().err().copied().unwrap_or((Lack::Nothing, 0));
    // One that was cloned before it was known what is asked for knows nothing but the plain way.
    if let (Some(early), true) = (early, plain) {
        plan = match early.start(plan, [stdin, stdout, stderr, cwd]) {
            Ok((pid, pidfd, memory)) => return Ok(Started { pid, pidfd, outcome, memory, lack }),
            Err(plan) => plan,
        };
    }
    let stack = stack.map_or_else(any_stack, Ok).map_err(at_clone)?;
    let mut procs = None;
    let mut cloned = None;
    if let (Some(Way::Born), Some(cgroup)) = (way, &door) {
        // SAFETY: stack and plan are returned in `Memory`.
        match unsafe { clone(child, std::ptr::from_ref(&*plan).cast(), &stack, Some(cgroup.as_fd())) } {
            Ok(born) => cloned = Some(born),
            // Not for want of a cgroup: without one it would fail as well.
            Err(errno @ (Errno::AGAIN | Errno::NOMEM)) => return Err(at_clone(errno)),
            Err(_) if joins.is_some() => {
                let (leaf, _) = home.as_ref().map_err(|_| (Stage::Cgroup, Errno::NOENT))?;
                let entry = procs.insert(leaf.procs().map_err(|errno| (Stage::Cgroup, errno))?);
                plan.joins.push(entry.as_raw_fd());
            }
            Err(errno) => lack = (Lack::Enter, errno.raw_os_error()),
        }
    }
    if lack.0 != Lack::Nothing && reach == Reach::ByCgroup {
        return Err((Stage::Reach, Errno::PERM));
    }
    // SAFETY: as above.
    let alone = || unsafe { clone(child, std::ptr::from_ref(&*plan).cast(), &stack, None) };
    let (pid, pidfd) = cloned.map_or_else(alone, Ok).map_err(at_clone)?;
    drop(procs); // only now: the child has a copy
    Ok(Started { pid, pidfd, outcome, memory: Memory { stack: Some(stack), plan, _place: None }, lack })
}

/// By what a child can be ended once it is who it is to be. A cgroup without `cgroup.kill` (v1, Linux before 5.14)
/// takes signals, too.
#[derive(PartialEq, Eq)]
enum Reach {
    BySignals,
    ByCgroup,
}

impl Reach {
    /// kill(2): one of our ids is theirs, or we have CAP_KILL.
    fn of(launch: &Launch) -> Self {
        let Some(uid) = launch.asked.as_ref().and_then(|asked| asked.uid) else { return Reach::BySignals };
        let ours = [rustix::process::getuid(), rustix::process::geteuid()];
        let theirs = ours.iter().any(|own| own.as_raw() == uid);
        let capable = || {
            let sets = rustix::thread::capabilities(None);
            sets.is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::KILL))
        };
        if theirs || capable() {
            Reach::BySignals
        } else {
            Reach::ByCgroup
        }
    }
}

fn numbers(fds: &[(u32, Source)]) -> Vec<i32> {
    fds.iter().map(|&(number, _)| number as i32).collect()
}

/// `fd`, or a copy of it, at a number that the child needs for none of its own.
fn aside(mut fd: OwnedFd, targets: &[i32]) -> Result<OwnedFd, (Stage, Errno)> {
    let mut tried = Vec::new();
    while targets.contains(&fd.as_raw_fd()) {
        let copy = rustix::io::fcntl_dupfd_cloexec(&fd, 3).map_err(|errno| (Stage::Fds, errno))?;
        tried.push(std::mem::replace(&mut fd, copy)); // open until another number is found: else this one comes again
    }
    Ok(fd)
}

/// # Safety
///
/// `argument` is what `entry` takes for a plan or a place, and is kept, as the stack is, until the child has exec'ed
/// or ended.
unsafe fn clone(
    entry: raw::Entry,
    argument: *const (),
    stack: &Stack,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<(i32, OwnedFd), Errno> {
    let (bottom, bytes) = stack.usable();
    let mut pidfd: i32 = -1;
    let arguments = CloneArgs {
        flags: (libc::CLONE_VM | libc::CLONE_PIDFD) as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        stack: bottom,
        stack_size: bytes,
        ..CloneArgs::default()
    };
    fault("clone")?;
    let pid = if let Some(cgroup) = cgroup {
        let arguments = arguments.into_cgroup(cgroup);
        // SAFETY: the caller's promise; both entries make raw system calls only.
        unsafe { raw::clone3(&arguments, entry, argument) }?
    } else {
        // SAFETY: as above.
        match unsafe { raw::clone3(&arguments, entry, argument) } {
            // Filters of containers that are older than it.
            // SAFETY: as above.
            Err(Errno::NOSYS | Errno::PERM) => unsafe { raw::clone(&arguments, entry, argument) }?,
            other => other?,
        }
    };
    Ok((pid, adopt(pidfd)))
}

/// A system call of the child's that must succeed.
fn must(stage: Stage, number: i64, arguments: [usize; 5]) -> Result<usize, (Stage, isize)> {
    let fault = child_fault(stage).map(|errno| -(errno.raw_os_error() as isize));
    match fault.unwrap_or_else(|| call(number, arguments)) {
        result if result < 0 => Err((stage, result)),
        result => Ok(result as usize),
    }
}

fn call(number: i64, arguments: [usize; 5]) -> isize {
    // SAFETY: every caller below passes integers, or pointers into the plan, which outlives the child's use of it.
    unsafe { raw::syscall(number, arguments) }
}

/// For tests that look at a child in between.
fn hang(at: Step) {
    while sabotaged(at) {
        call(libc::SYS_ppoll, [0; 5]);
    }
}

extern "C" fn child(plan: *const ()) -> ! {
    // SAFETY: `start` passes its plan and keeps it until this process has exec'ed or ended.
    let plan = unsafe { &*plan.cast::<Plan>() };
    serve(plan, Ok(plan.files))
}

/// `files`: its 0, 1 and 2 and its working directory.
fn serve(plan: &Plan, files: Result<[i32; 4], (Stage, isize)>) -> ! {
    let (stage, result) = match files.and_then(|files| run(plan, files)) {
        Err(failure) => failure,
        Ok(never) => match never {},
    };
    let mut record = [0; 8];
    record[..4].copy_from_slice(&(stage as u32).to_le_bytes());
    record[4..].copy_from_slice(&(-result as i32).to_le_bytes());
    call(libc::SYS_write, [plan.report as usize, record.as_ptr() as usize, 8, 0, 0]);
    loop {
        call(libc::SYS_exit_group, [127, 0, 0, 0, 0]);
    }
}

enum Never {}

/// In the order that each step needs: limits while they may still be raised,
/// PDEATHSIG after anything that would clear it, signals last, so that nothing
/// can interrupt before.
fn run(plan: &Plan, [stdin, stdout, stderr, cwd]: [i32; 4]) -> Result<Never, (Stage, isize)> {
    for &join in &plan.joins {
        must(Stage::Cgroup, libc::SYS_write, [join as usize, c"0".as_ptr() as usize, 1, 0, 0])?;
    }
    lead(plan)?;
    set_limits(plan)?;
    must(Stage::Umask, libc::SYS_umask, [plan.umask as usize, 0, 0, 0, 0])?;
    set_priorities(plan)?;
    if let Some(privileges) = &plan.privileges {
        privileges.take_on()?;
    }
    must(Stage::Chdir, libc::SYS_fchdir, [cwd as usize, 0, 0, 0, 0])?;
    if plan.privileges.as_ref().is_some_and(|privileges| privileges.no_new_privs) {
        must(Stage::NoNewPrivs, libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0, 0])?;
    }
    hang(Step::HangBeforePdeathsig);
    die_with_keeper(plan.keeper)?;
    place_descriptors(plan, [stdin, stdout, stderr])?;
    default_signals()?;
    hang(Step::HangBeforeExec);
    Err(exec(plan))
}

/// How often a program that is open for writing is tried again, a millisecond apart: where somebody forks while a
/// program is being written the copy of the writer's descriptor is closed at its exec, at once as a rule.
const BUSY_TRIES: u32 = 50;

/// Returns what keeps it from running.
fn exec(plan: &Plan) -> (Stage, isize) {
    let arguments =
        [plan.path.as_ptr() as usize, plan.argv.as_ptr() as usize, plan.envp.as_ptr() as usize, 0, 0];
    let pause = [0_i64, 1_000_000]; // seconds and nanoseconds
    for tries in 1.. {
        plan.at_exec.store(true, Ordering::Release);
        let busy = tries == 1 && sabotaged(Step::BusyOnce);
        let result = if busy { Ok(0) } else { must(Stage::Exec, libc::SYS_execve, arguments) };
        let errno = result.err().map_or(-(libc::ETXTBSY as isize), |(_, errno)| errno);
        if errno != -(libc::ETXTBSY as isize) || tries > BUSY_TRIES {
            return (Stage::Exec, errno);
        }
        plan.at_exec.store(false, Ordering::Release); // whoever ends it here ends what has not started
        call(libc::SYS_nanosleep, [pause.as_ptr() as usize, 0, 0, 0, 0]);
    }
    (Stage::Exec, 0)
}

/// Of a session where it has a terminal of its own, else of a group, or it joins one.
fn lead(plan: &Plan) -> Result<(), (Stage, isize)> {
    if plan.terminal {
        must(Stage::Terminal, libc::SYS_setsid, [0; 5])?;
    } else {
        must(Stage::Group, libc::SYS_setpgid, [0, plan.join_group as usize, 0, 0, 0])?;
    }
    Ok(())
}

fn place_descriptors(plan: &Plan, stdio: [i32; 3]) -> Result<(), (Stage, isize)> {
    // Everything of ours is close-on-exec from birth; this is for what a library may have left. Refused by old
    // kernels and by filters, which leaves us with the first half. Before the child's own stand among them.
    let cloexec = libc::CLOSE_RANGE_CLOEXEC as usize;
    if !sabotaged(Step::Descriptors) {
        let _ = must(Stage::Fds, libc::SYS_close_range, [3, u32::MAX as usize, cloexec, 0, 0]);
    }
    for (number, &fd) in stdio.iter().enumerate() {
        // Never equal and never colliding: in a keeper 0, 1 and 2 are taken, so every source is above.
        must(Stage::Fds, libc::SYS_dup3, [fd as usize, number, 0, 0, 0])?;
    }
    for &(fd, number) in &plan.moves {
        must(Stage::Fds, libc::SYS_dup3, [fd as usize, number as usize, 0, 0, 0])?;
    }
    if plan.terminal {
        must(Stage::Terminal, libc::SYS_ioctl, [0, libc::TIOCSCTTY as usize, 0, 0, 0])?;
    }
    Ok(())
}

fn set_limits(plan: &Plan) -> Result<(), (Stage, isize)> {
    for (resource, limit) in &plan.rlimits {
        must(Stage::Rlimit, libc::SYS_prlimit64, [0, *resource, limit.as_ptr() as usize, 0, 0])?;
    }
    Ok(())
}

fn set_priorities(plan: &Plan) -> Result<(), (Stage, isize)> {
    if let Some(nice) = plan.nice {
        must(Stage::Nice, libc::SYS_setpriority, [libc::PRIO_PROCESS as usize, 0, nice as usize, 0, 0])?;
    }
    if let Some(mask) = &plan.affinity {
        must(Stage::Affinity, libc::SYS_sched_setaffinity, [0, mask.len(), mask.as_ptr() as usize, 0, 0])?;
    }
    if let Some((policy, priority)) = plan.scheduler {
        let at = &raw const priority as usize;
        must(Stage::Scheduler, libc::SYS_sched_setscheduler, [0, policy as usize, at, 0, 0])?;
    }
    if let Some(ioprio) = plan.ioprio {
        const IOPRIO_WHO_PROCESS: usize = 1;
        must(Stage::Ioprio, libc::SYS_ioprio_set, [IOPRIO_WHO_PROCESS, 0, ioprio as usize, 0, 0])?;
    }
    Ok(())
}

/// Belt and braces: the guardian would find the child too. The second call is
/// for a keeper that ended before the first one stood.
fn die_with_keeper(keeper: i32) -> Result<(), (Stage, isize)> {
    if sabotaged(Step::Pdeathsig) {
        return Ok(());
    }
    let (option, signal) = (libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize);
    must(Stage::Pdeathsig, libc::SYS_prctl, [option, signal, 0, 0, 0])?;
    if must(Stage::Pdeathsig, libc::SYS_getppid, [0; 5])? != keeper as usize {
        return Err((Stage::Pdeathsig, -(libc::ESRCH as isize)));
    }
    Ok(())
}

/// Ignored signals and the mask survive exec; the rest is default in a helper anyway.
fn default_signals() -> Result<(), (Stage, isize)> {
    if sabotaged(Step::Signals) {
        return Ok(());
    }
    let default = [0_u64; 4]; // struct sigaction of the kernel: SIG_DFL, no flags, empty mask
                              // 32 and 33 are libc's own: it lets nobody reset them, and a runtime may have started us with them ignored.
    for signal in IGNORED.into_iter().chain([32, 33]) {
        must(Stage::Signals, libc::SYS_rt_sigaction, [signal as usize, default.as_ptr() as usize, 0, 8, 0])?;
    }
    let (how, none) = (libc::SIG_SETMASK as usize, 0_u64);
    must(Stage::Signals, libc::SYS_rt_sigprocmask, [how, &raw const none as usize, 0, 8, 0])?;
    Ok(())
}
