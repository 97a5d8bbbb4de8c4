// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! All decoders of what crosses the ABI or a socket, against the law of
//! tests/wire/record.rs. The first byte of the input chooses the decoder.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proton_stream::kernel::wire::{
    Assembler, FromGuardian, FromKeeper, Launch, Spec, ToGuardian, ToKeeper, PACKET,
};

#[path = "../../tests/wire/record.rs"]
mod record;
use record::lawful;

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    match kind % 8 {
        0 => drop(lawful::<Spec>(bytes)),
        1 => drop(lawful::<Launch>(bytes)),
        2 => drop(lawful::<FromKeeper>(bytes)),
        3 => _ = lawful::<ToKeeper>(bytes),
        4 => _ = lawful::<ToGuardian>(bytes),
        5 => drop(lawful::<FromGuardian>(bytes)),
        6 => packets(bytes),
        _ => pieces(bytes),
    }
});

/// Packets whose lengths the input chooses, two bytes each.
fn packets(mut bytes: &[u8]) {
    let mut assembler = Assembler::default();
    let mut pushed = Vec::new();
    while let Some((&[low, high], rest)) = bytes.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
        let (packet, rest) = rest.split_at(length);
        bytes = rest;
        pushed.extend_from_slice(packet);
        match assembler.push(packet) {
            Err(_) => return,
            Ok(None) => {}
            Ok(Some(launch)) => {
                let packets = Launch::packets(&launch.encode());
                assert!(packets.iter().all(|packet| packet.len() <= PACKET));
                assert_eq!(packets.concat(), pushed);
            }
        }
    }
}

/// A record in packets of a size that the input chooses is what it is as a whole.
fn pieces(bytes: &[u8]) {
    let Some((&more, record)) = bytes.split_first() else { return };
    let mut assembler = Assembler::default();
    let framed = Launch::packets(record).concat();
    let mut pieces = framed.chunks(4 + usize::from(more)).peekable(); // the first holds the length
    while let Some(piece) = pieces.next() {
        let got = assembler.push(piece);
        let expected = if pieces.peek().is_some() { Ok(None) } else { Launch::decode(record).map(Some) };
        assert_eq!(got, expected);
    }
}
