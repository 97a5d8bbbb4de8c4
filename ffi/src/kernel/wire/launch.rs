// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! The launch record: all that a keeper needs to start a child.

use super::plan::Plan;
use super::{Attributes, Malformed, Reader, Scope, Writer, ABI, LAUNCH_MAX, PACKET};

/// Scheduling policy of the runtime, as sched_setscheduler(2) takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheduler {
    pub policy: i32,
    pub priority: i32,
}

/// Everything a keeper needs to start a child. Along with it come four fds:
/// the child's 0, 1 and 2 and its working directory (O_PATH); then those of
/// [`Attributes::fds`], in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Absolute path, executed as it is.
    pub path: Vec<u8>,
    /// argv, argv[0] first.
    pub argv: Vec<Vec<u8>>,
    /// `NAME=value`.
    pub env: Vec<Vec<u8>>,
    pub grace_ms: u32,
    pub flush_ms: u32,
    pub timeout_ms: Option<u32>,
    /// Grace 0 when the runtime is gone.
    pub kill_on_owner_death: bool,
    /// Whom the first signal of an end is for.
    pub close_scope: Scope,
    /// At least one of stdout and stderr is a pipe to the runtime.
    pub output_piped: bool,
    /// In a cgroup of its own, where one is to be had.
    pub cgroup: bool,
    pub plan: Option<Box<Plan>>,
    /// Join this process group (the runtime's, in a terminal's foreground) instead of leading one.
    pub join_group: Option<i32>,
    pub umask: u32,
    /// soft, hard; by number, RLIMIT_CPU first.
    pub rlimits: Vec<(u64, u64)>,
    pub nice: i32,
    pub scheduler: Scheduler,
    pub ioprio: i32,
    pub oom_score_adj: i32,
    /// sched_setaffinity(2)'s mask.
    pub affinity: Vec<u8>,
    /// What the fields above do not say already.
    pub asked: Option<Box<Attributes>>,
}

impl Launch {
    /// The whole record; `packets` cuts it for the socket.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.u32(ABI).blob(&self.path);
        for list in [&self.argv, &self.env] {
            w.u32(list.len() as u32);
            list.iter().for_each(|item| {
                w.blob(item);
            });
        }
        w.u32(self.grace_ms).u32(self.flush_ms).u32(self.timeout_ms.unwrap_or(u32::MAX));
        w.u32(u32::from(self.kill_on_owner_death))
            .u32(self.close_scope as u32)
            .u32(u32::from(self.output_piped))
            .u32(u32::from(self.cgroup));
        w.i32(self.join_group.unwrap_or(0)).u32(self.umask);
        w.u32(self.rlimits.len() as u32);
        self.rlimits.iter().for_each(|&(soft, hard)| {
            w.u64(soft).u64(hard);
        });
        w.i32(self.nice).i32(self.scheduler.policy).i32(self.scheduler.priority);
        w.i32(self.ioprio).i32(self.oom_score_adj).blob(&self.affinity);
        Attributes::put(self.asked.as_deref(), &mut w);
        Plan::put(self.plan.as_deref(), &mut w);
        w.done()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        if r.u32()? != ABI {
            return Err(Malformed);
        }
        let path = r.blob()?.to_vec();
        let mut list = || -> Result<Vec<Vec<u8>>, Malformed> {
            let n = r.count(4)?;
            (0..n).map(|_| r.blob().map(<[u8]>::to_vec)).collect()
        };
        let (argv, env) = (list()?, list()?);
        let (grace_ms, flush_ms, timeout) = (r.u32()?, r.u32()?, r.u32()?);
        let (kill_on_owner_death, close_scope) = (r.flag()?, Scope::from_number(r.u32()?)?);
        let (output_piped, cgroup) = (r.flag()?, r.flag()?);
        let (group, umask) = (r.i32()?, r.u32()?);
        let n = r.count(16)?;
        let rlimits = (0..n).map(|_| Ok((r.u64()?, r.u64()?))).collect::<Result<_, _>>()?;
        let nice = r.i32()?;
        let scheduler = Scheduler { policy: r.i32()?, priority: r.i32()? };
        let (ioprio, oom_score_adj, affinity) = (r.i32()?, r.i32()?, r.blob()?.to_vec());
        let asked = Attributes::take(&mut r)?;
        let plan = Plan::take(&mut r)?;
        r.end()?;
        let timeout_ms = (timeout != u32::MAX).then_some(timeout);
        let join_group = (group != 0).then_some(group);
        Ok(Launch {
            path,
            argv,
            env,
            grace_ms,
            flush_ms,
            timeout_ms,
            kill_on_owner_death,
            close_scope,
            output_piped,
            cgroup,
            plan: plan.map(Box::new),
            join_group,
            umask,
            rlimits,
            nice,
            scheduler,
            ioprio,
            oom_score_adj,
            affinity,
            asked,
        })
    }

    /// The packets of an encoded record: the first four bytes of the first say
    /// how long the whole is; the fds go with the first.
    pub fn packets(record: &[u8]) -> Vec<Vec<u8>> {
        let framed = [&(record.len() as u32).to_le_bytes(), record].concat();
        framed.chunks(PACKET).map(<[u8]>::to_vec).collect()
    }
}

/// Puts a launch record together from its packets.
#[derive(Default)]
pub struct Assembler {
    bytes: Vec<u8>,
    expected: Option<usize>,
}

impl Assembler {
    /// Takes the next packet; the record, once it is whole. An error is final.
    pub fn push(&mut self, packet: &[u8]) -> Result<Option<Launch>, Malformed> {
        if packet.is_empty() {
            return Err(Malformed); // it would bring the record no nearer, or make a whole one whole again
        }
        let mut rest = packet;
        let expected = match self.expected {
            Some(n) => n,
            None => {
                let mut r = Reader::new(packet);
                let n = r.u32()? as usize;
                if n > LAUNCH_MAX {
                    return Err(Malformed);
                }
                rest = &packet[4..];
                *self.expected.insert(n)
            }
        };
        // Compared before anything is kept.
        let missing = expected.checked_sub(self.bytes.len() + rest.len()).ok_or(Malformed)?;
        self.bytes.extend_from_slice(rest);
        if missing > 0 {
            return Ok(None);
        }
        Launch::decode(&self.bytes).map(Some)
    }
}
