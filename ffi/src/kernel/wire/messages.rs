// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! What runtime, guardian and keepers tell each other.

use super::plan::Version;
use super::{Cause, Lack, Malformed, Reader, Reason, Scope, Stage, Wait, Writer, SURVIVORS_MAX};

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
