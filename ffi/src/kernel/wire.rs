// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! The records that two processes of ours speak over a SEQPACKET socket, and
//! the record that TypeScript hands in. Decoding never panics and never
//! trusts a length: whatever is wrong is [`Malformed`]. A record has one form
//! in bytes: what decodes has been encoded so, every byte of it (tests/wire.rs).
//!
//! Little-endian; a blob is a `u32` length and that many bytes.

mod attributes;
mod fields;
mod launch;
mod lookup;
mod messages;
pub mod plan;
mod spec;
mod words;

pub use attributes::{Attributes, Groups, Rlimit, Size, Source, FDS_MAX};
pub use fields::{Reader, Writer};
pub use launch::{Assembler, Launch, Scheduler};
pub use lookup::{Answer, Found, Lookup, Unknown, Who};
pub use messages::{Done, Figure, FromGuardian, FromKeeper, Held, Placed, Survivor, ToGuardian, ToKeeper};
pub use spec::{Spec, Stdio};
pub use words::{Cause, Lack, Reason, Scope, Stage, Wait};

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
