// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! What a keeper is told after its launch record.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proton_stream::kernel::wire::ToKeeper;

#[path = "../../tests/wire/record.rs"]
mod record;

fuzz_target!(|bytes: &[u8]| {
    _ = record::lawful::<ToKeeper>(bytes);
});
