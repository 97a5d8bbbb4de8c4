// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! The record that TypeScript hands in (docs/abi.md).

use super::plan::Plan;
use super::{Attributes, Malformed, Reader, Scope, ABI};

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
