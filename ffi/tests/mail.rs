// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! What a bus sends, damaged at random.

#[path = "wire/mail.rs"]
mod mail;
#[path = "wire/random.rs"]
mod random;

use mail::mail;
use proton_stream::kernel::dbus::{Call, Writer, SIGNAL};
use random::Random;

fn signal(text: &str) -> Vec<u8> {
    let mut arguments = Writer::default();
    arguments.u32(7).string("/job/7").string(text).string("done");
    let call = Call { destination: ":1.7", path: "/a", interface: "b.c", member: text };
    let mut bytes = call.message(1, "uoss", &arguments);
    bytes[1] = SIGNAL;
    bytes
}

#[test]
fn damaged_mail_is_refused_or_read_as_it_stands() {
    let good = ["JobRemoved", "", "x", "a longer name than others"].map(signal).concat();
    assert_eq!(mail(&good), 4);
    let mut random = Random::new(51);
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            bytes[at] = random.u64() as u8;
        }
        bytes.truncate(random.below(bytes.len() + 1));
        assert!(mail(&bytes) <= 4 + bytes.len() / 16);
    }
}
