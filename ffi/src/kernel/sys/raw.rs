// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! System calls without libc: no errno, no lock, no allocation. For the moment
//! between clone and exec, in which the child shares its keeper's memory
//! (thread-local errno included) while the keeper runs on.

use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::io::Errno;
use std::arch::asm;

/// # Safety
///
/// As the system call `number` demands of its arguments.
#[cfg(target_arch = "x86_64")]
pub unsafe fn syscall(number: i64, a: [usize; 5]) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention; what the call does is the caller's duty.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result,
            in("rdi") a[0], in("rsi") a[1], in("rdx") a[2], in("r10") a[3], in("r8") a[4],
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// # Safety
///
/// As the system call `number` demands of its arguments.
#[cfg(target_arch = "aarch64")]
pub unsafe fn syscall(number: i64, a: [usize; 5]) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention; what the call does is the caller's duty.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a[0] as isize => result,
            in("x1") a[1], in("x2") a[2], in("x3") a[3], in("x4") a[4], options(nostack));
    }
    result
}

/// The argument of clone3(2), as Linux 5.7 knows it. What an older kernel does
/// not know is refused only where it is not 0.
#[repr(C)]
#[derive(Default)]
pub struct CloneArgs {
    pub flags: u64,
    pub pidfd: u64,
    pub child_tid: u64,
    pub parent_tid: u64,
    pub exit_signal: u64,
    pub stack: u64,
    pub stack_size: u64,
    pub tls: u64,
    pub set_tid: u64,
    pub set_tid_size: u64,
    pub cgroup: u64,
}

impl CloneArgs {
    /// The same for a cgroup that the child is born into; CLONE_INTO_CGROUP, which libc has for one target only.
    pub fn into_cgroup(mut self, cgroup: BorrowedFd<'_>) -> Self {
        const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
        self.flags |= CLONE_INTO_CGROUP;
        self.cgroup = cgroup.as_raw_fd() as u64;
        self
    }
}

/// Where a child begins.
pub type Entry = extern "C" fn(*const ()) -> !;

/// Clones a child that runs `entry(argument)`, on the stack that `arguments`
/// names where it shares this process's memory. Returns its pid, in the parent
/// only. (clone3 and not VFORK: a stopped child must not blind its keeper.)
///
/// # Safety
///
/// The stack and everything behind `argument` stay valid until the child has
/// exec'ed or ended; `entry` makes raw system calls only.
pub unsafe fn clone3(arguments: &CloneArgs, entry: Entry, argument: *const ()) -> Result<i32, Errno> {
    let at = std::ptr::from_ref(arguments) as usize;
    // SAFETY: the caller's promise; the structure outlives the call, which reads it before it returns.
    let result = unsafe { start(libc::SYS_clone3, [at, size_of::<CloneArgs>(), 0], entry, argument) };
    told(result)
}

/// The same with clone(2), for kernels and filters that know no clone3. It puts nobody into a cgroup.
///
/// # Safety
///
/// As [`clone3`]; `arguments.pidfd` is where the child's pidfd goes.
pub unsafe fn clone(arguments: &CloneArgs, entry: Entry, argument: *const ()) -> Result<i32, Errno> {
    let flags = (arguments.flags | arguments.exit_signal) as usize;
    let top = (arguments.stack + arguments.stack_size) as usize;
    // SAFETY: the caller's promise. clone(2) takes flags, stack and the place of the pidfd first on both targets.
    let result = unsafe { start(libc::SYS_clone, [flags, top, arguments.pidfd as usize], entry, argument) };
    told(result)
}

fn told(result: isize) -> Result<i32, Errno> {
    if result < 0 {
        Err(Errno::from_raw_os_error(-result as i32))
    } else {
        Ok(result as i32)
    }
}

/// # Safety
///
/// `number` is a call that clones, with the arguments that it takes; else as [`clone3`].
unsafe fn start(number: i64, a: [usize; 3], entry: Entry, argument: *const ()) -> isize {
    let result: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the parent comes out behind label 2 with its registers kept; the child never does: it starts on a
    // 16-byte-aligned stack, its own or a copy of this one, with a cleared frame pointer and calls `entry`, which
    // does not return.
    unsafe {
        asm!(
            "syscall", "test rax, rax", "jnz 2f", "xor ebp, ebp", "mov rdi, r12", "call r13", "ud2", "2:",
            inlateout("rax") number as isize => result,
            in("rdi") a[0], in("rsi") a[1], in("rdx") a[2], in("r10") 0, in("r8") 0,
            in("r12") argument, in("r13") entry, lateout("rcx") _, lateout("r11") _,
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        asm!(
            "svc 0", "cbnz x0, 2f", "mov x29, xzr", "mov x30, xzr", "mov x0, x20", "blr x21", "brk #1", "2:",
            in("x8") number, inlateout("x0") a[0] as isize => result, in("x1") a[1], in("x2") a[2],
            in("x3") 0, in("x4") 0, in("x20") argument, in("x21") entry, lateout("x30") _,
        );
    }
    result
}
