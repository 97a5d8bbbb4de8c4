// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Records at random, the same in every run.

use crate::random::Random;
use crate::record::Record;
use proton_stream::kernel::wire::plan::{Check, Plan, Setting, Side, Version, Where, Write};
use proton_stream::kernel::wire::{
    Attributes, Cause, Done, Figure, FromGuardian, FromKeeper, Groups, Held, Lack, Launch, Lookup, Placed,
    Reason, Rlimit, Scheduler, Scope, Size, Source, Spec, Stage, Stdio, Survivor, ToGuardian, ToKeeper, Wait,
    Who,
};

impl Random {
    /// A time limit; the largest number means that there is none.
    fn limit(&mut self) -> Option<u32> {
        Some(self.u32()).filter(|&ms| ms != u32::MAX)
    }

    /// What a C string can hold.
    fn text(&mut self, most: usize) -> Vec<u8> {
        let mut text = self.bytes(most);
        text.retain(|&b| b != 0);
        text
    }

    /// What can name a variable.
    fn name(&mut self) -> Vec<u8> {
        let mut name = self.text(9);
        name.retain(|&b| b != b'=');
        name.push(b'N');
        name
    }
}

/// Every number that means something to `from_number`.
pub fn all<T, E>(from_number: fn(u32) -> Result<T, E>) -> Vec<T> {
    (0..).map_while(|n| from_number(n).ok()).collect()
}

/// A kind of record that can be made up.
pub trait Any: Record {
    fn any(random: &mut Random) -> Self;
}

impl Any for ToGuardian {
    fn any(random: &mut Random) -> Self {
        match random.below(2) {
            0 => ToGuardian::Keep { id: random.u32() },
            _ => ToGuardian::End { id: random.u32() },
        }
    }
}

impl Any for FromGuardian {
    fn any(random: &mut Random) -> Self {
        match random.below(3) {
            0 => FromGuardian::Hello { abi: random.u32(), base: random.text(9) },
            1 => FromGuardian::Refused { id: random.u32(), errno: random.i32() },
            _ => FromGuardian::Swept {
                id: random.u32(),
                killed: random.u32(),
                survivors: random.list(4, survivor),
            },
        }
    }
}

impl Any for ToKeeper {
    fn any(random: &mut Random) -> Self {
        match random.below(5) {
            0 => ToKeeper::Signal { signal: random.i32(), scope: random.of(&all(Scope::from_number)) },
            1 => ToKeeper::Close {
                cause: random.of(&all(Cause::from_number)),
                grace_ms: random.u32(),
                deadline_ms: random.u32(),
            },
            2 => ToKeeper::Prepare { cgroup: random.one_in(2) },
            3 => ToKeeper::Freeze { on: random.one_in(2) },
            _ => ToKeeper::Eof,
        }
    }
}

impl Any for FromKeeper {
    fn any(random: &mut Random) -> Self {
        match random.below(7) {
            0 => FromKeeper::Started {
                pid: random.i32(),
                own_group: random.one_in(2),
                lack: (random.of(&all(Lack::from_number)), random.i32()),
                held: Held { kill: version(random), limits: version(random) },
            },
            5 => FromKeeper::Placed { leaves: random.list(3, placed) },
            6 => FromKeeper::About { at: random.u32(), subject: random.bytes(20) },
            1 => FromKeeper::Failed { stage: random.of(&all(Stage::from_number)), errno: random.i32() },
            2 => FromKeeper::Exited { wait: wait(random) },
            3 => FromKeeper::Signalled { errno: random.i32() },
            _ => FromKeeper::Done(done(random)),
        }
    }
}

fn wait(random: &mut Random) -> Wait {
    match random.below(3) {
        0 => Wait::Code(random.i32()),
        1 => Wait::Signal(random.i32()),
        _ => Wait::Lost,
    }
}

fn done(random: &mut Random) -> Done {
    Done {
        wait: wait(random),
        cause: random.of(&all(Cause::from_number)),
        killed: random.u32(),
        wall_us: random.u64(),
        user_us: random.u64(),
        system_us: random.u64(),
        max_rss_bytes: random.u64(),
        again: random.u32() % 2 == 1,
        survivors: random.list(4, survivor),
        figures: random.list(3, figure),
    }
}

fn version(random: &mut Random) -> Version {
    random.of(&all(Version::from_number))
}

fn figure(random: &mut Random) -> Figure {
    Figure { version: version(random), file: random.bytes(9), text: random.bytes(20) }
}

fn placed(random: &mut Random) -> Placed {
    Placed { version: version(random), freezer: random.one_in(2), path: word(random) }
}

/// A text in UTF-8.
fn word(random: &mut Random) -> String {
    random.text(9).into_iter().map(|byte| char::from(byte % 127 + 1)).collect()
}

fn side(random: &mut Random) -> Option<Side> {
    let write = |random: &mut Random| Write {
        file: word(random),
        value: word(random),
        check: random.of(&all(Check::from_number)),
    };
    random.one_in(2).then(|| Side { controller: word(random), writes: random.list(3, write) })
}

fn plan(random: &mut Random) -> Option<Plan> {
    let setting =
        |random: &mut Random| Setting { optional: random.one_in(2), v2: side(random), v1: side(random) };
    random.one_in(2).then(|| Plan {
        place: random.of(&all(Where::from_number)),
        path: word(random),
        end_on_oom: random.one_in(2),
        move_self: random.one_in(2),
        require_kill: version(random),
        require_limits: version(random),
        settings: random.list(3, setting),
        figures: random.list(3, word),
    })
}

pub fn survivor(random: &mut Random) -> Survivor {
    Survivor {
        pid: random.i32(),
        reason: random.of(&all(Reason::from_number)),
        tracer: random.i32(),
        comm: [0; 16].map(|_: u8| random.u64() as u8),
    }
}

impl Any for Launch {
    fn any(random: &mut Random) -> Self {
        Launch {
            path: random.bytes(20),
            argv: random.list(4, |random| random.bytes(9)),
            env: random.list(4, |random| random.bytes(9)),
            grace_ms: random.u32(),
            flush_ms: random.u32(),
            timeout_ms: random.limit(),
            kill_on_owner_death: random.one_in(2),
            close_scope: random.of(&all(Scope::from_number)),
            output_piped: random.one_in(2),
            cgroup: random.one_in(2),
            plan: plan(random).map(Box::new),
            join_group: Some(random.i32()).filter(|&group| group != 0),
            umask: random.u32(),
            rlimits: random.list(3, |random| (random.u64(), random.u64())),
            nice: random.i32(),
            scheduler: Scheduler { policy: random.i32(), priority: random.i32() },
            ioprio: random.i32(),
            oom_score_adj: random.i32(),
            affinity: random.bytes(9),
            asked: asked(random),
        }
    }
}

impl Any for Spec {
    fn any(random: &mut Random) -> Self {
        let viewed = random.one_in(2);
        Spec {
            clear_env: random.one_in(2),
            kill_on_owner_death: random.one_in(2),
            no_cgroup: random.one_in(2),
            close_scope: random.of(&all(Scope::from_number)),
            grace_ms: random.u32(),
            flush_ms: random.u32(),
            timeout_ms: random.limit(),
            stdio: [false, false, true].map(|stderr| stdio(random, stderr)),
            command: random.text(20),
            arg0: random.text(9),
            cwd: random.text(9),
            args: random.list(4, |random| random.text(9)),
            env: random.list(4, |random| {
                (random.name(), if random.one_in(3) { None } else { Some(random.text(9)) })
            }),
            view: viewed.then(|| random.list(4, |random| (random.name(), random.text(9)))),
            asked: asked(random),
            plan: plan(random),
        }
    }
}

impl Any for Lookup {
    fn any(random: &mut Random) -> Self {
        Lookup { user: who(random), group: who(random), groups: random.list(4, |random| random.text(9)) }
    }
}

fn who(random: &mut Random) -> Who {
    match random.below(3) {
        0 => Who::Nobody,
        1 => Who::Name(random.name()),
        _ => Who::Number(random.u32()),
    }
}

fn stdio(random: &mut Random, stderr: bool) -> Stdio {
    match random.below(if stderr { 5 } else { 4 }) {
        0 => Stdio::Piped,
        1 => Stdio::Inherit,
        2 => Stdio::Null,
        3 => Stdio::Descriptor(random.u32() >> 1),
        _ => Stdio::Stdout,
    }
}

/// Something at least, where there is anything.
fn asked(random: &mut Random) -> Option<Box<Attributes>> {
    let all = Attributes {
        no_new_privs: random.one_in(2),
        umask: some(random, |random| random.u32() % 0o1000),
        nice: some(random, Random::i32),
        oom_score_adj: some(random, Random::i32),
        bounding: some(random, Random::u64),
        ambient: some(random, Random::u64),
        uid: some(random, id),
        gid: some(random, id),
        groups: some(random, |random| Groups { implied: random.one_in(2), ids: random.list(4, id) }),
        rlimits: numbers(random, 0..16).into_iter().map(|number| rlimit(random, number)).collect(),
        fds: numbers(random, 3..9).into_iter().map(|number| (number, source(random))).collect(),
        terminal: some(random, |random| Size { columns: random.u64() as u16, rows: random.u64() as u16 }),
    };
    Some(all).filter(|all| random.one_in(2) && *all != Attributes::default()).map(Box::new)
}

/// A few of them, in their order.
fn numbers(random: &mut Random, of: std::ops::Range<u32>) -> Vec<u32> {
    of.filter(|_| random.one_in(8)).collect()
}

fn some<T>(random: &mut Random, make: impl FnOnce(&mut Random) -> T) -> Option<T> {
    random.one_in(4).then(|| make(random))
}

fn id(random: &mut Random) -> u32 {
    random.u32() >> 1
}

fn rlimit(random: &mut Random, number: u32) -> Rlimit {
    let (soft, hard) = (random.u64(), random.u64());
    match random.below(3) {
        0 => Rlimit { number, soft: Some(soft), hard: None },
        1 => Rlimit { number, soft: None, hard: Some(hard) },
        _ => Rlimit { number, soft: Some(soft), hard: Some(hard) },
    }
}

fn source(random: &mut Random) -> Source {
    if random.one_in(2) {
        Source::Piped
    } else {
        Source::Descriptor(random.u32() >> 1)
    }
}
