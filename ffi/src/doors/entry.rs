// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! The third door: the library as a program. The runtime starts
//! `LOADER("proton-watchdog", "/proc/self/fd/5", "for", PID)`, the dynamic
//! loader maps and relocates the library like any program and jumps here.
#![allow(unsafe_code)]

use crate::guard::watchdog;
use crate::kernel::sys::helper::{exit, Title};
use std::ffi::{c_char, CStr};

/// The name that the runtime gives the process, as `ps` shows it first.
const FIRST: &CStr = c"proton-watchdog";

// The stack holds argc, then argv (System V ABI); no return address is there.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".globl proton_entry",
    ".type proton_entry, @function",
    "proton_entry:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {main}",
    "ud2",
    main = sym proton_main,
);

#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".globl proton_entry",
    ".type proton_entry, %function",
    "proton_entry:",
    "mov x29, xzr",
    "mov x30, xzr",
    "mov x0, sp",
    "bl {main}",
    "brk #1",
    main = sym proton_main,
);

unsafe extern "C" {
    fn proton_entry();
}

/// Keeps the entry point in the file: nothing calls it from Rust.
#[used]
static ENTRY: unsafe extern "C" fn() = proton_entry;

unsafe extern "C" fn proton_main(stack: *const usize) -> ! {
    let ran = std::panic::catch_unwind(|| {
        // SAFETY: `stack` is what the loader jumped here with: argc first.
        let title = unsafe { title(stack) };
        watchdog::main(&title)
    });
    exit(if ran.is_err() { 101 } else { 0 })
}

/// The argument area of this process. The loader has taken its own arguments
/// off the list, but their text stands where the kernel put it, in one run:
/// our name, then the library's path, with which the list now begins.
///
/// # Safety
///
/// `stack` points at argc and argv of this process.
unsafe fn title(stack: *const usize) -> Title {
    // SAFETY: argv[0] follows argc, and a program that the loader starts has one.
    let path = unsafe { stack.add(1) }.cast::<*mut c_char>();
    // SAFETY: as above.
    let path = unsafe { path.read() };
    // SAFETY: a C string of this process.
    let length = unsafe { CStr::from_ptr(path) }.count_bytes() + 1;
    let name = FIRST.count_bytes() + 1;
    // SAFETY: compared before it is relied on; the kernel's string area extends below (the loader's own name).
    let before = unsafe { path.sub(name) };
    // SAFETY: as above: these bytes are mapped, as the area is contiguous.
    let found = unsafe { std::slice::from_raw_parts(before.cast::<u8>(), name) };
    if found == FIRST.to_bytes_with_nul() {
        // SAFETY: both texts, ours from now on: nothing looks at the arguments again.
        unsafe { Title::new(before.cast(), name + length) }
    } else {
        // SAFETY: a loader that copied its arguments: nothing is shown.
        unsafe { Title::new(path.cast(), 0) }
    }
}
