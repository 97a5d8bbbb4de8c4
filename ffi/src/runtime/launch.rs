// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Looking a program up and starting it, on the calling thread and without a wait.
//!
//! A keeper waits for the launch record already, as a rule: each start has the
//! next one forked while its child starts. Where none does, the guardian is
//! asked first, and forks while the program is looked up.

use crate::kernel::sabotage::{fault, sabotaged, Step};
use crate::kernel::sys::host;
use crate::kernel::wire::{Attributes, Launch, Scheduler, Spec, Stage, Stdio, ToKeeper, Writer, LAUNCH_MAX};
use crate::runtime::credentials;
use crate::runtime::descriptors::Descriptors;
use crate::runtime::environment::{NotFound, Program};
use crate::runtime::inherit::{self, Bounds, Identity, Inherited};
use crate::runtime::pair::Pair;
use crate::runtime::port::{lock, Env, Port, Terms};
use crate::runtime::reactor::{reactor, Prepared, Reactor};
use crate::runtime::weight::{weigh, TooMuch, What};
use rustix::io::Errno;
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::Ordering;
use std::sync::Arc;

type Failed = (Stage, Errno);

/// Why a start was refused, with what there is to say beside stage and errno (docs/abi.md).
pub struct Refusal {
    pub failed: Failed,
    pub detail: Vec<u8>,
}

impl From<Failed> for Refusal {
    fn from(failed: Failed) -> Self {
        Refusal { failed, detail: Vec::new() }
    }
}

impl From<TooMuch> for Refusal {
    fn from(TooMuch { what, bytes, most }: TooMuch) -> Self {
        let (kind, at) = match what {
            What::All => (0, 0),
            What::Argument(at) => (1, at),
            What::Variable(at) => (2, at),
        };
        let detail = Writer::default().u32(kind).u32(at as u32).f64(bytes as f64).f64(most as f64).done();
        Refusal { failed: (Stage::Exec, Errno::TOOBIG), detail }
    }
}

impl From<NotFound> for Refusal {
    fn from(NotFound { failed, refused }: NotFound) -> Self {
        let path = refused.map_or_else(Vec::new, |path| path.into_os_string().into_vec());
        Refusal { failed, detail: Writer::default().blob(&path).done() }
    }
}

fn at(stage: Stage) -> impl Fn(Errno) -> Failed {
    move |errno| (stage, errno)
}

/// The absolute path that would be executed. The program stays ready for [`spawn`].
pub fn resolve(env: u32, spec: &[u8]) -> Result<Vec<u8>, Refusal> {
    let reactor = reactor().map_err(at(Stage::Library))?;
    let env = reactor.env(env).map_err(at(Stage::Library))?;
    let spec = Spec::decode(spec).map_err(|_| (Stage::Spec, Errno::INVAL))?;
    let port = reactor.port_to_be(&env);
    // The keeper makes ready while we look the program up.
    port.iter().for_each(|port| reactor.tell(port, ToKeeper::Prepare { cgroup: !spec.no_cgroup }));
    match find(spec) {
        Ok(program) => {
            let path = program.path.clone();
            reactor.prepare(env.id, Prepared { program, port });
            Ok(path)
        }
        Err(failed) => {
            port.into_iter().for_each(|port| reactor.keep_spare(port));
            Err(failed)
        }
    }
}

fn find(spec: Spec) -> Result<Program, Refusal> {
    let native = if spec.clear_env { Vec::new() } else { host::environment().map_err(at(Stage::Spec))? };
    let user = spec.asked.as_deref().and_then(credentials::other);
    Ok(Program::find(spec, native, user.as_ref())?)
}

fn record(spec: Spec, path: Vec<u8>, env: Vec<Vec<u8>>, mut inherited: Inherited) -> Launch {
    let mut asked = spec.asked;
    if let Some(asked) = &mut asked {
        inherited = inherited.overlaid(asked);
    }
    let (policy, priority) = inherited.priorities.scheduler;
    Launch {
        path,
        argv: std::iter::once(spec.arg0).chain(spec.args).collect(),
        env,
        grace_ms: spec.grace_ms,
        flush_ms: spec.flush_ms,
        timeout_ms: spec.timeout_ms,
        kill_on_owner_death: spec.kill_on_owner_death,
        close_scope: spec.close_scope,
        output_piped: spec.stdio[1..].contains(&Stdio::Piped),
        cgroup: !spec.no_cgroup,
        plan: spec.plan.map(Box::new),
        join_group: inherited.foreground_group,
        umask: inherited.umask,
        rlimits: inherited.rlimits,
        nice: inherited.priorities.nice,
        scheduler: Scheduler { policy, priority },
        ioprio: inherited.priorities.ioprio,
        oom_score_adj: inherited.oom_score_adj,
        affinity: inherited.priorities.affinity,
        asked: asked.filter(|asked| **asked != Attributes::default()),
    }
}

/// Starts the program that [`resolve`] has found last, which must be at `path`:
/// permission was asked for that. The outcome is an event. Returns the handle.
pub fn spawn(env: u32, path: &[u8]) -> Result<i32, Refusal> {
    let reactor = reactor().map_err(at(Stage::Library))?;
    let env = reactor.env(env).map_err(at(Stage::Library))?;
    let Some(Prepared { program, port }) = reactor.prepared(env.id) else {
        return Err((Stage::Spec, Errno::INVAL).into());
    };
    let asked = Asked { reactor, port };
    if program.path != path {
        return Err((Stage::Spec, Errno::INVAL).into());
    }
    let (identity, inherited) = fault("look").and_then(|()| inherit::look()).map_err(at(Stage::Guardian))?;
    asked.of(identity, &inherited, &env)?.start(program, inherited)
}

/// How many helpers are started for one port, should each be killed before it is asked for a keeper.
const PAIRS: usize = 3;

/// A port whose keeper has been asked for; given up where nothing comes of it.
struct Asked<'a> {
    reactor: &'a Reactor,
    port: Option<Arc<Port>>,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if let Some(port) = self.port.take() {
            self.reactor.abandon(&port);
        }
    }
}

impl Asked<'_> {
    /// This one where its keeper is of the right pair, else a new one.
    fn of(mut self, identity: Identity, inherited: &Inherited, env: &Arc<Env>) -> Result<Self, Failed> {
        for left in (0..PAIRS).rev() {
            let pair = pair_of(self.reactor, &identity, inherited)?;
            match self.try_of(&pair, env) {
                // It has ended, or another thread has dismissed it, and this one does not know it yet.
                Err((Stage::Guardian, Errno::PIPE | Errno::CONNRESET)) if left > 0 => {
                    pair.current.store(false, Ordering::Release);
                }
                other => return other.map(|()| self),
            }
        }
        Err((Stage::Guardian, Errno::PIPE))
    }

    fn try_of(&mut self, pair: &Pair, env: &Arc<Env>) -> Result<(), Failed> {
        env.pair.store(pair.id, Ordering::Release);
        if self.port.as_ref().is_some_and(|port| port.pair == pair.id && port.is_kept()) {
            return Ok(());
        }
        let asked = self.reactor.ask(pair, env)?;
        let unused = self.port.replace(asked);
        unused.iter().for_each(|port| self.reactor.abandon(port));
        Ok(())
    }

    /// Hands the keeper what it is to start.
    fn start(mut self, program: Program, inherited: Inherited) -> Result<i32, Refusal> {
        let Some(port) = &self.port else { return Err((Stage::Keeper, Errno::CHILD).into()) };
        let Program { mut spec, path, directory, env } = program;
        let timeout_ms = spec.timeout_ms;
        let terms = Terms { grace_ms: spec.grace_ms, kill_on_owner_death: spec.kill_on_owner_death };
        spec.asked.as_deref_mut().map_or(Ok(()), credentials::settle)?;
        let Descriptors { ends, more, childs } = Descriptors::new(&spec, directory)?;
        let launch = record(spec, path, env, inherited);
        weigh(&launch)?;
        let record = launch.encode();
        if record.len() > LAUNCH_MAX {
            return Err((Stage::Exec, Errno::TOOBIG).into());
        }
        port.terms.set(terms).map_err(|_| (Stage::Keeper, Errno::BUSY))?;
        port.take_ends(ends, more);
        let mut childs = Some(childs);
        let mut room = true;
        for packet in Launch::packets(&record) {
            let sent = fault("record").and_then(|()| {
                let mut keeper = lock(&port.keeper);
                let sent = keeper.send(packet, childs.take().unwrap_or_default());
                keeper.begun |= sent.is_ok();
                sent
            });
            room = match sent {
                // The keeper's end, which its guardian tells of.
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    self.reactor.nothing_begun(port);
                    true
                }
                other => other.map_err(at(Stage::Keeper))?,
            };
        }
        if !room {
            self.reactor.want_room(port);
        }
        self.reactor.expect_start(port, timeout_ms);
        let handle = port.handle;
        self.port = None;
        Ok(handle)
    }
}

/// The helpers that have these rights and confinement and can give a child what it inherits, started where there are
/// none.
fn pair_of(reactor: &Reactor, identity: &Identity, inherited: &Inherited) -> Result<Arc<Pair>, Failed> {
    // One thread at a time: two that find none at the same moment are to share one.
    let _starting = lock(&reactor.starting);
    let usable = |pair: &&Arc<Pair>| {
        pair.current.load(Ordering::Acquire)
            && (pair.identity == *identity || sabotaged(Step::Identity))
            && pair.bounds.allow(inherited)
    };
    let found = lock(&reactor.shared).pairs.values().find(usable).cloned();
    if let Some(pair) = found {
        return Ok(pair);
    }
    let give_up = |watchdog| reactor.give_up(watchdog);
    let pair = Arc::new(Pair::start(reactor.next_id(), (identity.clone(), Bounds::of(inherited)), give_up)?);
    // Before others can find it: one that is not watched would answer nobody.
    reactor.watch_pair(&pair).inspect_err(|_| give_up(pair.watchdog)).map_err(at(Stage::Guardian))?;
    lock(&reactor.shared).pairs.insert(pair.id, pair.clone());
    Ok(pair)
}
