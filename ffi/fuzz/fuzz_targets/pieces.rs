// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! A launch record in packets of one size, beside the same as a whole.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/wire/packets.rs"]
#[allow(dead_code, reason = "each target uses one of its two laws")]
mod packets;

fuzz_target!(|bytes: &[u8]| {
    _ = packets::pieces(bytes);
});
