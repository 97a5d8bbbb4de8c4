// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! A question of TypeScript's, against the law of tests/wire/record.rs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proton_stream::kernel::wire::Lookup;

#[path = "../../tests/wire/record.rs"]
mod record;

fuzz_target!(|bytes: &[u8]| {
    _ = record::lawful::<Lookup>(bytes);
});
