// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Node's and Bun's door, and the wake-up of all three runtimes.
//!
//! Waking is a thread-safe function in non-blocking mode, and a clean-up hook
//! that takes it away before the runtime does: the reactor may call at any
//! moment, also while a Worker is being terminated.
#![allow(unsafe_code)]

use crate::doors::call;
use crate::runtime::pair;
use crate::runtime::port::{lock, Wake};
use crate::runtime::reactor::reactor;
use napi::bindgen_prelude::{Env, Function, JsValue, Uint8ArraySlice, Unknown};
use napi::sys;
use napi_derive::napi;
use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::{Arc, Mutex};

#[napi(js_name = "ps_abi_version")]
pub fn node_ps_abi_version() -> u32 {
    call::abi_version()
}

#[napi(js_name = "ps_resolve")]
pub fn node_ps_resolve(env: u32, spec: Uint8ArraySlice, mut out: Uint8ArraySlice) -> i32 {
    call::resolve(env, &spec, lent(&mut out))
}

#[napi(js_name = "ps_user")]
pub fn node_ps_user(env: u32, question: Uint8ArraySlice) -> i32 {
    call::user(env, &question)
}

#[napi(js_name = "ps_answer")]
pub fn node_ps_answer(env: u32, ticket: i32, mut out: Uint8ArraySlice) -> i32 {
    call::answer(env, ticket, lent(&mut out))
}

#[napi(js_name = "ps_spawn")]
pub fn node_ps_spawn(env: u32, path: Uint8ArraySlice, mut out: Uint8ArraySlice) -> i32 {
    call::spawn(env, &path, lent(&mut out))
}

#[napi(js_name = "ps_drain")]
pub fn node_ps_drain(env: u32, mut out: Uint8ArraySlice) -> i32 {
    call::drain(env, lent(&mut out))
}

#[napi(js_name = "ps_report")]
pub fn node_ps_report(env: u32, port: i32, mut out: Uint8ArraySlice) -> i32 {
    call::report(env, port, lent(&mut out))
}

#[napi(js_name = "ps_read")]
pub fn node_ps_read(env: u32, port: i32, stream: i32, mut out: Uint8ArraySlice) -> i32 {
    call::read(env, port, stream, lent(&mut out))
}

#[napi(js_name = "ps_write")]
pub fn node_ps_write(env: u32, port: i32, stream: i32, bytes: Uint8ArraySlice) -> i32 {
    call::write(env, port, stream, &bytes)
}

#[napi(js_name = "ps_arm")]
pub fn node_ps_arm(env: u32, port: i32, stream: i32) -> i32 {
    call::arm(env, port, stream)
}

#[napi(js_name = "ps_shut")]
pub fn node_ps_shut(env: u32, port: i32, stream: i32) -> i32 {
    call::shut(env, port, stream)
}

#[napi(js_name = "ps_resize")]
pub fn node_ps_resize(env: u32, port: i32, columns: u32, rows: u32) -> i32 {
    call::resize(env, port, columns, rows)
}

#[napi(js_name = "ps_join")]
pub fn node_ps_join(env: u32, port: i32, stream: i32, to: i32) -> i32 {
    call::join(env, port, stream, to)
}

#[napi(js_name = "ps_part")]
pub fn node_ps_part(env: u32, port: i32, stream: i32) -> i32 {
    call::part(env, port, stream)
}

#[napi(js_name = "ps_signal")]
pub fn node_ps_signal(env: u32, port: i32, signal: i32, scope: i32) -> i32 {
    call::signal(env, port, signal, scope)
}

#[napi(js_name = "ps_signalled")]
pub fn node_ps_signalled(env: u32, port: i32) -> i32 {
    call::signalled(env, port)
}

#[napi(js_name = "ps_freeze")]
pub fn node_ps_freeze(env: u32, port: i32, on: u32) -> i32 {
    call::freeze(env, port, on)
}

#[napi(js_name = "ps_leaves")]
pub fn node_ps_leaves(env: u32, port: i32, mut out: Uint8ArraySlice) -> i32 {
    call::leaves(env, port, lent(&mut out))
}

#[napi(js_name = "ps_watch")]
pub fn node_ps_watch(env: u32, port: i32) -> i32 {
    call::watch(env, port)
}

#[napi(js_name = "ps_hierarchies")]
pub fn node_ps_hierarchies(mut out: Uint8ArraySlice) -> i32 {
    call::hierarchies(lent(&mut out))
}

#[napi(js_name = "ps_cgroup_read")]
pub fn node_ps_cgroup_read(path: Uint8ArraySlice, mut out: Uint8ArraySlice) -> i32 {
    call::cgroup_read(&path, lent(&mut out))
}

#[napi(js_name = "ps_cgroup_write")]
pub fn node_ps_cgroup_write(path: Uint8ArraySlice, value: Uint8ArraySlice, check: u32) -> i32 {
    call::cgroup_write(&path, &value, check)
}

#[napi(js_name = "ps_close")]
pub fn node_ps_close(env: u32, port: i32, cause: u32, grace_ms: u32, deadline_ms: u32) -> i32 {
    call::close(env, port, cause, grace_ms, deadline_ms)
}

#[napi(js_name = "ps_release")]
pub fn node_ps_release(env: u32, port: i32) -> i32 {
    call::release(env, port)
}

#[napi(js_name = "ps_offer")]
pub fn node_ps_offer(env: u32, port: i32, mut out: Uint8ArraySlice) -> i32 {
    call::offer(env, port, lent(&mut out))
}

#[napi(js_name = "ps_adopt")]
pub fn node_ps_adopt(env: u32, port: i32, ticket: Uint8ArraySlice) -> i32 {
    call::adopt(env, port, &ticket)
}

#[napi(js_name = "ps_reset")]
pub fn node_ps_reset(env: u32) -> i32 {
    call::reset(env)
}

/// What JavaScript lends for the call.
fn lent<'a>(slice: &'a mut Uint8ArraySlice<'_>) -> &'a mut [u8] {
    // SAFETY: JavaScript waits in this call, so nothing else touches the bytes.
    unsafe { slice.as_mut() }
}

/// A thread-safe function until its environment ends.
struct Line(Mutex<Option<Callable>>);

#[derive(Clone, Copy)]
struct Callable(sys::napi_threadsafe_function);

// SAFETY: a thread-safe function may be called from any thread; that is what it is for.
unsafe impl Send for Callable {}

impl Wake for Arc<Line> {
    fn wake(&self) {
        // Held during the call: the clean-up hook waits, so the function cannot be freed under it.
        let line = lock(&self.0);
        if let Some(function) = *line {
            let mode = sys::ThreadsafeFunctionCallMode::nonblocking;
            // SAFETY: alive, as the hook has not taken it. A full or closing queue needs no second try: it
            // will be drained, or nobody is left to drain it.
            unsafe { sys::napi_call_threadsafe_function(function.0, null_mut(), mode) };
        }
    }
}

/// The lines of all isolates, by their numbers.
static LINES: Mutex<Option<HashMap<u32, Arc<Line>>>> = Mutex::new(None);

struct Isolate {
    id: u32,
    line: Arc<Line>,
}

/// Opens this isolate: `wake` is called on its thread, coalesced, until it drains. It does not keep the event
/// loop alive until `ps_env_ref` says so. Returns the isolate's number.
#[napi(js_name = "ps_env_open")]
pub fn node_ps_env_open(env: Env, wake: Function<'_, (), Unknown<'_>>) -> napi::Result<u32> {
    pair::open_library();
    let function = threadsafe(env.raw(), wake.raw())?;
    let line = Arc::new(Line(Mutex::new(Some(Callable(function)))));
    let reactor = reactor().map_err(|errno| napi::Error::from_reason(errno.to_string()))?;
    let id = reactor.open_env(Box::new(line.clone()));
    lock(&LINES).get_or_insert_default().insert(id, line.clone());
    let isolate = Box::into_raw(Box::new(Isolate { id, line }));
    // After the function, so that it runs before the runtime frees that (last in, first out).
    // SAFETY: `ended` takes the box back, once.
    check(unsafe { sys::napi_add_env_cleanup_hook(env.raw(), Some(ended), isolate.cast()) })?;
    Ok(id)
}

pub fn check(status: sys::napi_status) -> napi::Result<()> {
    if status == sys::Status::napi_ok {
        Ok(())
    } else {
        Err(napi::Error::from_status(status.into()))
    }
}

fn threadsafe(env: sys::napi_env, wake: sys::napi_value) -> napi::Result<sys::napi_threadsafe_function> {
    let mut name = null_mut();
    let text = c"proton-stream";
    // SAFETY: a C string of static life; `name` is written on success.
    check(unsafe { sys::napi_create_string_utf8(env, text.as_ptr(), 13, &raw mut name) })?;
    let mut function = null_mut();
    // SAFETY: `wake` is a function of this environment; no context, no finalizer, an unbounded queue that the
    // coalescing flag keeps at one entry.
    check(unsafe {
        sys::napi_create_threadsafe_function(
            env,
            wake,
            null_mut(),
            name,
            0,
            1,
            null_mut(),
            None,
            null_mut(),
            Some(called),
            &raw mut function,
        )
    })?;
    // SAFETY: made just now, on this thread.
    check(unsafe { sys::napi_unref_threadsafe_function(env, function) })?;
    Ok(function)
}

/// On the isolate's thread.
unsafe extern "C" fn called(env: sys::napi_env, wake: sys::napi_value, _: *mut c_void, _: *mut c_void) {
    if env.is_null() || wake.is_null() {
        return; // the environment is ending
    }
    let mut this = null_mut();
    // SAFETY: `env` is alive, as the runtime calls us with it.
    unsafe { sys::napi_get_undefined(env, &raw mut this) };
    // SAFETY: as above; the result is not wanted.
    unsafe { sys::napi_call_function(env, this, wake, 0, std::ptr::null(), null_mut()) };
    let mut pending = false;
    // SAFETY: as above.
    unsafe { sys::napi_is_exception_pending(env, &raw mut pending) };
    if pending {
        let mut error = null_mut();
        // In Deno one left pending would stop every later call. (isolate.ts catches and rethrows its own.)
        // SAFETY: as above.
        unsafe { sys::napi_get_and_clear_last_exception(env, &raw mut error) };
    }
}

/// The environment ends: no wake-up any more, and its ports end as by their owner.
unsafe extern "C" fn ended(isolate: *mut c_void) {
    // SAFETY: made by `ps_env_open`; a hook runs once.
    let isolate = unsafe { Box::from_raw(isolate.cast::<Isolate>()) };
    *lock(&isolate.line.0) = None;
    if let Some(lines) = lock(&LINES).as_mut() {
        lines.remove(&isolate.id);
    }
    if let Ok(reactor) = reactor() {
        reactor.close_env(isolate.id);
    }
}

/// 1 keeps this isolate's event loop alive, 0 lets it end.
#[napi(js_name = "ps_env_ref")]
pub fn node_ps_env_ref(env: Env, id: u32, on: u32) -> i32 {
    if reactor().and_then(|reactor| reactor.env(id)).is_err() {
        return -libc::EBADF;
    }
    let line = lock(&LINES).as_ref().and_then(|lines| lines.get(&id).cloned());
    let Some(function) = line.and_then(|line| *lock(&line.0)) else { return -libc::EBADF };
    let status = if on == 1 {
        // SAFETY: alive, and on its isolate's thread: the reactor knows whose number it is.
        unsafe { sys::napi_ref_threadsafe_function(env.raw(), function.0) }
    } else {
        // SAFETY: as above.
        unsafe { sys::napi_unref_threadsafe_function(env.raw(), function.0) }
    };
    if status == sys::Status::napi_ok {
        0
    } else {
        -libc::EINVAL
    }
}
