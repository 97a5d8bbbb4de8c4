// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Output as buffers of its own, in memory that is used again.
//!
//! A fresh ArrayBuffer of this size costs twice what reading into it does: its
//! pages are mapped, zeroed and unmapped each time (docs/decisions/0008). Here
//! a block is read into, and what was read is lent to JavaScript as an
//! ArrayBuffer of exactly that. The next read goes into what is left of the
//! block, while that is half of it: V8 knows how much it was lent, and not how
//! much more is held by that. When the last part is collected the block comes
//! back.
#![allow(unsafe_code)]

use crate::doors::call;
use crate::runtime::blocks::{self, Block, BLOCK};
use crate::runtime::pipe;
use napi::bindgen_prelude::{Env, Unknown};
use napi::sys;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Less than this is copied: a block is not to be kept busy by a line of text.
const LENT_LEAST: usize = 32 * 1024;

/// With less room than this in it a block is read into no more.
const ROOM_LEAST: usize = BLOCK / 2;

/// Where a part may begin: as memory of the allocator's would.
const ALIGNED: usize = 64;

/// A block in parts: each that was lent holds it, and who reads into it does.
struct Parts {
    start: *mut [u8; BLOCK],
    holders: AtomicUsize,
}

/// Who reads into a block, behind what was lent of it.
struct Reader {
    parts: *mut Parts,
    used: usize,
}

// SAFETY: the memory behind `used` is the reader's alone, and what is before it is not touched through it.
unsafe impl Send for Reader {}

/// The one that was read into last, while nobody reads into it.
static CURRENT: Mutex<Option<Reader>> = Mutex::new(None);

impl Reader {
    fn new() -> Self {
        let start = Box::into_raw(blocks::take());
        Reader { parts: Box::into_raw(Box::new(Parts { start, holders: AtomicUsize::new(1) })), used: 0 }
    }

    /// The one before, or one with a block of its own where somebody else reads.
    fn current() -> Self {
        let last = CURRENT.lock().unwrap_or_else(PoisonError::into_inner).take();
        last.unwrap_or_else(Reader::new)
    }

    fn keep(self) {
        if BLOCK - self.used < ROOM_LEAST {
            return;
        }
        let other = CURRENT.lock().unwrap_or_else(PoisonError::into_inner).replace(self);
        drop(other); // without the lock
    }

    fn free(&mut self) -> &mut [u8] {
        // SAFETY: this reader is one of the holders.
        let start = unsafe { &*self.parts }.start.cast::<u8>();
        // SAFETY: `used` is within the block.
        let free = unsafe { start.add(self.used) };
        // SAFETY: nobody but this reader knows what is behind `used`; it is initialized, as blocks always are.
        unsafe { std::slice::from_raw_parts_mut(free, BLOCK - self.used) }
    }

    /// The next `len` bytes are somebody else's, who releases the parts.
    fn part(&mut self, len: usize) -> (*mut c_void, *mut Parts) {
        let start = self.free()[..len].as_mut_ptr().cast();
        // SAFETY: held by this reader.
        unsafe { &*self.parts }.holders.fetch_add(1, Ordering::Relaxed);
        self.used = (self.used + len).next_multiple_of(ALIGNED).min(BLOCK);
        (start, self.parts)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // SAFETY: the reader is one of the holders, and is gone with this.
        unsafe { release(self.parts) };
    }
}

/// # Safety
///
/// The caller is one of the holders, and holds it no more.
unsafe fn release(parts: *mut Parts) {
    // SAFETY: until the last holder has left it is there.
    if unsafe { &*parts }.holders.fetch_sub(1, Ordering::AcqRel) > 1 {
        return;
    }
    // SAFETY: made by `Reader::new`, and this was the last holder.
    let parts = unsafe { Box::from_raw(parts) };
    // SAFETY: as above.
    let block: Block = unsafe { Box::from_raw(parts.start) };
    blocks::give_back(block, pipe::some_have_grown());
}

/// As `ps_read`, but an ArrayBuffer of exactly what was read instead of a positive number.
#[napi_derive::napi(js_name = "ps_take")]
pub fn node_ps_take(env: &Env, id: u32, port: i32, stream: i32) -> napi::Result<Unknown<'_>> {
    let mut reader = Reader::current();
    let got = call::read(id, port, stream, reader.free());
    let value = match usize::try_from(got) {
        Ok(len) if len >= LENT_LEAST => lend(env.raw(), &mut reader, len),
        Ok(len) if len > 0 => copy(env.raw(), &reader.free()[..len]),
        _ => number(env.raw(), got),
    };
    reader.keep();
    let value = value?;
    // SAFETY: a value of this environment, made just now in this call's scope.
    Ok(unsafe { Unknown::from_raw_unchecked(env.raw(), value) })
}

fn number(env: sys::napi_env, number: i32) -> napi::Result<sys::napi_value> {
    let mut value = null_mut();
    // SAFETY: `env` is alive, as the runtime calls us with it; `value` is written on success.
    super::napi::check(unsafe { sys::napi_create_int32(env, number, &raw mut value) })?;
    Ok(value)
}

/// Hands the next `len` bytes out; where the runtime takes no foreign memory, a copy of them.
fn lend(env: sys::napi_env, reader: &mut Reader, len: usize) -> napi::Result<sys::napi_value> {
    let mut value = null_mut();
    let (data, parts) = reader.part(len);
    // SAFETY: the part is `len` bytes long and stays until `returned`; `value` is written on success.
    let status = unsafe {
        sys::napi_create_external_arraybuffer(env, data, len, Some(returned), parts.cast(), &raw mut value)
    };
    if status == sys::Status::napi_ok {
        have_lent_counted(env);
        return Ok(value);
    }
    // SAFETY: not handed out, so it is still ours alone.
    let value = copy(env, unsafe { std::slice::from_raw_parts(data.cast(), len) });
    // SAFETY: for the part that nobody has got.
    unsafe { release(parts) };
    value
}

/// V8 asks itself how much its youngest buffers hold only when it allocates the
/// memory of one. So it is made to: what was lent and dropped comes back after
/// some 64 MiB, and not after hundreds (docs/decisions/0011).
fn have_lent_counted(env: sys::napi_env) {
    let (mut data, mut value) = (null_mut(), null_mut());
    // SAFETY: `data` and `value` are written on success. Without it the chunk is as good, and comes back later.
    unsafe { sys::napi_create_arraybuffer(env, 8, &raw mut data, &raw mut value) };
}

fn copy(env: sys::napi_env, bytes: &[u8]) -> napi::Result<sys::napi_value> {
    let (mut data, mut value) = (null_mut(), null_mut());
    // SAFETY: `data` and `value` are written on success.
    super::napi::check(unsafe {
        sys::napi_create_arraybuffer(env, bytes.len(), &raw mut data, &raw mut value)
    })?;
    // SAFETY: a buffer of this length that nobody else has seen yet.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), data.cast::<u8>(), bytes.len()) };
    Ok(value)
}

/// Its ArrayBuffer is gone. On any thread of the runtime's.
unsafe extern "C" fn returned(_: sys::napi_env, _: *mut c_void, parts: *mut c_void) {
    // SAFETY: for the part that was handed out with it; a finalizer runs once.
    unsafe { release(parts.cast()) };
}
