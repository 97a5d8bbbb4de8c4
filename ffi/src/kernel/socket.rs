// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! SEQPACKET sockets that carry one record a packet, and file descriptors with it.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::time::Duration;

/// The most descriptors that one packet of ours carries: a child's, and its working directory.
pub const FDS_MAX: usize = 4 + crate::kernel::wire::FDS_MAX;

/// Who sent a packet, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    pub pid: i32,
    pub uid: u32,
}

/// One packet.
pub struct Packet {
    pub len: usize,
    pub fds: Vec<OwnedFd>,
    /// There were more descriptors than this process may have, or than [`FDS_MAX`].
    pub cut: bool,
    /// Present on sockets with [`tell_senders`].
    pub sender: Option<Sender>,
}

/// A connected pair, close-on-exec.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Has the kernel attach the sender's credentials to every packet received here.
pub fn tell_senders(socket: impl AsFd) -> Result<(), Errno> {
    net::sockopt::set_socket_passcred(socket, true)
}

/// Sends one packet without waiting; EAGAIN when there is no room for it now, EPIPE when
/// the other end is gone.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::INVAL);
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match rustix::io::retry_on_intr(|| net::sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, flags)) {
        // The host has no memory for it now: as with a full queue the other end is there, and it is tried again.
        Err(Errno::NOBUFS | Errno::NOMEM) => {
            std::thread::sleep(Duration::from_millis(1));
            Err(Errno::AGAIN)
        }
        other => other.map(drop),
    }
}

/// Receives one packet without waiting. `Ok(None)` is the end of the stream, and ECONNRESET is, too, of one whose other
/// end has left something unread and no last words. A
/// packet larger than `buffer` is EMSGSIZE: nothing of ours sends such.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<Option<Packet>, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX), ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let mut receive = || {
        rustix::io::retry_on_intr(|| {
            net::recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)
        })
    };
    // A peer that left without reading all we sent is told once, before what it has sent itself; that is still there.
    let (got, reset) = match receive() {
        Err(Errno::CONNRESET) => (receive()?, true),
        other => (other?, false),
    };
    let mut packet = Packet {
        len: got.bytes,
        fds: Vec::new(),
        cut: got.flags.contains(ReturnFlags::CTRUNC),
        sender: None,
    };
    for message in control.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(fds) => packet.fds.extend(fds),
            RecvAncillaryMessage::ScmCredentials(c) => {
                packet.sender = Some(Sender { pid: c.pid.as_raw_nonzero().get(), uid: c.uid.as_raw() });
            }
            _ => {}
        }
    }
    if got.flags.contains(ReturnFlags::TRUNC) {
        return Err(Errno::MSGSIZE);
    }
    // A SEQPACKET peer that closed reads as zero bytes, and as an empty packet, which nothing of ours sends; but that
    // has a sender.
    match packet.len > 0 || packet.sender.is_some() {
        true => Ok(Some(packet)),
        false if reset => Err(Errno::CONNRESET),
        false => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_a_peer_that_left_mail_unread_are_heard() {
        let (near, far) = pair().expect("a pair");
        send(&near, b"unread", &[]).expect("room");
        send(&far, b"last words", &[]).expect("room");
        drop(far);
        let mut buffer = [0; 64];
        let packet = receive(&near, &mut buffer).expect("no error").expect("a packet");
        assert_eq!(&buffer[..packet.len], b"last words");
        assert!(receive(&near, &mut buffer).expect("no error").is_none());
    }

    #[test]
    fn a_peer_that_left_mail_unread_and_no_word_is_told_from_one_that_read_all() {
        let mut buffer = [0; 64];
        let (near, far) = pair().expect("a pair");
        send(&near, b"unread", &[]).expect("room");
        drop(far);
        assert_eq!(receive(&near, &mut buffer).err(), Some(Errno::CONNRESET));
        let (near, far) = pair().expect("a pair");
        send(&near, b"read", &[]).expect("room");
        receive(&far, &mut buffer).expect("no error").expect("a packet");
        drop(far);
        assert!(receive(&near, &mut buffer).expect("no error").is_none());
    }

    #[test]
    fn descriptors_come_along_and_too_large_a_packet_is_refused() {
        let (near, far) = pair().expect("a pair");
        send(&near, b"fd", &[near.as_fd(), far.as_fd()]).expect("room");
        send(&near, &[0; 65], &[]).expect("room");
        let mut buffer = [0; 64];
        let packet = receive(&far, &mut buffer).expect("no error").expect("a packet");
        assert_eq!((packet.len, packet.fds.len()), (2, 2));
        assert_eq!(receive(&far, &mut buffer).err(), Some(Errno::MSGSIZE));
        assert_eq!(receive(&far, &mut buffer).err(), Some(Errno::AGAIN));
    }
}
