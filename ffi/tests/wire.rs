// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! A deterministic slice of fuzzing, short enough for every test run: all
//! decoders of what crosses the ABI or a socket, fed with records, damaged
//! records and noise. fuzz/ holds the same law against a real fuzzer.

#[path = "wire/any.rs"]
mod any;
#[path = "wire/random.rs"]
mod random;
#[path = "wire/record.rs"]
mod record;

use any::Any;
use proton_stream::kernel::socket;
use proton_stream::kernel::wire::plan::{Check, Version, Where};
use proton_stream::kernel::wire::{
    Assembler, Cause, Done, FromGuardian, FromKeeper, Lack, Launch, Lookup, Malformed, Reason, Scope, Spec,
    Stage, ToGuardian, ToKeeper, Wait, LAUNCH_MAX, PACKET, SURVIVORS_MAX,
};
use random::{Random, EDGES};
use record::{lawful, Record};

/// How many damaged records were refused, and how many happened to mean something else.
#[derive(Default)]
struct Tally {
    refused: usize,
    taken: usize,
}

impl Tally {
    /// Holds the law over `bytes`, and bounds the memory that reading them takes.
    fn judge<R: Record>(&mut self, bytes: &[u8]) {
        let mut taken = false;
        let memory = allocation_counter::measure(|| taken = lawful::<R>(bytes).is_some());
        // An empty string takes 4 bytes of a record and 24 of memory, and a growing list is copied while it doubles.
        let most = 1024 + 32 * bytes.len() as u64;
        assert!(memory.bytes_max <= most, "{} bytes to read {bytes:?}", memory.bytes_max);
        self.taken += usize::from(taken);
        self.refused += usize::from(!taken);
    }

    /// Both ways were gone: otherwise the damage was not the kind that tells anything.
    fn assert_told(&self) {
        assert!(self.refused > 100, "only {} records were refused", self.refused);
        assert!(self.taken > 100, "only {} records were taken", self.taken);
    }
}

/// Every record comes back as it was written.
fn round_trips<R: Any>(seed: u64) {
    let mut random = Random::new(seed);
    for _ in 0..500 {
        let record = R::any(&mut random);
        assert_eq!(R::decoded(&record.encoded()), Ok(record));
    }
}

/// A record that was cut anywhere, or that goes on, is no record.
fn nothing_less_nothing_more<R: Any>(seed: u64) {
    let mut random = Random::new(seed);
    for _ in 0..50 {
        let mut bytes = R::any(&mut random).encoded();
        for length in 0..bytes.len() {
            assert_eq!(R::decoded(&bytes[..length]), Err(Malformed), "cut to {length}: {bytes:?}");
        }
        bytes.push(0);
        assert_eq!(R::decoded(&bytes), Err(Malformed), "with a byte more: {bytes:?}");
    }
}

/// Every byte of a record, each of its other values in turn. Returns how many bytes there were.
fn every_byte<R: Any>(tally: &mut Tally, random: &mut Random) -> usize {
    let mut bytes = R::any(random).encoded();
    for at in 0..bytes.len() {
        let was = bytes[at];
        for change in 1..=u8::MAX {
            bytes[at] = was ^ change;
            tally.judge::<R>(&bytes);
        }
        bytes[at] = was;
    }
    bytes.len()
}

/// Numbers where every number could be, counts and lengths among them.
fn every_number<R: Any>(tally: &mut Tally, random: &mut Random) {
    let bytes = R::any(random).encoded();
    for at in 0..bytes.len().saturating_sub(3) {
        for number in EDGES {
            let mut bytes = bytes.clone();
            bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
            tally.judge::<R>(&bytes);
        }
    }
}

/// The beginning of one record and the end of another.
fn spliced<R: Any>(tally: &mut Tally, random: &mut Random) {
    let (one, other) = (R::any(random).encoded(), R::any(random).encoded());
    let (head, tail) = (random.below(one.len() + 1), random.below(other.len() + 1));
    tally.judge::<R>(&[&one[..head], &other[tail..]].concat());
}

/// Noise, and noise behind the beginning of a record.
fn noisy<R: Any>(tally: &mut Tally, random: &mut Random) {
    let record = R::any(random).encoded();
    let kept = random.below(record.len() + 1);
    for noise in [random.noise(200), random.bytes(200)] {
        tally.judge::<R>(&noise);
        tally.judge::<R>(&[&record[..kept], &noise].concat());
    }
}

fn damaged<R: Any>(seed: u64) {
    let (mut tally, mut random) = (Tally::default(), Random::new(seed));
    // By bytes and not by records: the small kinds have several forms, and each is to have its turn.
    let mut bytes = 0;
    while bytes < 200 {
        bytes += every_byte::<R>(&mut tally, &mut random);
    }
    for _ in 0..12 {
        every_number::<R>(&mut tally, &mut random);
    }
    for _ in 0..300 {
        spliced::<R>(&mut tally, &mut random);
        noisy::<R>(&mut tally, &mut random);
    }
    tally.assert_told();
}

/// The three tests that every kind of record takes.
macro_rules! tests {
    ($($name:ident: $t:ident, $seed:literal;)+) => {$(
        mod $name {
            use super::*;

            #[test]
            fn comes_back_as_it_was_written() {
                round_trips::<$t>($seed);
            }

            #[test]
            fn cut_or_too_long_is_refused() {
                nothing_less_nothing_more::<$t>($seed);
            }

            #[test]
            fn damaged_is_refused_or_read_as_it_stands() {
                damaged::<$t>($seed);
            }
        }
    )+};
}
tests! {
    to_guardian: ToGuardian, 1;
    from_guardian: FromGuardian, 2;
    to_keeper: ToKeeper, 3;
    from_keeper: FromKeeper, 4;
    launch: Launch, 5;
    spec: Spec, 6;
    lookup: Lookup, 15;
}

#[test]
fn numbers_of_the_abi_mean_what_they_did_and_others_nothing() {
    fn check<T: Copy>(count: u32, from_number: fn(u32) -> Result<T, Malformed>, number: fn(T) -> u32) {
        for n in (0..1_000).chain(EDGES) {
            let expected = if n < count { Ok(n) } else { Err(Malformed) };
            assert_eq!(from_number(n).map(number), expected);
        }
    }
    check(34, Stage::from_number, |stage| stage as u32);
    check(8, Cause::from_number, |cause| cause as u32);
    check(9, Lack::from_number, |lack| lack as u32);
    check(3, Scope::from_number, |scope| scope as u32);
    check(3, Reason::from_number, |reason| reason as u32);
    check(5, Check::from_number, |check| check as u32);
    check(3, Where::from_number, |place| place as u32);
    check(3, Version::from_number, |version| version as u32);
}

#[test]
fn of_very_many_survivors_the_first_are_named() {
    let mut random = Random::new(7);
    let survivors: Vec<_> = (0..SURVIVORS_MAX + 9).map(|_| any::survivor(&mut random)).collect();
    let done = |survivors| {
        let (wait, cause, killed) = (Wait::Lost, Cause::Exit, 0);
        let (wall_us, user_us, system_us, max_rss_bytes) = (0, 0, 0, 0);
        let again = false;
        FromKeeper::Done(Done {
            wait,
            cause,
            killed,
            wall_us,
            user_us,
            system_us,
            max_rss_bytes,
            again,
            survivors,
            figures: Vec::new(),
        })
    };
    let named = done(survivors[..SURVIVORS_MAX].to_vec());
    let bytes = named.encode();
    assert_eq!(FromKeeper::decode(&done(survivors).encode()), Ok(named));
    assert_eq!(FromKeeper::decode(&with_one_more(bytes)), Err(Malformed));
}

/// The same record with one survivor more, which nothing of ours would write.
fn with_one_more(mut bytes: Vec<u8>) -> Vec<u8> {
    const SURVIVOR: usize = 28;
    const FIGURES: usize = 4; // behind them: none
    let end = bytes.len() - FIGURES;
    let count = end - SURVIVORS_MAX * SURVIVOR - 4;
    bytes[count..count + 4].copy_from_slice(&(SURVIVORS_MAX as u32 + 1).to_le_bytes());
    let one_more = bytes[end - SURVIVOR..end].to_vec();
    bytes.splice(end..end, one_more);
    bytes
}

#[test]
fn what_no_c_string_can_hold_and_what_names_no_variable_is_refused() {
    let spec = || Spec { view: Some(Vec::new()), ..Spec::any(&mut Random::new(14)) };
    let refused = |spec: Spec| assert_eq!(Spec::decode(&spec.encoded()), Err(Malformed), "{spec:?}");
    let text = || b"a\0b".to_vec();
    refused(Spec { command: text(), ..spec() });
    refused(Spec { arg0: text(), ..spec() });
    refused(Spec { cwd: text(), ..spec() });
    refused(Spec { args: vec![text()], ..spec() });
    refused(Spec { env: vec![(b"N".to_vec(), Some(text()))], ..spec() });
    refused(Spec { view: Some(vec![(b"N".to_vec(), text())]), ..spec() });
    for name in [&b""[..], b"=", b"A=B", b"A\0"] {
        refused(Spec { env: vec![(name.to_vec(), None)], ..spec() });
        refused(Spec { view: Some(vec![(name.to_vec(), Vec::new())]), ..spec() });
    }
}

// Launch records in their packets

/// A launch record of `packets` packets, all of them full where `full` is set.
fn long(random: &mut Random, packets: usize, full: bool) -> Launch {
    let mut launch = Launch::any(random);
    launch.path.clear();
    let other = launch.encode().len() + 4;
    let last = if full { PACKET } else { PACKET / 3 };
    launch.path = vec![b'p'; (packets - 1) * PACKET + last - other];
    launch
}

/// What an assembler makes of `packets`, up to the first that it refuses.
fn assembled(packets: &[Vec<u8>]) -> Result<Option<Launch>, Malformed> {
    let mut assembler = Assembler::default();
    let mut whole = None;
    for (i, packet) in packets.iter().enumerate() {
        assert_eq!(whole, None, "whole before packet {i}");
        whole = assembler.push(packet)?;
        if let Some(launch) = &whole {
            assert_eq!(Launch::packets(&launch.encode()).concat(), packets[..=i].concat());
        }
    }
    Ok(whole)
}

#[test]
fn packets_make_the_record_with_the_last_and_not_before() {
    let mut random = Random::new(8);
    for (count, full) in [(1, false), (1, true), (2, false), (3, true), (5, false)] {
        let launch = long(&mut random, count, full);
        let packets = Launch::packets(&launch.encode());
        assert_eq!(packets.len(), count);
        assert!(packets.iter().all(|packet| packet.len() <= PACKET));
        for fewer in 0..count {
            assert_eq!(assembled(&packets[..fewer]), Ok(None));
        }
        assert_eq!(assembled(&packets), Ok(Some(launch)));
    }
}

#[test]
fn packets_that_are_doubled_are_refused() {
    let mut random = Random::new(9);
    let packets = Launch::packets(&long(&mut random, 4, false).encode());
    for i in 0..packets.len() {
        let mut doubled = packets.clone();
        doubled.insert(i, packets[i].clone());
        if i + 1 < packets.len() {
            assert_eq!(assembled(&doubled), Err(Malformed), "packet {i} twice");
        } else {
            assert_eq!(pushed(&doubled), [false, false, false, true, false], "the last one twice");
        }
    }
}

/// For each packet whether it made the record whole; what is refused does not.
fn pushed(packets: &[Vec<u8>]) -> Vec<bool> {
    let mut assembler = Assembler::default();
    packets.iter().map(|packet| matches!(assembler.push(packet), Ok(Some(_)))).collect()
}

#[test]
fn packets_in_another_order_never_make_another_record() {
    let mut random = Random::new(10);
    let launch = long(&mut random, 4, false);
    let packets = Launch::packets(&launch.encode());
    for _ in 0..100 {
        let mut shuffled = packets.clone();
        for i in (1..shuffled.len()).rev() {
            shuffled.swap(i, random.below(i + 1));
        }
        // The two in the middle are full of the same letter: to change places is no change.
        let same = shuffled == packets;
        assert_eq!(matches!(assembled(&shuffled), Ok(Some(_))), same);
    }
}

#[test]
fn packets_that_lost_bytes_leave_the_record_open() {
    let mut random = Random::new(11);
    let packets = Launch::packets(&long(&mut random, 3, false).encode());
    for i in 1..packets.len() {
        for lost in [1, 2, 1_000] {
            let mut packets = packets.clone();
            packets[i].truncate(PACKET / 3 - lost);
            assert_eq!(assembled(&packets), Ok(None), "packet {i} without its last {lost} bytes");
        }
        let mut packets = packets.clone();
        packets.remove(i);
        assert_eq!(assembled(&packets), Ok(None), "without packet {i}");
    }
}

#[test]
fn packets_that_say_less_than_a_length_or_nothing_are_refused() {
    for first in [&[][..], &[0], &[9, 0, 0]] {
        assert_eq!(Assembler::default().push(first), Err(Malformed));
    }
    let mut assembler = Assembler::default();
    assert_eq!(assembler.push(&[100, 0, 0, 0]), Ok(None));
    assert_eq!(assembler.push(&[]), Err(Malformed));
}

#[test]
fn packets_beyond_what_was_announced_are_refused_and_not_kept() {
    let too_long = (LAUNCH_MAX as u32 + 1).to_le_bytes();
    for announced in [too_long, u32::MAX.to_le_bytes()] {
        assert_eq!(Assembler::default().push(&announced), Err(Malformed));
    }
    let oversized = [&100_u32.to_le_bytes()[..], &vec![1; PACKET]].concat();
    let memory =
        allocation_counter::measure(|| assert_eq!(Assembler::default().push(&oversized), Err(Malformed)));
    assert!(memory.bytes_max < 1024, "{} bytes kept of a packet that was refused", memory.bytes_max);
}

#[test]
fn packets_may_announce_much_but_memory_is_taken_for_what_comes() {
    let mut assembler = Assembler::default();
    let announced = (LAUNCH_MAX as u32).to_le_bytes();
    let memory = allocation_counter::measure(|| assert_eq!(assembler.push(&announced), Ok(None)));
    assert!(memory.bytes_max < 1024, "{} bytes reserved for an announcement", memory.bytes_max);
}

#[test]
fn packets_of_noise_are_refused_or_wait_for_more() {
    let mut random = Random::new(12);
    for _ in 0..2_000 {
        let packets = random.list(6, |random| random.noise(100));
        let _ = assembled(&packets); // holds the law by itself
    }
}

#[test]
fn packets_cross_a_socket_in_order_and_a_larger_one_does_not_arrive() {
    let (near, far) = socket::pair().expect("a pair");
    let launch = long(&mut Random::new(13), 4, true);
    let mut assembler = Assembler::default();
    let mut buffer = vec![0; PACKET];
    let mut whole = None;
    for packet in Launch::packets(&launch.encode()) {
        socket::send(&near, &packet, &[]).expect("room");
        let got = socket::receive(&far, &mut buffer).expect("no error").expect("a packet");
        whole = assembler.push(&buffer[..got.len]).expect("in order");
    }
    assert_eq!(whole, Some(launch));
    socket::send(&near, &vec![0; PACKET + 1], &[]).expect("room");
    assert_eq!(socket::receive(&far, &mut buffer).err(), Some(rustix::io::Errno::MSGSIZE));
}
