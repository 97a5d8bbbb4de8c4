// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Deno's door: the symbols of `Deno.dlopen`, and through `src/bin/bindings.rs`
//! their TypeScript. The names are exported symbols of the whole process, hence
//! the prefix.
#![allow(unsafe_code)]
#![allow(
    clippy::not_unsafe_ptr_arg_deref,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block
)]
// SAFETY of what deno_bindgen writes: each buffer arrives as pointer and length of a Uint8Array that JavaScript
// lends for the call; TypeScript never lends an empty one.

use crate::doors::call;
use deno_bindgen::deno_bindgen;

#[deno_bindgen]
pub fn ps_abi_version() -> u32 {
    call::abi_version()
}

#[deno_bindgen]
pub fn ps_resolve(env: u32, spec: &[u8], out: &mut [u8]) -> i32 {
    call::resolve(env, spec, out)
}

#[deno_bindgen]
pub fn ps_user(env: u32, question: &[u8]) -> i32 {
    call::user(env, question)
}

#[deno_bindgen]
pub fn ps_answer(env: u32, ticket: i32, out: &mut [u8]) -> i32 {
    call::answer(env, ticket, out)
}

#[deno_bindgen]
pub fn ps_spawn(env: u32, path: &[u8], out: &mut [u8]) -> i32 {
    call::spawn(env, path, out)
}

#[deno_bindgen]
pub fn ps_drain(env: u32, out: &mut [u8]) -> i32 {
    call::drain(env, out)
}

#[deno_bindgen]
pub fn ps_report(env: u32, port: i32, out: &mut [u8]) -> i32 {
    call::report(env, port, out)
}

#[deno_bindgen]
pub fn ps_read(env: u32, port: i32, stream: i32, out: &mut [u8]) -> i32 {
    call::read(env, port, stream, out)
}

#[deno_bindgen]
pub fn ps_write(env: u32, port: i32, stream: i32, bytes: &[u8]) -> i32 {
    call::write(env, port, stream, bytes)
}

#[deno_bindgen]
pub fn ps_arm(env: u32, port: i32, stream: i32) -> i32 {
    call::arm(env, port, stream)
}

#[deno_bindgen]
pub fn ps_shut(env: u32, port: i32, stream: i32) -> i32 {
    call::shut(env, port, stream)
}

#[deno_bindgen]
pub fn ps_resize(env: u32, port: i32, columns: u32, rows: u32) -> i32 {
    call::resize(env, port, columns, rows)
}

#[deno_bindgen]
pub fn ps_join(env: u32, port: i32, stream: i32, to: i32) -> i32 {
    call::join(env, port, stream, to)
}

#[deno_bindgen]
pub fn ps_part(env: u32, port: i32, stream: i32) -> i32 {
    call::part(env, port, stream)
}

#[deno_bindgen]
pub fn ps_signal(env: u32, port: i32, signal: i32, scope: i32) -> i32 {
    call::signal(env, port, signal, scope)
}

#[deno_bindgen]
pub fn ps_signalled(env: u32, port: i32) -> i32 {
    call::signalled(env, port)
}

#[deno_bindgen]
pub fn ps_freeze(env: u32, port: i32, on: u32) -> i32 {
    call::freeze(env, port, on)
}

#[deno_bindgen]
pub fn ps_leaves(env: u32, port: i32, out: &mut [u8]) -> i32 {
    call::leaves(env, port, out)
}

#[deno_bindgen]
pub fn ps_watch(env: u32, port: i32) -> i32 {
    call::watch(env, port)
}

#[deno_bindgen]
pub fn ps_hierarchies(out: &mut [u8]) -> i32 {
    call::hierarchies(out)
}

#[deno_bindgen]
pub fn ps_cgroup_read(path: &[u8], out: &mut [u8]) -> i32 {
    call::cgroup_read(path, out)
}

#[deno_bindgen]
pub fn ps_cgroup_write(path: &[u8], value: &[u8], check: u32) -> i32 {
    call::cgroup_write(path, value, check)
}

#[deno_bindgen]
pub fn ps_close(env: u32, port: i32, cause: u32, grace_ms: u32, deadline_ms: u32) -> i32 {
    call::close(env, port, cause, grace_ms, deadline_ms)
}

#[deno_bindgen]
pub fn ps_release(env: u32, port: i32) -> i32 {
    call::release(env, port)
}

#[deno_bindgen]
pub fn ps_offer(env: u32, port: i32, out: &mut [u8]) -> i32 {
    call::offer(env, port, out)
}

#[deno_bindgen]
pub fn ps_adopt(env: u32, port: i32, ticket: &[u8]) -> i32 {
    call::adopt(env, port, ticket)
}

#[deno_bindgen]
pub fn ps_reset(env: u32) -> i32 {
    call::reset(env)
}
