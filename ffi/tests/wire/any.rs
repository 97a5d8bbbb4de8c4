// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Records at random, the same in every run.

use crate::random::Random;
use crate::record::Record;
use proton_stream::kernel::wire::{
    Cause, Done, FromGuardian, FromKeeper, Lack, Launch, Reason, Scheduler, Scope, Spec, Stage, Stdio,
    Survivor, ToGuardian, ToKeeper, Wait,
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
        match random.below(4) {
            0 => ToKeeper::Signal { signal: random.i32(), scope: random.of(&all(Scope::from_number)) },
            1 => ToKeeper::Close {
                cause: random.of(&all(Cause::from_number)),
                grace_ms: random.u32(),
                deadline_ms: random.u32(),
            },
            2 => ToKeeper::Prepare { cgroup: random.one_in(2) },
            _ => ToKeeper::Eof,
        }
    }
}

impl Any for FromKeeper {
    fn any(random: &mut Random) -> Self {
        match random.below(5) {
            0 => FromKeeper::Started {
                pid: random.i32(),
                own_group: random.one_in(2),
                lack: (random.of(&all(Lack::from_number)), random.i32()),
            },
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
    }
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
            output_piped: random.one_in(2),
            cgroup: random.one_in(2),
            join_group: Some(random.i32()).filter(|&group| group != 0),
            umask: random.u32(),
            rlimits: random.list(3, |random| (random.u64(), random.u64())),
            nice: random.i32(),
            scheduler: Scheduler { policy: random.i32(), priority: random.i32() },
            ioprio: random.i32(),
            oom_score_adj: random.i32(),
            affinity: random.bytes(9),
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
            grace_ms: random.u32(),
            flush_ms: random.u32(),
            timeout_ms: random.limit(),
            stdio: [0; 3].map(|_| random.of(&[Stdio::Piped, Stdio::Inherit, Stdio::Null])),
            command: random.text(20),
            arg0: random.text(9),
            cwd: random.text(9),
            args: random.list(4, |random| random.text(9)),
            env: random.list(4, |random| {
                (random.name(), if random.one_in(3) { None } else { Some(random.text(9)) })
            }),
            view: viewed.then(|| random.list(4, |random| (random.name(), random.text(9)))),
        }
    }
}
