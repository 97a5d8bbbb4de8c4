// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! What the fuzzer starts from: fuzz/seeds/ holds a few small inputs for each
//! target. They are written by this test and held to today's records by it:
//!
//!   PROTON_STREAM_SEEDS=write cargo test --test seeds

#[path = "wire/any.rs"]
mod any;
#[path = "wire/mail.rs"]
mod mail;
#[path = "ring/model.rs"]
mod model;
#[path = "wire/packets.rs"]
mod packets;
#[path = "wire/random.rs"]
mod random;
#[path = "wire/record.rs"]
mod record;

use any::Any;
use proton_stream::kernel::dbus::{Call, Writer, ERROR, RETURN, SIGNAL};
use proton_stream::kernel::wire::{FromGuardian, FromKeeper, Launch, Lookup, Spec, ToGuardian, ToKeeper};
use random::Random;
use record::lawful;
use std::collections::BTreeMap;
use std::path::Path;

const SEEDS: usize = 8;

/// Records of one kind, no two of them alike.
fn records<R: Any>(seed: u64) -> Vec<Vec<u8>> {
    let mut random = Random::new(seed);
    let mut records: Vec<Vec<u8>> = Vec::new();
    while records.len() < SEEDS {
        let bytes = R::any(&mut random).encoded();
        assert!(lawful::<R>(&bytes).is_some());
        if !records.contains(&bytes) {
            records.push(bytes);
        }
    }
    records
}

/// Launch records as [`packets::packets`] takes them: each packet behind its length.
fn cut_launches(seed: u64) -> Vec<Vec<u8>> {
    let mut random = Random::new(seed);
    let cut = |record: &Vec<u8>| {
        let framed = Launch::packets(record).concat();
        let size = 4 + random.below(framed.len());
        let input: Vec<u8> = framed
            .chunks(size)
            .flat_map(|packet| [&(packet.len() as u16).to_le_bytes()[..], packet].concat())
            .collect();
        assert_eq!(packets::packets(&input), 1);
        input
    };
    records::<Launch>(seed).iter().map(cut).collect()
}

/// Launch records as [`packets::pieces`] takes them: behind the size of a piece.
fn pieces_of_launches(seed: u64) -> Vec<Vec<u8>> {
    let mut random = Random::new(seed);
    let sized = |record: &Vec<u8>| {
        let input = [&[random.u64() as u8][..], record].concat();
        assert!(packets::pieces(&input));
        input
    };
    records::<Launch>(seed).iter().map(sized).collect()
}

/// A few messages behind one another, as a bus has them.
fn mails(seed: u64) -> Vec<Vec<u8>> {
    let mut random = Random::new(seed);
    let mut message = || {
        let mut arguments = Writer::default();
        arguments.u32(random.u32()).string("/job/1").string(random.of(&["", "a.scope"])).string("done");
        let member = random.of(&["JobRemoved", "NameAcquired", ""]);
        let call = Call { destination: ":1.7", path: "/a", interface: "org.a", member };
        let mut bytes = call.message(random.u32(), "uoss", &arguments);
        bytes[1] = random.of(&[RETURN, ERROR, SIGNAL]);
        bytes
    };
    let many = (1..=SEEDS).map(|count| (0..count.div_ceil(3)).flat_map(|_| message()).collect());
    many.inspect(|bytes: &Vec<u8>| assert!(mail::mail(bytes) > 0)).collect()
}

/// Steps for [`model::follow`].
fn steps(seed: u64) -> Vec<Vec<u8>> {
    let mut random = Random::new(seed);
    let many = (0..SEEDS).map(|_| (0..2 * (10 + random.below(60))).map(|_| random.u64() as u8).collect());
    many.inspect(|steps: &Vec<u8>| model::follow(steps)).collect()
}

/// The seeds of every target, by its name.
fn seeds() -> BTreeMap<&'static str, Vec<Vec<u8>>> {
    BTreeMap::from([
        ("from_guardian", records::<FromGuardian>(31)),
        ("from_keeper", records::<FromKeeper>(32)),
        ("launch", records::<Launch>(33)),
        ("lookup", records::<Lookup>(40)),
        ("mail", mails(41)),
        ("packets", cut_launches(34)),
        ("pieces", pieces_of_launches(35)),
        ("ring", steps(36)),
        ("spec", records::<Spec>(37)),
        ("to_guardian", records::<ToGuardian>(38)),
        ("to_keeper", records::<ToKeeper>(39)),
    ])
}

/// The files in a folder with what they hold; none where it is missing.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return BTreeMap::new() };
    let entries = entries.map(|entry| entry.expect("a listing").path());
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    entries.map(|path| (name(&path), std::fs::read(&path).expect("readable"))).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("a listing").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn write(folder: &Path, seeds: &BTreeMap<String, Vec<u8>>) {
    let _ = std::fs::remove_dir_all(folder); // absent at the first time
    std::fs::create_dir_all(folder).expect("a folder");
    for (name, bytes) in seeds {
        std::fs::write(folder.join(name), bytes).expect("a file");
    }
}

#[test]
fn each_target_is_declared_and_has_seeds_of_todays_records() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).expect("a manifest");
    let targets = seeds();
    let sources: Vec<_> = targets.keys().map(|target| format!("{target}.rs")).collect();
    assert_eq!(names(&fuzz.join("fuzz_targets")), sources);
    for (target, seeds) in targets {
        let path = format!("path = \"fuzz_targets/{target}.rs\"");
        assert!(manifest.contains(&path), "{target} is not in fuzz/Cargo.toml");
        let folder = fuzz.join("seeds").join(target);
        let wanted = seeds.into_iter().enumerate().map(|(n, bytes)| (n.to_string(), bytes)).collect();
        if std::env::var_os("PROTON_STREAM_SEEDS").is_some_and(|what| what == "write") {
            write(&folder, &wanted);
        }
        let cure = "write them anew: PROTON_STREAM_SEEDS=write cargo test --test seeds";
        assert!(files(&folder) == wanted, "the seeds of {target} are not of today's records; {cure}");
    }
}
