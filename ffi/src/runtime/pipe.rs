// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Our ends of a child's descriptors: pipes for its standard streams, sockets
//! for those above 2, the far side of a terminal for all three at once.

use crate::kernel::sys::host;
use crate::kernel::wire::Size;
use crate::runtime::blocks::{self, BLOCK};
use crate::runtime::transit;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, Shutdown, SocketFlags, SocketType};
use rustix::pipe::{PipeFlags, SpliceFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;

/// What a pipe is born with, and what it grows to once it was seen full: 2.5
/// to 4 times the throughput, and more gives nothing.
const BORN: usize = 64 * 1024;
const GROWN: usize = 256 * 1024;

/// What one read(2) asks for at most: a larger one empties the pipe under its
/// writer and takes two to three times as long per byte (docs/decisions/0006).
const LOCKED: usize = 128 * 1024;

/// Bytes by which pipes of this runtime have grown.
static USED: AtomicU64 = AtomicU64::new(0);

/// A quarter of what this user may hold in pipes: beyond the whole, every new
/// pipe of that user, in any program, would hold 8 KiB only. One more than is
/// counted grows: the one in between (runtime/transit.rs).
fn quota() -> u64 {
    static QUOTA: OnceLock<u64> = OnceLock::new();
    *QUOTA.get_or_init(|| {
        let mut text = Vec::new();
        let read = crate::kernel::procfs::read("/proc/sys/fs/pipe-user-pages-soft", &mut text);
        let pages = read.ok().and_then(|()| std::str::from_utf8(&text).ok()?.trim().parse::<u64>().ok());
        (pages.unwrap_or(0) * 4096 / 4).saturating_sub(GROWN as u64)
    })
}

/// Some port has had so much output that its pipe has grown.
pub fn some_have_grown() -> bool {
    USED.load(Ordering::Acquire) > 0
}

/// What one end of ours belongs to.
#[derive(Clone, Copy)]
enum Kind {
    Pipe,
    /// One direction of a socket: its other one has an end of its own.
    Socket(Shutdown),
    Terminal,
}

/// How often pages are moved before others get their turn.
const MOVES: usize = 16;

/// Why no more was moved from one pipe to another.
#[derive(Debug, PartialEq, Eq)]
pub enum Poured {
    /// Nothing is left, or enough was moved in a row.
    Dry,
    /// The other has no room.
    Full,
    /// One of them has ended, or the host does not let us: a read and a write will tell.
    Over,
}

/// One end of ours, non-blocking, with the room it has taken from the quota.
pub struct End {
    pub fd: OwnedFd,
    kind: Kind,
    grown: bool,
    /// Bytes read since the pipe was last empty.
    run: usize,
}

impl End {
    /// Of a pipe made just now, which has no other flags that could be set.
    fn new(fd: OwnedFd) -> Result<Self, Errno> {
        rustix::fs::fcntl_setfl(&fd, OFlags::NONBLOCK)?;
        Ok(End::of(fd, Kind::Pipe))
    }

    fn of(fd: OwnedFd, kind: Kind) -> Self {
        End { fd, kind, grown: false, run: 0 }
    }

    /// Reads without waiting.
    pub fn read(&mut self, into: &mut [u8]) -> Result<usize, Errno> {
        let got = match (rustix::io::retry_on_intr(|| self.read_once(into)), self.kind) {
            // Nobody has the terminal open any more; the socket's peer has left without reading all that we wrote.
            (Err(Errno::IO), Kind::Terminal) | (Err(Errno::CONNRESET), Kind::Socket(_)) => Ok(0),
            (other, _) => other,
        };
        match got {
            Ok(n) => self.moved(n),
            Err(_) => self.run = 0,
        }
        got
    }

    /// While it comes in bursts the writer is not held up; else one call is less than two.
    fn read_once(&self, into: &mut [u8]) -> Result<usize, Errno> {
        let most = into.len().min(BLOCK);
        if self.grown && self.run > 0 && most >= BORN {
            if let Some(got) = transit::read(&self.fd, &mut into[..most], GROWN) {
                return got;
            }
        }
        let most = most.min(LOCKED);
        rustix::io::read(&self.fd, &mut into[..most])
    }

    /// Writes without waiting. A pipe that does not take all of it is full: it grows.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        // SIGPIPE is ignored in all three runtimes.
        let took = rustix::io::retry_on_intr(|| rustix::io::write(&self.fd, bytes));
        let full = took.map_or_else(|errno| errno == Errno::AGAIN, |n| n < bytes.len());
        if full && !self.grown && self.is_pipe() {
            self.grow();
        }
        took
    }

    pub fn is_pipe(&self) -> bool {
        matches!(self.kind, Kind::Pipe)
    }

    /// Moves what is there into the pipe that `to` writes to. Pages change hands; no byte is copied.
    pub fn pour(&mut self, to: &mut End) -> Poured {
        for _ in 0..MOVES {
            match rustix::pipe::splice(&self.fd, None, &to.fd, None, GROWN, SpliceFlags::NONBLOCK) {
                Ok(0) => return Poured::Over,
                Ok(moved) => [&mut *self, to].into_iter().for_each(|end| end.moved(moved)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return self.stuck(to),
                Err(_) => return Poured::Over,
            }
        }
        Poured::Dry
    }

    /// Which of the two it is that splice(2) would wait for. Nothing moves meanwhile: bytes that come between the
    /// calls find the other with or without room. An end is not told by a splice into a full pipe.
    fn stuck(&mut self, to: &mut End) -> Poured {
        let mut asked = [PollFd::new(&self.fd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut asked, Some(&now)).is_err() {
            return Poured::Over; // no memory: reads and writes need none
        }
        let seen = asked[0].revents();
        if seen.contains(PollFlags::IN) {
            return Poured::Full;
        }
        (self.run, to.run) = (0, 0);
        if seen.is_empty() {
            Poured::Dry
        } else {
            Poured::Over
        }
    }

    /// As much as a newborn pipe holds in one go means that it may have been full: it grows.
    fn moved(&mut self, bytes: usize) {
        self.run += bytes;
        if self.run >= BORN && !self.grown && self.is_pipe() {
            self.grow();
        }
    }

    fn grow(&mut self) {
        let more = (GROWN - BORN) as u64;
        if USED.fetch_add(more, Ordering::AcqRel) + more > quota() {
            USED.fetch_sub(more, Ordering::AcqRel);
            self.run = 0; // asked again after the next burst
            return;
        }
        self.grown = true; // refused by the kernel (EPERM: the user's own limit) or not: not tried again
        let _ = rustix::pipe::fcntl_setpipe_size(&self.fd, GROWN);
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let more = (GROWN - BORN) as u64;
        if self.grown && USED.fetch_sub(more, Ordering::AcqRel) == more {
            blocks::trim();
            transit::close();
        }
        if let Kind::Socket(side) = self.kind {
            let _ = net::shutdown(&self.fd, side); // ENOTCONN: the other end is gone
        }
    }
}

/// Moves a descriptor that took a standard number out of there: a program that
/// closed its own stdio must not see ours in its place.
fn above_stdio(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    use rustix::fd::AsRawFd;
    if fd.as_raw_fd() > 2 {
        Ok(fd)
    } else {
        rustix::io::fcntl_dupfd_cloexec(&fd, 3)
    }
}

/// A pipe to (`to_child`) or from the child: our end and the child's.
pub fn piped(to_child: bool) -> Result<(End, OwnedFd), Errno> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let (reader, writer) = (above_stdio(reader)?, above_stdio(writer)?);
    let (ours, childs) = if to_child { (writer, reader) } else { (reader, writer) };
    Ok((End::new(ours)?, childs))
}

/// A copy of one of the runtime's own descriptors.
pub fn inherited(number: u32) -> Result<OwnedFd, Errno> {
    host::duplicate(number)
}

/// A socket between us and the child: what it writes there, what it reads there, and its end.
pub fn both_ways() -> Result<([End; 2], OwnedFd), Errno> {
    let (ours, theirs) =
        net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let (ours, theirs) = (above_stdio(ours)?, above_stdio(theirs)?);
    rustix::fs::fcntl_setfl(&ours, OFlags::RDWR | OFlags::NONBLOCK)?;
    let again = rustix::io::fcntl_dupfd_cloexec(&ours, 3)?;
    let reads = End::of(ours, Kind::Socket(Shutdown::Read));
    Ok(([reads, End::of(again, Kind::Socket(Shutdown::Write))], theirs))
}

/// A new terminal: what is typed into it, what it shows, and the child's side of it.
pub fn terminal(size: Size) -> Result<([End; 2], OwnedFd), Errno> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = above_stdio(rustix::pty::openpt(flags)?)?;
    rustix::pty::grantpt(&ours)?;
    rustix::pty::unlockpt(&ours)?;
    resize(&ours, size)?;
    let theirs = above_stdio(rustix::pty::ioctl_tiocgptpeer(&ours, flags)?)?;
    rustix::fs::fcntl_setfl(&ours, OFlags::RDWR | OFlags::NONBLOCK)?;
    let again = rustix::io::fcntl_dupfd_cloexec(&ours, 3)?;
    Ok(([End::of(ours, Kind::Terminal), End::of(again, Kind::Terminal)], theirs))
}

/// The programs on it are told by SIGWINCH.
pub fn resize(terminal: impl AsFd, Size { columns, rows }: Size) -> Result<(), Errno> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size)
}

pub fn null() -> Result<OwnedFd, Errno> {
    null_for(OFlags::RDWR)
}

/// For who need not write to it: a runtime that has given up to write anywhere can open it all the same.
pub fn null_to_read() -> Result<OwnedFd, Errno> {
    null().or_else(|_| null_for(OFlags::RDONLY))
}

fn null_for(access: OFlags) -> Result<OwnedFd, Errno> {
    above_stdio(rustix::fs::open("/dev/null", access | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_poured_into_another_until_one_is_dry_full_or_over() {
        let ((mut output, source), (mut stdin, sink)) = (piped(false).expect("a"), piped(true).expect("b"));
        assert_eq!(output.pour(&mut stdin), Poured::Dry);
        let written: Vec<u8> = (0..60_000_u32).map(|n| (n % 251) as u8).collect();
        rustix::io::write(&source, &written).expect("room");
        assert_eq!(output.pour(&mut stdin), Poured::Dry);
        let mut read = vec![0; 60_000];
        let mut take = |most: usize| rustix::io::read(&sink, &mut read[..most]);
        assert_eq!(take(60_000), Ok(60_000));
        assert_eq!(read, written);
        let mut sent = 0;
        let full = loop {
            sent += rustix::io::write(&source, &written[..4096]).expect("room");
            match output.pour(&mut stdin) {
                Poured::Dry => assert!(sent < 4 * GROWN, "it never fills"),
                full => break full,
            }
        };
        assert_eq!(full, Poured::Full);
        let mut read = vec![0; 4096];
        assert_eq!(rustix::io::read(&sink, &mut read), Ok(4096));
        assert_eq!(output.pour(&mut stdin), Poured::Dry);
        drop(source);
        assert_eq!(output.pour(&mut stdin), Poured::Over);
        let (mut output, source) = piped(false).expect("another");
        rustix::io::write(&source, b"unread").expect("room");
        drop(sink);
        assert_eq!(output.pour(&mut stdin), Poured::Over, "nobody reads");
        assert_eq!(output.read(&mut read), Ok(6), "and nothing is lost");
    }

    #[test]
    fn a_pipe_that_does_not_take_all_grows() {
        let (mut ours, childs) = piped(true).expect("a pipe");
        let before = rustix::pipe::fcntl_getpipe_size(&childs).expect("its size");
        assert_eq!(ours.write(&vec![7; before]), Ok(before));
        assert_eq!(rustix::pipe::fcntl_getpipe_size(&childs), Ok(before), "it took all");
        assert_eq!(ours.write(&[7]), Err(Errno::AGAIN));
        assert_eq!(rustix::pipe::fcntl_getpipe_size(&childs), Ok(GROWN));
        assert_eq!(ours.write(&vec![7; GROWN]), Ok(GROWN - before));
    }

    #[test]
    fn a_pipe_that_was_seen_full_grows_and_gives_its_room_back() {
        let (mut ours, childs) = piped(false).expect("a pipe");
        let before = rustix::pipe::fcntl_getpipe_size(&childs).expect("its size");
        rustix::io::write(&childs, &vec![7; before]).expect("room for all");
        let mut into = vec![0; GROWN];
        assert_eq!(ours.read(&mut into), Ok(before));
        assert_eq!(rustix::pipe::fcntl_getpipe_size(&childs), Ok(GROWN));
        assert_eq!(ours.read(&mut into), Err(Errno::AGAIN));
        let used = USED.load(Ordering::Acquire);
        drop(ours);
        assert_eq!(USED.load(Ordering::Acquire), used - (GROWN - BORN) as u64);
    }
}
