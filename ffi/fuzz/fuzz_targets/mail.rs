// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! What a bus sends, against the laws of tests/wire/mail.rs.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/wire/mail.rs"]
mod mail;

fuzz_target!(|bytes: &[u8]| {
    _ = mail::mail(bytes);
});
