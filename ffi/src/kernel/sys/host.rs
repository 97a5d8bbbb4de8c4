// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Raw calls that read what a child is to inherit from the thread that opens it.

use crate::kernel::sabotage;
use rustix::fd::{AsFd, AsRawFd};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::ffi::c_int;
use std::time::Duration;

/// Priorities of the calling thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Priorities {
    pub nice: i32,
    /// sched_setaffinity(2)'s mask.
    pub affinity: Vec<u8>,
    /// Policy and priority, as sched_setscheduler(2) takes them.
    pub scheduler: (i32, i32),
    pub ioprio: i32,
}

const IOPRIO_WHO_PROCESS: c_int = 1;

impl Priorities {
    /// `mask_bytes`: how long a mask to ask for; the kernel says EINVAL to one that is too short.
    pub fn of_this_thread(mask_bytes: usize) -> Self {
        let mut parameter = libc::sched_param { sched_priority: 0 };
        // SAFETY: reads one attribute of this thread.
        let policy = unsafe { libc::sched_getscheduler(0) };
        // SAFETY: `parameter` is ours and outlives the call.
        unsafe { libc::sched_getparam(0, &raw mut parameter) };
        // SAFETY: three integers; reads one attribute of this thread.
        let ioprio = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) };
        let nice = rustix::process::getpriority_process(None).unwrap_or(0);
        Priorities {
            nice,
            affinity: affinity(mask_bytes),
            scheduler: (policy, parameter.sched_priority),
            ioprio: ioprio.max(0) as i32,
        }
    }
}

/// The raw call and not libc's, which knows 1,024 processors only.
fn affinity(mask_bytes: usize) -> Vec<u8> {
    let mut mask = vec![0_u8; mask_bytes.max(128).next_multiple_of(8)];
    // SAFETY: `mask` is ours, has the length that is said and outlives the call.
    let got = unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, mask.len(), mask.as_mut_ptr()) };
    mask.truncate(got.max(0) as usize);
    mask
}

/// A copy, above the standard streams, of a descriptor that this process's own code has named. EBADF where there is
/// none of that number.
pub fn duplicate(number: u32) -> Result<rustix::fd::OwnedFd, Errno> {
    let number = c_int::try_from(number).map_err(|_| Errno::BADF)?;
    // SAFETY: the number is only looked up; what it names stays as it is.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    } else {
        Ok(super::helper::adopt(copy))
    }
}

/// How many bytes that were sent here nobody has received yet (SIOCOUTQ, unix(7)); 0 where that is not to be known.
pub fn unread(socket: impl AsFd) -> usize {
    let mut bytes: c_int = 0;
    // SAFETY: `bytes` is ours and outlives the call, which writes an int there.
    let got = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if got == 0 {
        usize::try_from(bytes).unwrap_or(0)
    } else {
        0
    }
}

/// All resource limits, soft and hard, by number.
pub fn rlimits() -> Vec<(u64, u64)> {
    const COUNT: u32 = 16;
    let mut all = Vec::with_capacity(COUNT as usize);
    for resource in 0..COUNT {
        let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is ours and outlives the call, which reads only.
        let got = unsafe {
            libc::syscall(
                libc::SYS_prlimit64,
                0,
                resource,
                std::ptr::null::<libc::rlimit64>(),
                &raw mut limit,
            )
        };
        if got == 0 {
            all.push((limit.rlim_cur, limit.rlim_max));
        }
    }
    all
}

unsafe extern "C" {
    static environ: *const *const std::ffi::c_char;
}

/// Reads pieces of this process's own memory that another thread may be
/// changing, one after the other into `into`: EFAULT where a plain read would
/// fault. Returns how many bytes came before the first that is gone.
fn read_own(pieces: &[(usize, usize)], into: &mut [u8]) -> Result<usize, Errno> {
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let remote: Vec<_> =
        pieces.iter().map(|&(start, len)| libc::iovec { iov_base: start as *mut _, iov_len: len }).collect();
    let (me, count) = (std::process::id() as libc::pid_t, remote.len() as libc::c_ulong);
    // SAFETY: the vectors outlive the call; the kernel checks the remote ranges itself.
    let got = unsafe { libc::process_vm_readv(me, &raw const local, 1, remote.as_ptr(), count, 0) };
    if got < 0 {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    } else {
        Ok(got as usize)
    }
}

const PAGE: usize = 4096;

/// As many pieces as one process_vm_readv(2) takes (IOV_MAX).
const PIECES: usize = 1024;

fn rest_of_page(address: usize) -> usize {
    PAGE - address % PAGE
}

const WORD: usize = size_of::<usize>();

/// Where the list of variables is at this moment.
fn place() -> Result<usize, Errno> {
    let mut word = [0; WORD];
    if read_own(&[(&raw const environ as usize, WORD)], &mut word)? < WORD {
        return Err(Errno::FAULT);
    }
    Ok(usize::from_ne_bytes(word))
}

/// The addresses in the list at `at`.
fn addresses(mut at: usize) -> Result<Vec<usize>, Errno> {
    let mut found = Vec::new();
    let mut piece = [0; PAGE];
    while at != 0 {
        let got = read_own(&[(at, rest_of_page(at))], &mut piece)?;
        for word in piece[..got].chunks_exact(WORD) {
            match usize::from_ne_bytes(word.try_into().map_err(|_| Errno::FAULT)?) {
                0 => return Ok(found),
                address => found.push(address),
            }
        }
        at += got - got % WORD;
    }
    Ok(found)
}

/// A C string at `address`, in pieces that do not cross a page.
fn text_at(address: usize) -> Result<Vec<u8>, Errno> {
    let mut text = Vec::new();
    let mut piece = [0; PAGE];
    let mut at = address;
    loop {
        let got = read_own(&[(at, rest_of_page(at))], &mut piece)?;
        if let Some(end) = piece[..got].iter().position(|&b| b == 0) {
            text.extend_from_slice(&piece[..end]);
            return Ok(text);
        }
        text.extend_from_slice(&piece[..got]);
        at += got;
    }
}

/// Reads the strings at `addresses` that are not known yet: few calls, as one
/// takes whole rests of pages, and most strings stand side by side.
fn texts_at(addresses: &[usize], known: &mut HashMap<usize, Vec<u8>>) -> Result<(), Errno> {
    let mut wanted: Vec<usize> = addresses.iter().copied().filter(|at| !known.contains_key(at)).collect();
    wanted.sort_unstable();
    let mut firsts = wanted.clone();
    firsts.dedup_by_key(|at| *at / PAGE);
    let mut pages = HashMap::with_capacity(firsts.len());
    for some in firsts.chunks(PIECES) {
        let pieces: Vec<_> = some.iter().map(|&at| (at, rest_of_page(at))).collect();
        let mut buffer = vec![0; pieces.iter().map(|(_, len)| len).sum()];
        let mut left = read_own(&pieces, &mut buffer)?;
        let mut rest = &buffer[..];
        for (at, len) in pieces {
            let (piece, after) = rest.split_at(len);
            pages.insert(at / PAGE, (at, piece[..len.min(left)].to_vec()));
            (left, rest) = (left.saturating_sub(len), after);
        }
    }
    for at in wanted {
        let whole = pages.get(&(at / PAGE)).and_then(|(first, piece)| {
            let text = piece.get(at - first..)?;
            Some(text[..text.iter().position(|&b| b == 0)?].to_vec())
        });
        let text = whole.map_or_else(|| text_at(at), Ok)?;
        known.insert(at, text);
    }
    Ok(())
}

/// How often the list is read again because it changed while its strings were read.
const LOOKS: usize = 16;

/// How often the list is looked for again because it was being moved: a second, where the mover gets no processor.
const MOVES: usize = 1000;

/// Waits until whoever is setting a variable at this moment has done so: libc frees the old place of the list a
/// moment before it tells the new one, and a thread can lose the processor just there. To unset a variable that
/// nobody has takes libc's lock and changes nothing.
fn let_setters_finish() {
    const NOBODYS: &std::ffi::CStr = c"proton-stream-9d3f6c1e58b24a07-is-not-set";
    // SAFETY: a C string; libc holds its own lock while it looks for the name.
    unsafe { libc::unsetenv(NOBODYS.as_ptr()) };
}

/// The addresses in the list, read from a place that it had not left.
fn list() -> Result<Vec<usize>, Errno> {
    for _ in 0..LOOKS {
        let place = place()?;
        let found = addresses(place);
        let_setters_finish();
        let found = found?;
        if self::place()? == place {
            return Ok(found);
        }
    }
    Err(Errno::FAULT) // it is moved again and again
}

fn copy_environment() -> Result<Vec<Vec<u8>>, Errno> {
    let mut known = HashMap::new();
    let (mut before, mut now) = (Vec::new(), list()?);
    for _ in 0..LOOKS {
        texts_at(&now, &mut known)?;
        let again = list()?;
        if again == now {
            return Ok(now.iter().filter_map(|at| known.get(at).cloned()).collect());
        }
        (before, now) = (now, again);
    }
    texts_at(&now, &mut known)?;
    Ok(joined(&now, &before, &known))
}

/// The last of two looks at a list that changes all the time, with what only the look before has seen: unsetenv(3)
/// moves those behind the one that it takes out, and one that is moved from a part not read yet into one that was
/// read is missed. What is no variable was read from a place that the list had just left.
fn joined(now: &[usize], before: &[usize], known: &HashMap<usize, Vec<u8>>) -> Vec<Vec<u8>> {
    let (mut all, mut names) = (Vec::with_capacity(now.len()), HashSet::new());
    for text in now.iter().chain(before).filter_map(|at| known.get(at)) {
        let name = text.iter().position(|&b| b == b'=').map(|at| &text[..at]);
        if name.is_some_and(|name| !name.is_empty() && names.insert(name)) {
            all.push(text.clone());
        }
    }
    all
}

/// The environment of this process as `NAME=value`. Another Worker may set a
/// variable at this very moment. libc never changes a string that stands in the
/// list, it puts another one in its place: so the list is read until it stays
/// the same while its strings are read. Where a Worker sets variables without
/// a pause, it is what the last looks saw: each variable with a value that it
/// had during this call.
pub fn environment() -> Result<Vec<Vec<u8>>, Errno> {
    let mut result = copy_environment();
    for look in 0..MOVES {
        match result {
            // The list itself is moving, and its old place is gone.
            Err(Errno::FAULT) => std::thread::sleep(Duration::from_millis(u64::from(look >= LOOKS))),
            Err(Errno::PERM | Errno::NOSYS) => return Ok(plain_environment()),
            _ => break,
        }
        result = copy_environment();
    }
    result
}

/// For hosts that refuse process_vm_readv(2) (some seccomp filters): safe as long as no other thread sets variables.
fn plain_environment() -> Vec<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    std::env::vars_os().map(|(key, value)| [key.as_bytes(), b"=", value.as_bytes()].concat()).collect()
}

/// The whole environment of a helper. Without glibc's caches of freed blocks the launch record of a keeper is
/// free again in whole pages, which [`helper::give_memory_back`] can then return: 52 KiB stay, not 80.
///
/// [`helper::give_memory_back`]: super::helper::give_memory_back
const HELPERS_ENVIRONMENT: &std::ffi::CStr =
    c"GLIBC_TUNABLES=glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0";

/// Starts `program` with `arguments`, the environment of a helper, default signals, an empty mask and a process
/// group of its own. `fds` become 0, 1, 2 and so on. Returns its pid.
pub fn spawn(
    program: &std::ffi::CStr,
    arguments: &[std::ffi::CString],
    fds: &[rustix::fd::OwnedFd],
) -> Result<i32, Errno> {
    use rustix::fd::AsRawFd;
    // First out of the way of the targets, so that no dup2 lands on a source.
    let high = fds.iter().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 16)).collect::<Result<Vec<_>, _>>()?;
    let mut argv: Vec<*mut libc::c_char> = arguments.iter().map(|a| a.as_ptr().cast_mut()).collect();
    argv.push(std::ptr::null_mut());
    let extra = sabotage::handed_on();
    let environment = std::iter::once(HELPERS_ENVIRONMENT).chain(extra.iter().map(|text| text.as_c_str()));
    let mut envp: Vec<*mut libc::c_char> = environment.map(|text| text.as_ptr().cast_mut()).collect();
    envp.push(std::ptr::null_mut());
    let mut actions = FileActions::new()?;
    for (number, fd) in high.iter().enumerate() {
        actions.dup2(fd.as_raw_fd(), number as c_int)?;
    }
    let attributes = Attributes::alone()?;
    sabotage::fault("spawn")?;
    let mut pid = 0;
    // SAFETY: everything handed over is initialised and outlives the call; argv and envp end with null.
    let result = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            actions.0.as_ref(),
            attributes.0.as_ref(),
            argv.as_ptr(),
            envp.as_ptr(),
        )
    };
    if result == 0 {
        Ok(pid)
    } else {
        Err(Errno::from_raw_os_error(result))
    }
}

fn told(result: c_int) -> Result<(), Errno> {
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::from_raw_os_error(result))
    }
}

struct FileActions(Box<libc::posix_spawn_file_actions_t>);

impl FileActions {
    fn new() -> Result<Self, Errno> {
        // SAFETY: plain data that the next call initialises.
        let mut raw = Box::new(unsafe { std::mem::zeroed() });
        // SAFETY: `raw` is ours; boxed, so it does not move afterwards.
        told(unsafe { libc::posix_spawn_file_actions_init(&raw mut *raw) })?;
        Ok(FileActions(raw))
    }

    fn dup2(&mut self, from: c_int, to: c_int) -> Result<(), Errno> {
        // SAFETY: initialised by `new`.
        told(unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut *self.0, from, to) })
    }
}

impl Drop for FileActions {
    fn drop(&mut self) {
        // SAFETY: initialised by `new`, destroyed once.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut *self.0) };
    }
}

struct Attributes(Box<libc::posix_spawnattr_t>);

impl Attributes {
    fn alone() -> Result<Self, Errno> {
        // SAFETY: plain data that the next call initialises.
        let mut raw = Box::new(unsafe { std::mem::zeroed() });
        // SAFETY: `raw` is ours; boxed, so it does not move afterwards.
        told(unsafe { libc::posix_spawnattr_init(&raw mut *raw) })?;
        let mut this = Attributes(raw);
        let flags = libc::POSIX_SPAWN_SETPGROUP | libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
        // SAFETY: a signal set is plain bits.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: initialised above.
        told(unsafe { libc::posix_spawnattr_setflags(&raw mut *this.0, flags as libc::c_short) })?;
        // SAFETY: as above.
        told(unsafe { libc::posix_spawnattr_setpgroup(&raw mut *this.0, 0) })?;
        // SAFETY: `set` is ours.
        unsafe { libc::sigemptyset(&raw mut set) };
        // SAFETY: both are initialised.
        told(unsafe { libc::posix_spawnattr_setsigmask(&raw mut *this.0, &raw const set) })?;
        // SAFETY: `set` is ours.
        unsafe { libc::sigfillset(&raw mut set) };
        // SAFETY: both are initialised.
        told(unsafe { libc::posix_spawnattr_setsigdefault(&raw mut *this.0, &raw const set) })?;
        Ok(this)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised by `alone`, destroyed once.
        unsafe { libc::posix_spawnattr_destroy(&raw mut *self.0) };
    }
}

/// Blocks every signal for the calling thread: signals are for the runtime's own threads.
pub fn block_all_signals() {
    // SAFETY: a signal set is plain bits.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is ours.
    unsafe { libc::sigfillset(&raw mut set) };
    // SAFETY: `set` is initialised; the old mask is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
}

/// Where in the file system this library was loaded from, as the loader knows it.
pub fn own_file() -> Option<std::path::PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    // SAFETY: plain data that the next call fills.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is ours; the address is one of this library's functions.
    if unsafe { libc::dladdr(own_file as *const _, &raw mut info) } == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: a C string of the loader's, which lives as long as the library (linked with nodelete).
    let name = unsafe { std::ffi::CStr::from_ptr(info.dli_fname) };
    Some(std::path::PathBuf::from(std::ffi::OsStr::from_bytes(name.to_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_look_missed_is_there_by_the_look_before_and_what_is_no_variable_is_not() {
        let text = |text: &str| text.as_bytes().to_vec();
        let known = HashMap::from([
            (1, text("A=new")),
            (2, text("A=old")),
            (3, text("B=1")),
            (4, text("C=")),
            (5, text("\x07\x02")),
            (6, text("=x")),
        ]);
        assert_eq!(joined(&[1, 5, 4], &[2, 3, 6, 4], &known), [text("A=new"), text("C="), text("B=1")]);
    }

    #[test]
    fn the_environment_is_what_stands_in_it() {
        use std::os::unix::ffi::OsStrExt;
        let mut expected: Vec<_> =
            std::env::vars_os().map(|(k, v)| [k.as_bytes(), b"=", v.as_bytes()].concat()).collect();
        let mut found = environment().expect("it can be read");
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
    }
}
