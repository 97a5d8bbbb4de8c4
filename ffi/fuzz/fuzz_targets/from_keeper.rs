// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! What a keeper tells its runtime.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proton_stream::kernel::wire::FromKeeper;

#[path = "../../tests/wire/record.rs"]
mod record;

fuzz_target!(|bytes: &[u8]| {
    _ = record::lawful::<FromKeeper>(bytes);
});
