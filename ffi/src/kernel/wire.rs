// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! The records that two processes of ours speak over a SEQPACKET socket, and
//! the record that TypeScript hands in. Decoding never panics and never
//! trusts a length: whatever is wrong is [`Malformed`]. A record has one form
//! in bytes: what decodes has been encoded so, every byte of it (tests/wire.rs).
//!
//! Little-endian; a blob is a `u32` length and that many bytes.

macro_rules! from_number {
    ($t:ident: $($v:ident),+) => {
        impl $t {
            pub fn from_number(n: u32) -> Result<Self, Malformed> {
                $(if n == $t::$v as u32 { return Ok($t::$v); })+
                Err(Malformed)
            }
        }
    };
}

mod attributes;
mod lookup;
pub mod plan;

pub use attributes::{Attributes, Groups, Rlimit, Size, Source, FDS_MAX};
pub use lookup::{Answer, Found, Lookup, Unknown, Who};
use plan::{Plan, Version};

/// The one number that both sides of every boundary must agree on.
pub const ABI: u32 = 6;

/// Largest packet that is ever sent: far under what a SEQPACKET socket takes
/// (212,960 bytes with the kernel's default `wmem_default`).
pub const PACKET: usize = 64 * 1024;

/// Largest launch record: beyond the most that execve(2) takes for arguments
/// and environment together (three quarters of the 8 MiB stack default).
pub const LAUNCH_MAX: usize = 16 * 1024 * 1024;

/// At most this many survivors are named in a report.
pub const SURVIVORS_MAX: usize = 32;

/// The bytes are not a record of the expected kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Where a start failed. The numbers are part of the ABI (docs/abi.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    Spec = 0,
    Library = 1,
    Guardian = 2,
    Keeper = 3,
    Cwd = 4,
    Program = 5,
    Stdio = 6,
    Clone = 7,
    Group = 8,
    Rlimit = 9,
    Umask = 10,
    Nice = 11,
    Affinity = 12,
    Scheduler = 13,
    Ioprio = 14,
    Chdir = 15,
    Pdeathsig = 16,
    Fds = 17,
    Signals = 18,
    Exec = 19,
    OomScoreAdj = 20,
    Cgroup = 21,
    /// A user or group was to be looked up by name.
    User = 22,
    Groups = 23,
    Gid = 24,
    Uid = 25,
    Capabilities = 26,
    NoNewPrivs = 27,
    /// Nobody of ours could end it afterwards.
    Reach = 28,
    Terminal = 29,
    /// No hierarchy has the controller, or it is not to be had where the cgroup is to stand.
    Controller = 30,
    /// A cgroup with limits could not be made.
    Leaf = 31,
    /// A file of it did not take its value.
    Limit = 32,
    /// It would be less contained than it was required to be.
    Require = 33,
}

/// What ended a tree. The numbers are part of the ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Cause {
    Exit = 0,
    Close = 1,
    Timeout = 2,
    Abort = 3,
    Owner = 4,
    Oom = 5,
    Limit = 6,
    Guardian = 7,
}

/// Whom a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Scope {
    Child = 0,
    Group = 1,
    Tree = 2,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    Code(i32),
    Signal(i32),
    Lost,
}

/// Why a process could not be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Reason {
    NotPermitted = 0,
    Uninterruptible = 1,
    Traced = 2,
}

/// Why a tree has no cgroup of its own. The numbers are part of the ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Lack {
    /// It has one.
    Nothing = 0,
    /// `containment: { kill: "tree" }`.
    Unwanted = 1,
    /// No cgroup v2 hierarchy is mounted.
    Unmounted = 2,
    /// What is mounted does not show the runtime's own cgroup.
    Outside = 3,
    /// The runtime is in the root cgroup, which systemd rules here.
    Reserved = 4,
    /// None can be made below the runtime's own.
    Make = 5,
    /// No process gets into it.
    Enter = 6,
    /// Who is in one cannot be ended by it: there is neither `cgroup.kill` nor `cgroup.freeze` (before Linux 5.2).
    Kill = 7,
    /// None can be made below the runtime's own, and the user's service manager gave no scope.
    Scope = 8,
}

from_number!(Stage: Spec, Library, Guardian, Keeper, Cwd, Program, Stdio, Clone, Group, Rlimit, Umask, Nice,
    Affinity, Scheduler, Ioprio, Chdir, Pdeathsig, Fds, Signals, Exec, OomScoreAdj, Cgroup, User, Groups, Gid, Uid,
    Capabilities, NoNewPrivs, Reach, Terminal, Controller, Leaf, Limit, Require);
from_number!(Cause: Exit, Close, Timeout, Abort, Owner, Oom, Limit, Guardian);
from_number!(Lack: Nothing, Unwanted, Unmounted, Outside, Reserved, Make, Enter, Kill, Scope);
from_number!(Scope: Child, Group, Tree);
from_number!(Reason: NotPermitted, Uninterruptible, Traced);

/// A process that is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Survivor {
    pub pid: i32,
    pub reason: Reason,
    pub tracer: i32,
    pub comm: [u8; 16],
}

/// How a tree ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    pub wait: Wait,
    pub cause: Cause,
    pub killed: u32,
    pub wall_us: u64,
    pub user_us: u64,
    pub system_us: u64,
    pub max_rss_bytes: u64,
    /// The keeper waits for the next launch record on the same socket.
    pub again: bool,
    pub survivors: Vec<Survivor>,
    /// What the files that the plan names said before its cgroups were removed.
    pub figures: Vec<Figure>,
}

/// A file of a tree's cgroup, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// Of cgroups: 1 or 2.
    pub version: Version,
    pub file: Vec<u8>,
    pub text: Vec<u8>,
}

impl Figure {
    pub fn put(&self, w: &mut Writer) {
        w.u32(self.version as u32).blob(&self.file).blob(&self.text);
    }

    fn take(r: &mut Reader) -> Result<Self, Malformed> {
        let version = Version::from_number(r.u32()?)?;
        Ok(Figure { version, file: r.blob()?.to_vec(), text: r.blob()?.to_vec() })
    }
}

/// A cgroup that a tree is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    pub version: Version,
    /// It can be frozen: the v1 hierarchy of that controller, or any of v2.
    pub freezer: bool,
    pub path: String,
}

impl Placed {
    pub fn put(&self, w: &mut Writer) {
        w.u32(self.version as u32).u32(u32::from(self.freezer)).blob(self.path.as_bytes());
    }

    fn take(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Placed { version: Version::from_number(r.u32()?)?, freezer: r.flag()?, path: r.word()? })
    }
}

/// What holds a tree by cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// By which its members can be ended as one.
    pub kill: Version,
    /// By which its limits are held.
    pub limits: Version,
}

/// What the runtime asks its guardian for. `id` names the keeper from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToGuardian {
    /// Fork a keeper for the port socket that comes along (one fd).
    Keep { id: u32 },
    /// The keeper missed its deadline: kill it, inherit its tree and sweep it.
    End { id: u32 },
}

/// What the guardian tells the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromGuardian {
    /// First message; the guardian's own pidfd comes along (one fd). `base` is the cgroup below which the
    /// keepers' stand, by number; empty where there is none.
    Hello { abi: u32, base: Vec<u8> },
    /// There is no keeper `id`: its port has not reached the guardian.
    Refused { id: u32, errno: i32 },
    /// Keeper `id` ended without an end of its own; its tree has been swept.
    Swept { id: u32, killed: u32, survivors: Vec<Survivor> },
}

/// What the runtime tells a keeper beside the launch record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToKeeper {
    /// Before it: one is being made, so what needs no word of it can be done.
    Prepare {
        cgroup: bool,
    },
    Signal {
        signal: i32,
        scope: Scope,
    },
    /// First signal to the tree, `grace_ms`, SIGKILL; done is said after
    /// `deadline_ms` at the latest.
    Close {
        cause: Cause,
        grace_ms: u32,
        deadline_ms: u32,
    },
    /// Nobody holds the write end of stdout or stderr any more.
    Eof,
    /// Stops the whole tree, or lets it go on; answered as a signal is.
    Freeze {
        on: bool,
    },
}

/// What a keeper tells the runtime.
#[derive(Debug, Clone, PartialEq)]
pub enum FromKeeper {
    Started {
        pid: i32,
        own_group: bool,
        /// Why it is in no cgroup of its own, and the error that says so, 0 where there was none.
        lack: (Lack, i32),
        held: Held,
    },
    /// Before they are made: where the tree's cgroups will be.
    Placed {
        leaves: Vec<Placed>,
    },
    /// What the failure behind it is about: the number of the setting, `u32::MAX` where it is none, and a path.
    About {
        at: u32,
        subject: Vec<u8>,
    },
    Failed {
        stage: Stage,
        errno: i32,
    },
    Exited {
        wait: Wait,
    },
    /// The answer to one `Signal`, in order.
    Signalled {
        errno: i32,
    },
    Done(Done),
}

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

/// Appends fields to a record.
#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    pub fn u32(&mut self, n: u32) -> &mut Self {
        self.0.extend_from_slice(&n.to_le_bytes());
        self
    }

    pub fn i32(&mut self, n: i32) -> &mut Self {
        self.u32(n as u32)
    }

    pub fn u64(&mut self, n: u64) -> &mut Self {
        self.0.extend_from_slice(&n.to_le_bytes());
        self
    }

    pub fn f64(&mut self, n: f64) -> &mut Self {
        self.u64(n.to_bits())
    }

    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn blob(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(bytes.len() as u32).raw(bytes)
    }

    pub fn done(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

/// Takes fields off a record; every `take` compares before it slices.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    pub fn raw(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(Malformed)?;
        self.0 = rest;
        Ok(head)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.raw(N)?.try_into().map_err(|_| Malformed)
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[b]| b)
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// 0 or 1: any other number is somebody who means more than we understand.
    pub fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    pub fn blob(&mut self) -> Result<&'a [u8], Malformed> {
        let n = self.u32()?;
        self.raw(n as usize)
    }

    /// A count of elements that take at least `each` bytes: one larger than
    /// what is left could hold is refused before anything is reserved for it.
    pub fn count(&mut self, each: usize) -> Result<usize, Malformed> {
        let n = self.u32()? as usize;
        if n.checked_mul(each).is_none_or(|bytes| bytes > self.0.len()) {
            return Err(Malformed);
        }
        Ok(n)
    }

    /// Trailing bytes are an error.
    pub fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Malformed)
        }
    }
}

impl Wait {
    fn put(self, w: &mut Writer) {
        match self {
            Wait::Code(n) => w.u32(1).i32(n),
            Wait::Signal(n) => w.u32(2).i32(n),
            Wait::Lost => w.u32(3).i32(0),
        };
    }

    fn take(r: &mut Reader) -> Result<Self, Malformed> {
        match (r.u32()?, r.i32()?) {
            (1, n) => Ok(Wait::Code(n)),
            (2, n) => Ok(Wait::Signal(n)),
            (3, 0) => Ok(Wait::Lost),
            _ => Err(Malformed),
        }
    }
}

impl Survivor {
    /// 28 bytes, the same in a report to TypeScript.
    pub fn put(&self, w: &mut Writer) {
        w.i32(self.pid).u32(self.reason as u32).i32(self.tracer).raw(&self.comm);
    }

    fn take(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Survivor {
            pid: r.i32()?,
            reason: Reason::from_number(r.u32()?)?,
            tracer: r.i32()?,
            comm: r.array()?,
        })
    }
}

/// The first of them, as many as a record names.
fn put_survivors<'a>(w: &'a mut Writer, survivors: &[Survivor]) -> &'a mut Writer {
    let named = &survivors[..survivors.len().min(SURVIVORS_MAX)];
    w.u32(named.len() as u32);
    named.iter().for_each(|s| s.put(w));
    w
}

fn take_survivors(r: &mut Reader) -> Result<Vec<Survivor>, Malformed> {
    let n = r.count(28)?;
    if n > SURVIVORS_MAX {
        return Err(Malformed);
    }
    (0..n).map(|_| Survivor::take(r)).collect()
}

impl Done {
    fn put(&self, w: &mut Writer) {
        self.wait.put(w);
        w.u32(self.cause as u32).u32(self.killed);
        w.u64(self.wall_us).u64(self.user_us).u64(self.system_us).u64(self.max_rss_bytes);
        w.u32(u32::from(self.again));
        put_survivors(w, &self.survivors);
        w.u32(self.figures.len() as u32);
        self.figures.iter().for_each(|figure| figure.put(w));
    }

    fn take(r: &mut Reader) -> Result<Self, Malformed> {
        let wait = Wait::take(r)?;
        let (cause, killed) = (Cause::from_number(r.u32()?)?, r.u32()?);
        let (wall_us, user_us, system_us, max_rss_bytes) = (r.u64()?, r.u64()?, r.u64()?, r.u64()?);
        let (again, survivors) = (r.flag()?, take_survivors(r)?);
        let n = r.count(12)?;
        let figures = (0..n).map(|_| Figure::take(r)).collect::<Result<_, _>>()?;
        Ok(Done {
            wait,
            cause,
            killed,
            wall_us,
            user_us,
            system_us,
            max_rss_bytes,
            again,
            survivors,
            figures,
        })
    }
}

impl ToGuardian {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        match *self {
            ToGuardian::Keep { id } => w.u32(1).u32(id),
            ToGuardian::End { id } => w.u32(2).u32(id),
        };
        w.done()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let record = match r.u32()? {
            1 => ToGuardian::Keep { id: r.u32()? },
            2 => ToGuardian::End { id: r.u32()? },
            _ => return Err(Malformed),
        };
        r.end().map(|()| record)
    }
}

impl FromGuardian {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        match self {
            FromGuardian::Hello { abi, base } => w.u32(1).u32(*abi).blob(base),
            FromGuardian::Swept { id, killed, survivors } => {
                put_survivors(w.u32(2).u32(*id).u32(*killed), survivors)
            }
            FromGuardian::Refused { id, errno } => w.u32(3).u32(*id).i32(*errno),
        };
        w.done()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let record = match r.u32()? {
            1 => FromGuardian::Hello { abi: r.u32()?, base: r.text()? },
            2 => FromGuardian::Swept { id: r.u32()?, killed: r.u32()?, survivors: take_survivors(&mut r)? },
            3 => FromGuardian::Refused { id: r.u32()?, errno: r.i32()? },
            _ => return Err(Malformed),
        };
        r.end().map(|()| record)
    }
}

impl ToKeeper {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        match *self {
            ToKeeper::Signal { signal, scope } => w.u32(1).i32(signal).u32(scope as u32),
            ToKeeper::Close { cause, grace_ms, deadline_ms } => {
                w.u32(2).u32(cause as u32).u32(grace_ms).u32(deadline_ms)
            }
            ToKeeper::Eof => w.u32(3),
            ToKeeper::Prepare { cgroup } => w.u32(4).u32(u32::from(cgroup)),
            ToKeeper::Freeze { on } => w.u32(5).u32(u32::from(on)),
        };
        w.done()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let record = match r.u32()? {
            1 => ToKeeper::Signal { signal: r.i32()?, scope: Scope::from_number(r.u32()?)? },
            2 => ToKeeper::Close {
                cause: Cause::from_number(r.u32()?)?,
                grace_ms: r.u32()?,
                deadline_ms: r.u32()?,
            },
            3 => ToKeeper::Eof,
            4 => ToKeeper::Prepare { cgroup: r.flag()? },
            5 => ToKeeper::Freeze { on: r.flag()? },
            _ => return Err(Malformed),
        };
        r.end().map(|()| record)
    }
}

impl FromKeeper {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        match self {
            FromKeeper::Started { pid, own_group, lack: (lack, errno), held } => {
                w.u32(1).i32(*pid).u32(u32::from(*own_group)).u32(*lack as u32).i32(*errno);
                w.u32(held.kill as u32).u32(held.limits as u32);
            }
            FromKeeper::Placed { leaves } => {
                w.u32(6).u32(leaves.len() as u32);
                leaves.iter().for_each(|leaf| leaf.put(&mut w));
            }
            FromKeeper::About { at, subject } => {
                w.u32(7).u32(*at).blob(subject);
            }
            FromKeeper::Failed { stage, errno } => {
                w.u32(2).u32(*stage as u32).i32(*errno);
            }
            FromKeeper::Exited { wait } => {
                w.u32(3);
                wait.put(&mut w);
            }
            FromKeeper::Signalled { errno } => {
                w.u32(4).i32(*errno);
            }
            FromKeeper::Done(done) => {
                w.u32(5);
                done.put(&mut w);
            }
        }
        w.done()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let record = match r.u32()? {
            1 => FromKeeper::Started {
                pid: r.i32()?,
                own_group: r.flag()?,
                lack: (Lack::from_number(r.u32()?)?, r.i32()?),
                held: Held { kill: Version::from_number(r.u32()?)?, limits: Version::from_number(r.u32()?)? },
            },
            2 => FromKeeper::Failed { stage: Stage::from_number(r.u32()?)?, errno: r.i32()? },
            3 => FromKeeper::Exited { wait: Wait::take(&mut r)? },
            4 => FromKeeper::Signalled { errno: r.i32()? },
            5 => FromKeeper::Done(Done::take(&mut r)?),
            6 => {
                let n = r.count(12)?;
                let leaves = (0..n).map(|_| Placed::take(&mut r)).collect::<Result<_, _>>()?;
                FromKeeper::Placed { leaves }
            }
            7 => FromKeeper::About { at: r.u32()?, subject: r.blob()?.to_vec() },
            _ => return Err(Malformed),
        };
        r.end().map(|()| record)
    }
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

/// How the child's three standard streams are joined. The numbers are part of the ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdio {
    Piped,
    Inherit,
    Null,
    /// A copy of this descriptor of the runtime's.
    Descriptor(u32),
    /// Of stderr alone: where stdout goes.
    Stdout,
}

/// What TypeScript asks for (docs/abi.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    pub clear_env: bool,
    pub kill_on_owner_death: bool,
    /// `containment: { kill: "tree" }`.
    pub no_cgroup: bool,
    pub close_scope: Scope,
    pub grace_ms: u32,
    pub flush_ms: u32,
    pub timeout_ms: Option<u32>,
    pub stdio: [Stdio; 3],
    pub command: Vec<u8>,
    pub arg0: Vec<u8>,
    pub cwd: Vec<u8>,
    pub args: Vec<Vec<u8>>,
    pub env: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// The runtime's own view of the environment, where it has one.
    pub view: Option<Vec<(Vec<u8>, Vec<u8>)>>,
    pub asked: Option<Box<Attributes>>,
    pub plan: Option<Plan>,
}

/// clearEnv, onOwnerDeath "kill", a view follows, no cgroup; closeScope "child" and "group".
const ALL_SPEC_FLAGS: u32 = 1 | 2 | 4 | 8 | 16 | 32;

impl Spec {
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        if r.u32()? != ABI {
            return Err(Malformed);
        }
        let flags = r.u32()?;
        if flags & !ALL_SPEC_FLAGS != 0 {
            return Err(Malformed);
        }
        let (grace_ms, flush_ms, timeout) = (r.u32()?, r.u32()?, r.u32()?);
        let close_scope = match flags & (16 | 32) {
            0 => Scope::Tree,
            16 => Scope::Child,
            32 => Scope::Group,
            _ => return Err(Malformed),
        };
        let stdio = take_stdio(&mut r)?;
        let (command, arg0, cwd) = (r.text()?, r.text()?, r.text()?);
        let n = r.count(4)?;
        let args = (0..n).map(|_| r.text()).collect::<Result<_, _>>()?;
        let n = r.count(12)?;
        let env = (0..n).map(|_| r.change()).collect::<Result<_, _>>()?;
        let mut view = None;
        if flags & 4 != 0 {
            let n = r.count(8)?;
            view = Some((0..n).map(|_| Ok((r.name()?, r.text()?))).collect::<Result<_, _>>()?);
        }
        let asked = Attributes::take(&mut r)?;
        let plan = Plan::take(&mut r)?;
        r.end()?;
        Ok(Spec {
            clear_env: flags & 1 != 0,
            kill_on_owner_death: flags & 2 != 0,
            no_cgroup: flags & 8 != 0,
            close_scope,
            grace_ms,
            flush_ms,
            timeout_ms: (timeout != u32::MAX).then_some(timeout),
            stdio,
            command,
            arg0,
            cwd,
            args,
            env,
            view,
            asked,
            plan,
        })
    }
}

/// Three kinds and a zero, then the number of each descriptor.
fn take_stdio(r: &mut Reader) -> Result<[Stdio; 3], Malformed> {
    let kinds: [u8; 4] = r.array()?;
    let mut stdio = [Stdio::Piped; 3];
    for (number, slot) in stdio.iter_mut().enumerate() {
        *slot = match kinds[number] {
            0 => Stdio::Piped,
            1 => Stdio::Inherit,
            2 => Stdio::Null,
            3 => Stdio::Descriptor(Some(r.u32()?).filter(|&fd| fd <= i32::MAX as u32).ok_or(Malformed)?),
            4 if number == 2 => Stdio::Stdout,
            _ => return Err(Malformed),
        };
    }
    if kinds[3] == 0 {
        Ok(stdio)
    } else {
        Err(Malformed)
    }
}

impl Reader<'_> {
    /// A blob that a C string can hold.
    fn text(&mut self) -> Result<Vec<u8>, Malformed> {
        let bytes = self.blob()?;
        if bytes.contains(&0) {
            Err(Malformed)
        } else {
            Ok(bytes.to_vec())
        }
    }

    /// A text in UTF-8 that a C string can hold.
    fn word(&mut self) -> Result<String, Malformed> {
        String::from_utf8(self.text()?).map_err(|_| Malformed)
    }

    /// A variable and its value, or none to unset it.
    fn change(&mut self) -> Result<(Vec<u8>, Option<Vec<u8>>), Malformed> {
        let (key, set, value) = (self.name()?, self.flag()?, self.text()?);
        if !set && !value.is_empty() {
            return Err(Malformed);
        }
        Ok((key, set.then_some(value)))
    }

    /// A text that can name a variable.
    fn name(&mut self) -> Result<Vec<u8>, Malformed> {
        let bytes = self.text()?;
        if bytes.is_empty() || bytes.contains(&b'=') {
            Err(Malformed)
        } else {
            Ok(bytes)
        }
    }
}
