// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! System calls without libc: no errno, no lock, no allocation. For the moment
//! between clone and exec, in which the child shares its keeper's memory
//! (thread-local errno included) while the keeper runs on.

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

/// The argument of clone3(2), as far as Linux 5.3 knows it.
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
}

/// Clones a child that shares this process's memory and runs `entry(argument)`
/// on the stack that `arguments` names. Returns its pid, in the parent only.
/// (clone3 and not VFORK: a stopped child must not blind its keeper.)
///
/// # Safety
///
/// The stack and everything behind `argument` stay valid until the child has
/// exec'ed or ended; `entry` makes raw system calls only.
pub unsafe fn clone3(
    arguments: &CloneArgs,
    entry: extern "C" fn(*const ()) -> !,
    argument: *const (),
) -> Result<i32, Errno> {
    let result: isize;
    let at = std::ptr::from_ref(arguments);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the parent comes out behind label 2 with its registers kept; the child never does: it starts on its
    // own 16-byte-aligned stack with a cleared frame pointer and calls `entry`, which does not return.
    unsafe {
        asm!(
            "syscall", "test rax, rax", "jnz 2f", "xor ebp, ebp", "mov rdi, r12", "call r13", "ud2", "2:",
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") at, in("rsi") size_of::<CloneArgs>(), in("r12") argument, in("r13") entry,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        asm!(
            "svc 0", "cbnz x0, 2f", "mov x29, xzr", "mov x30, xzr", "mov x0, x20", "blr x21", "brk #1", "2:",
            in("x8") libc::SYS_clone3, inlateout("x0") at => result,
            in("x1") size_of::<CloneArgs>(), in("x20") argument, in("x21") entry, lateout("x30") _,
        );
    }
    if result < 0 {
        Err(Errno::from_raw_os_error(-result as i32))
    } else {
        Ok(result as i32)
    }
}
