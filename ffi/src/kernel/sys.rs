// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Every raw system call that has no safe wrapper in rustix: safe signature,
//! owned descriptors in and out, the reason of safety on each.
#![allow(unsafe_code)]

/// What the helper processes need: clone3, waitid, signals, process titles.
pub mod helper;
/// What the runtime's side needs: the environment, posix_spawn, what a child inherits.
pub mod host;
/// System calls for the moment between clone and exec.
pub mod raw;
/// The user database.
pub mod users;
