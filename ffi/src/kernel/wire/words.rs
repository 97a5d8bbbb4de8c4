// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! What both sides call things: stages, causes, reasons. The numbers are part
//! of the ABI (docs/abi.md).

use super::Malformed;

/// The one with that number.
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
pub(super) use from_number;

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
