// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! What a guardian is asked for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proton_stream::kernel::wire::ToGuardian;

#[path = "../../tests/wire/record.rs"]
mod record;

fuzz_target!(|bytes: &[u8]| {
    _ = record::lawful::<ToGuardian>(bytes);
});
