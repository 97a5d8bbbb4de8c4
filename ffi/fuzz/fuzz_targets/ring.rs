// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! An isolate's event ring beside its model, two bytes a step.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/ring/model.rs"]
mod model;

fuzz_target!(|bytes: &[u8]| model::follow(bytes));
