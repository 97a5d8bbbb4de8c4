// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! The native side of proton-stream, lowest layer first.

/// What both the runtime's side and the helpers' side stand on.
pub mod kernel {
    pub mod cgroup;
    pub mod dbus;
    pub mod procfs;
    pub mod sabotage;
    pub mod socket;
    pub mod sys;
    pub mod tree;
    pub mod wire;
}

/// The helper processes.
pub mod guard {
    pub mod child;
    pub mod guardian;
    pub mod hurry;
    pub mod keeper;
    pub mod oom;
    pub mod owner;
    pub mod place;
    pub mod proof;
    pub mod record;
    pub mod rooms;
    pub mod scope;
    pub mod spare;
    pub mod table;
    pub mod watchdog;
}

/// Inside Deno, Node and Bun.
pub mod runtime {
    pub mod alarms;
    pub mod blocks;
    pub mod calls;
    pub mod credentials;
    pub mod deadlines;
    pub mod descriptors;
    pub mod environment;
    pub mod handle;
    pub mod inherit;
    pub mod launch;
    pub mod pair;
    pub mod pipe;
    pub mod port;
    pub mod reactor;
    pub mod remains;
    pub mod rights;
    pub mod silence;
    pub mod transit;
    pub mod users;
    pub mod weight;
}

/// How one gets in: boundary, check, call.
pub mod doors {
    pub mod abi;
    pub mod call;
    pub mod chunk;
    pub mod entry;
    pub mod napi;
}
