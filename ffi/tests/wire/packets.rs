// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! A launch record in packets that somebody else has cut: the laws of the
//! assembler. Used by tests/seeds.rs and by the cargo-fuzz targets in fuzz/.

use proton_stream::kernel::wire::{Assembler, Launch, PACKET};

/// Packets whose lengths the input chooses, two bytes each; returns how many records they made.
/// What is taken for a record has the bytes that were pushed and no others.
pub fn packets(mut bytes: &[u8]) -> usize {
    let mut assembler = Assembler::default();
    let mut pushed = Vec::new();
    let mut records = 0;
    while let Some((&[low, high], rest)) = bytes.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
        let (packet, rest) = rest.split_at(length);
        bytes = rest;
        pushed.extend_from_slice(packet);
        match assembler.push(packet) {
            Err(_) => return records,
            Ok(None) => {}
            Ok(Some(launch)) => {
                let packets = Launch::packets(&launch.encode());
                assert!(packets.iter().all(|packet| packet.len() <= PACKET));
                assert_eq!(packets.concat(), pushed);
                records += 1;
            }
        }
    }
    records
}

/// A record in packets of a size that the first byte chooses is what it is as a whole;
/// returns whether it is one.
pub fn pieces(bytes: &[u8]) -> bool {
    let Some((&more, record)) = bytes.split_first() else { return false };
    let whole = Launch::decode(record);
    let mut assembler = Assembler::default();
    let framed = Launch::packets(record).concat();
    let mut pieces = framed.chunks(4 + usize::from(more)).peekable(); // the first holds the length
    while let Some(piece) = pieces.next() {
        let expected = if pieces.peek().is_some() { Ok(None) } else { whole.clone().map(Some) };
        assert_eq!(assembler.push(piece), expected);
    }
    whole.is_ok()
}
