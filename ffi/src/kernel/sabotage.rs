// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! A containment test that cannot fail proves nothing. A build with the
//! feature `sabotage` leaves out the steps, hangs at the places and fails the
//! calls that its environment names, so that each can be seen to turn a test
//! red (scripts/sabotage.ts). In every other build all of this is constant,
//! and none of it is in the library.
//!
//! Two variables: `PROTON_STREAM_SABOTAGE=STEP,...` and
//! `PROTON_STREAM_FAULT=POINT:ERRNO,...`, the error as a number. A runtime
//! reads them anew at each call, so that a test can change them; helpers are
//! handed what stands there when they are started.

use crate::kernel::wire::Stage;
use rustix::io::Errno;
use std::ffi::CString;

macro_rules! steps {
    ($($(#[$what:meta])* $step:ident = $name:literal,)+) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Step { $($(#[$what])* $step,)+ }

        #[cfg(feature = "sabotage")]
        impl Step {
            fn named(name: &str) -> Option<Step> {
                match name { $($name => Some(Step::$step),)+ _ => None }
            }
        }
    };
}

steps! {
    /// What dies below a keeper becomes the keeper's.
    KeeperSubreaper = "keeper-subreaper",
    GuardianSubreaper = "guardian-subreaper",
    WatchdogSubreaper = "watchdog-subreaper",
    /// The helpers hold a pidfd of the runtime.
    RuntimePidfd = "runtime-pidfd",
    /// The end of a socket is the end of the runtime.
    Eof = "eof",
    /// The end of its leash is the end of a keeper's guardian.
    Leash = "leash",
    /// A process is signalled before its children are read.
    KillOrder = "kill-order",
    /// Nothing is reaped before a sweep has found nothing new.
    ReapLast = "reap-last",
    /// Everybody in a tree's cgroup is killed by one write.
    CgroupKill = "cgroup-kill",
    /// There is a file for that write (Linux 5.14).
    KillFile = "kill-file",
    /// Children are read of all threads, not of the first alone.
    Threads = "threads",
    /// A listed process is looked at again before it is signalled.
    ParentCheck = "parent-check",
    /// A keeper's SIGTERM comes before its SIGKILL.
    FirstSignal = "first-signal",
    /// The watchdog ends what its guardian leaves.
    Watchdog = "watchdog",
    /// The guardian ends what a keeper leaves.
    GuardianSweep = "guardian-sweep",
    /// The guardian ends a keeper that is late.
    GuardianEnd = "guardian-end",
    /// A helper that is stopped is let go on by its parent.
    Continue = "continue",
    /// A guardian that does not read is ended.
    StuckGuardian = "stuck-guardian",
    /// A guardian does what its own runtime asks for, and nobody else.
    Credentials = "credentials",
    /// Nobody without privileges may look into a helper.
    Dumpable = "dumpable",
    /// Helpers ignore every signal that can be ignored.
    IgnoredSignals = "ignored-signals",
    /// The kernel kills the child when its keeper ends.
    Pdeathsig = "pdeathsig",
    /// The child's zombie stays until its tree is gone.
    Hold = "hold",
    /// The child gets no descriptor but its own three.
    Descriptors = "descriptors",
    /// The child starts with default signals.
    Signals = "signals",
    /// The end of the output is the end of the wait for it.
    Flush = "flush",
    /// A runtime that has changed its rights gets other helpers.
    Identity = "identity",
    /// The runtime reaps its watchdog.
    WatchdogReap = "watchdog-reap",
    /// Not a step but a hang of the child, before it is bound to its keeper.
    HangBeforePdeathsig = "hang-before-pdeathsig",
    /// A hang of the child, right before its exec.
    HangBeforeExec = "hang-before-exec",
    /// A hang of the keeper, once it has told where the cgroups of a launch with limits will be.
    HangBeforeLeaf = "hang-before-leaf",
    /// Not a step but a program that is open for writing when it is executed first.
    BusyOnce = "busy-once",
    /// A user database that does not answer.
    SlowLookup = "slow-lookup",
    /// A second between reading a list of children and looking at each of them.
    LateVisit = "late-visit",
    /// A moment between signalling a process and reading its children, whichever comes first.
    SlowVisit = "slow-visit",
}

#[cfg(not(feature = "sabotage"))]
mod off {
    use super::{CString, Errno, Stage, Step};

    #[inline(always)]
    pub const fn sabotaged(_: Step) -> bool {
        false
    }

    #[inline(always)]
    pub const fn fault(_: &str) -> Result<(), Errno> {
        Ok(())
    }

    #[inline(always)]
    pub const fn child_fault(_: Stage) -> Option<Errno> {
        None
    }

    #[inline(always)]
    pub const fn arm() {}

    #[inline(always)]
    pub const fn handed_on() -> Vec<CString> {
        Vec::new()
    }
}

#[cfg(feature = "sabotage")]
mod on {
    use super::{CString, Errno, Stage, Step};
    use std::sync::OnceLock;

    const VARIABLES: [&str; 2] = ["PROTON_STREAM_SABOTAGE", "PROTON_STREAM_FAULT"];

    struct Faults {
        steps: Vec<Step>,
        points: Vec<(String, Errno)>,
        stages: Vec<(u32, Errno)>,
    }

    impl Faults {
        fn read() -> Self {
            let [steps, faults] = VARIABLES.map(|name| std::env::var(name).unwrap_or_default());
            let items = |text: &str| text.split(',').filter(|s| !s.is_empty()).map(str::to_owned).collect();
            let (steps, faults): (Vec<String>, Vec<String>) = (items(&steps), items(&faults));
            let mut all = Faults { steps: Vec::new(), points: Vec::new(), stages: Vec::new() };
            for name in steps {
                all.steps.push(Step::named(&name).unwrap_or_else(|| panic!("no step {name}")));
            }
            for item in faults {
                let (point, errno) = item.split_once(':').unwrap_or_else(|| panic!("no error in {item}"));
                let errno = Errno::from_raw_os_error(errno.parse().expect("an error number"));
                match point.strip_prefix("child-") {
                    Some(stage) => all.stages.push((stage.parse().expect("a stage's number"), errno)),
                    None => all.points.push((point.to_owned(), errno)),
                }
            }
            all
        }
    }

    /// A helper's, which a child between clone and exec reads: no lock, nothing allocated.
    static ARMED: OnceLock<Faults> = OnceLock::new();

    fn ask<T>(of: impl Fn(&Faults) -> T) -> T {
        match ARMED.get() {
            Some(armed) => of(armed),
            None => of(&Faults::read()),
        }
    }

    /// The first act of a helper.
    pub fn arm() {
        ARMED.get_or_init(Faults::read);
    }

    /// Whether this step is to be left out, or this hang to be had.
    pub fn sabotaged(step: Step) -> bool {
        ask(|all| all.steps.contains(&step))
    }

    /// The error that the call at this point is to give instead of being made.
    pub fn fault(point: &str) -> Result<(), Errno> {
        ask(|all| all.points.iter().find(|(name, _)| name == point).map_or(Ok(()), |(_, errno)| Err(*errno)))
    }

    /// As [`fault`], of the calls of a child before its exec.
    pub fn child_fault(stage: Stage) -> Option<Errno> {
        ask(|all| all.stages.iter().find(|(number, _)| *number == stage as u32).map(|(_, errno)| *errno))
    }

    /// What a runtime gives its helpers in their environment.
    pub fn handed_on() -> Vec<CString> {
        let pair = |name| std::env::var(name).ok().map(|value| format!("{name}={value}"));
        VARIABLES.into_iter().filter_map(pair).filter_map(|text| CString::new(text).ok()).collect()
    }
}

#[cfg(not(feature = "sabotage"))]
pub use off::{arm, child_fault, fault, handed_on, sabotaged};
#[cfg(feature = "sabotage")]
pub use on::{arm, child_fault, fault, handed_on, sabotaged};
