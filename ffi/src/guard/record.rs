// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Where a keeper receives its launch record: static, so that it has only those
//! of its pages that a record needs, and gives them back when its child lives on.

use crate::kernel::sys::helper;
use crate::kernel::wire::PACKET;
use std::sync::{Mutex, MutexGuard, PoisonError};

static RECORD: Mutex<[u8; PACKET]> = Mutex::new([0; PACKET]);

pub fn buffer() -> MutexGuard<'static, [u8; PACKET]> {
    RECORD.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn give_memory_back() {
    helper::forget(&mut buffer()[..]);
}
