// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Output as buffers of its own, in memory that is used again.
//!
//! A fresh ArrayBuffer of this size costs twice what reading into it does: its
//! pages are mapped, zeroed and unmapped each time (docs/decisions/0008). Here
//! a block is read into, lent to JavaScript as an ArrayBuffer of exactly what
//! was read, and comes back when that is collected.
#![allow(unsafe_code)]

use crate::doors::call;
use crate::runtime::blocks::{self, Block, BLOCK};
use crate::runtime::pipe;
use napi::bindgen_prelude::{Env, Unknown};
use napi::sys;
use std::ffi::c_void;
use std::ptr::null_mut;

/// Less than this is copied: a block is not to be kept busy by a line of text.
const LENT_LEAST: usize = 32 * 1024;

fn give_back(block: Block) {
    blocks::give_back(block, pipe::some_have_grown());
}

/// As `ps_read`, but an ArrayBuffer of exactly what was read instead of a positive number.
#[napi_derive::napi(js_name = "ps_take")]
pub fn node_ps_take(env: &Env, id: u32, port: i32, stream: i32) -> napi::Result<Unknown<'_>> {
    let mut block = blocks::take();
    let got = call::read(id, port, stream, &mut block[..]);
    let value = match usize::try_from(got) {
        Ok(len) if len >= LENT_LEAST => lend(env.raw(), block, len),
        Ok(len) if len > 0 => {
            let value = copy(env.raw(), &block[..len]);
            give_back(block);
            value
        }
        _ => {
            give_back(block);
            number(env.raw(), got)
        }
    }?;
    // SAFETY: a value of this environment, made just now in this call's scope.
    Ok(unsafe { Unknown::from_raw_unchecked(env.raw(), value) })
}

fn number(env: sys::napi_env, number: i32) -> napi::Result<sys::napi_value> {
    let mut value = null_mut();
    // SAFETY: `env` is alive, as the runtime calls us with it; `value` is written on success.
    super::napi::check(unsafe { sys::napi_create_int32(env, number, &raw mut value) })?;
    Ok(value)
}

/// Hands the block's first `len` bytes out; where the runtime takes no foreign memory, a copy of them.
fn lend(env: sys::napi_env, block: Block, len: usize) -> napi::Result<sys::napi_value> {
    let mut value = null_mut();
    let start = Box::into_raw(block);
    let (data, none) = (start.cast::<c_void>(), null_mut());
    // SAFETY: the block is `len` bytes long at least and stays until `returned`; `value` is written on success.
    let status = unsafe {
        sys::napi_create_external_arraybuffer(env, data, len, Some(returned), none, &raw mut value)
    };
    if status == sys::Status::napi_ok {
        have_lent_counted(env);
        return Ok(value);
    }
    // SAFETY: not handed out, so it is still ours alone.
    let block = unsafe { Box::from_raw(start) };
    let value = copy(env, &block[..len]);
    give_back(block);
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
unsafe extern "C" fn returned(_: sys::napi_env, data: *mut c_void, _: *mut c_void) {
    // SAFETY: made by `lend` from a box of this type; a finalizer runs once.
    give_back(unsafe { Box::from_raw(data.cast::<[u8; BLOCK]>()) });
}
