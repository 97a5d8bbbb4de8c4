// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! The descriptors that a child starts with, and our ends of them.

use crate::kernel::sabotage::fault;
use crate::kernel::wire::{Attributes, Size, Source, Spec, Stage, Stdio};
use crate::runtime::pipe::{self, End};
use rustix::fd::OwnedFd;
use rustix::fs::Uid;
use rustix::io::Errno;

type Failed = (Stage, Errno);

/// Both sides.
pub struct Descriptors {
    /// Of 0, 1 and 2.
    pub ends: [Option<End>; 3],
    /// Of those above that are ours at the other end: for reading and for writing, in turns.
    pub more: Vec<End>,
    /// The child's 0, 1 and 2, its working directory, and those above 2.
    pub childs: Vec<OwnedFd>,
}

impl Descriptors {
    pub fn new(spec: &Spec, directory: OwnedFd) -> Result<Self, Failed> {
        let at_stdio = |errno| (Stage::Stdio, errno);
        fault("stdio").map_err(at_stdio)?;
        let mut all =
            Descriptors { ends: [None, None, None], more: Vec::new(), childs: Vec::with_capacity(4) };
        let asked = spec.asked.as_deref();
        match asked.and_then(|asked| asked.terminal) {
            Some(size) => all.terminal(size).map_err(|errno| (Stage::Terminal, errno))?,
            None => all.standard(spec.stdio).map_err(at_stdio)?,
        }
        all.childs.push(directory);
        if let Some(asked) = asked {
            all.above(asked).map_err(at_stdio)?;
            asked.uid.map_or(Ok(()), |uid| all.give_to(uid)).map_err(at_stdio)?;
        }
        Ok(all)
    }

    fn standard(&mut self, modes: [Stdio; 3]) -> Result<(), Errno> {
        for (number, mode) in modes.into_iter().enumerate() {
            let theirs = match mode {
                Stdio::Inherit => pipe::inherited(number as u32)?,
                Stdio::Descriptor(own) => pipe::inherited(own)?,
                Stdio::Null if number == 0 => pipe::null_to_read()?,
                Stdio::Null => pipe::null()?,
                Stdio::Stdout => rustix::io::fcntl_dupfd_cloexec(&self.childs[1], 3)?,
                Stdio::Piped => {
                    let (ours, theirs) = pipe::piped(number == 0)?;
                    self.ends[number] = Some(ours);
                    theirs
                }
            };
            self.childs.push(theirs);
        }
        Ok(())
    }

    fn terminal(&mut self, size: Size) -> Result<(), Errno> {
        let ([typed, shown], theirs) = pipe::terminal(size)?;
        self.ends = [Some(typed), Some(shown), None];
        for _ in 0..2 {
            self.childs.push(rustix::io::fcntl_dupfd_cloexec(&theirs, 3)?);
        }
        self.childs.push(theirs);
        Ok(())
    }

    fn above(&mut self, asked: &Attributes) -> Result<(), Errno> {
        for (_, source) in &asked.fds {
            let theirs = match *source {
                Source::Descriptor(own) => pipe::inherited(own)?,
                Source::Piped => {
                    let (ends, theirs) = pipe::both_ways()?;
                    self.more.extend(ends);
                    theirs
                }
            };
            self.childs.push(theirs);
        }
        Ok(())
    }

    /// Another user's program may open /dev/stdout only where that is its own. Without CAP_CHOWN it stays ours:
    /// what it was handed it can use all the same, only not open it again by a name.
    fn give_to(&self, uid: u32) -> Result<(), Errno> {
        for (_, theirs) in self.ends.iter().zip(&self.childs).filter(|(ours, _)| ours.is_some()) {
            match rustix::fs::fchown(theirs, Some(Uid::from_raw(uid)), None) {
                Ok(()) | Err(Errno::PERM) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}
