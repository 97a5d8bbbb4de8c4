// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! What a bus may send: the laws of its reader. Used by tests/mail.rs,
//! tests/seeds.rs and by the cargo-fuzz target in fuzz/.

use proton_stream::kernel::dbus::{Malformed, Message};

/// Reads one message after the other, as the client does; returns how many there were. Each is what its own bytes
/// say, whatever is behind them, and with fewer of them more is waited for.
pub fn mail(mut bytes: &[u8]) -> usize {
    let mut messages = 0;
    while let Ok(Some((message, length))) = Message::first(bytes) {
        assert!((16..=bytes.len()).contains(&length));
        assert_eq!(Message::first(&bytes[..length]), Ok(Some((message, length))));
        assert_eq!(Message::first(&bytes[..length - 1]), Ok(None));
        let (again, _) = Message::first(bytes).expect("as before").expect("as before");
        let mut arguments = again.arguments();
        let mut read = || {
            let (_, _) = (arguments.u32()?, arguments.string()?);
            let text = arguments.string()?;
            assert!(!text.contains('\0'));
            arguments.string()
        };
        let (Ok(_) | Err(Malformed)) = read();
        messages += 1;
        bytes = &bytes[length..];
    }
    messages
}
