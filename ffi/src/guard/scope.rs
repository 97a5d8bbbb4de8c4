// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! A scope of the user's service manager, for helpers and trees of a runtime
//! whose own cgroup is somebody else's: the watchdog asks for one over the
//! user's bus and is moved into it. The runtime is never moved. Nothing that
//! the bus says is relied on: it is the kernel that says where we are then.
//! (systemd: org.freedesktop.systemd1(5), `StartTransientUnit`, `Subscribe`,
//! `JobRemoved`; docs/CGROUP_DELEGATION.md.)

use crate::kernel::cgroup::hierarchy;
use crate::kernel::cgroup::{file, Leaf};
use crate::kernel::dbus::{Call, Malformed, Message, Writer, ERROR, LONGEST, SIGNAL};
use crate::kernel::procfs;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::time::{Duration, Instant};

/// How long the first start may wait for all of it. Who answers later moves the watchdog, which does no harm.
const PATIENCE: Duration = Duration::from_secs(1);

/// The cgroup below the scope's that the helpers live in: one with processes has no controllers for those below it.
const HELPERS: &str = "helpers";

const BUS: Call = Call {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
    member: "",
};
const MANAGER: Call = Call {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
    member: "",
};

/// The message without which there is no scope.
const START: u32 = 4;

/// Where the bus of the runtime's user is, by what the runtime was started with; none where that names none.
pub fn bus_of(runtime: i32) -> Option<SocketAddrUnix> {
    let mut environment = Vec::new();
    procfs::read(&format!("/proc/{runtime}/environ"), &mut environment).ok()?;
    let value = |name: &str| {
        let variables = environment.split(|&byte| byte == 0);
        let mut values = variables
            .filter_map(|one| one.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
            .filter(|value| !value.is_empty());
        values.next().and_then(|value| std::str::from_utf8(value).ok())
    };
    match value("DBUS_SESSION_BUS_ADDRESS") {
        Some(addresses) => addresses.split(';').find_map(address),
        None => {
            let path = format!("{}/bus", value("XDG_RUNTIME_DIR")?);
            std::path::Path::new(&path).exists().then_some(())?;
            SocketAddrUnix::new(path).ok()
        }
    }
}

/// `unix:path=/run/user/1000/bus,guid=...`. (D-Bus Specification, "Server Addresses".)
fn address(text: &str) -> Option<SocketAddrUnix> {
    text.strip_prefix("unix:")?.split(',').find_map(|pair| match pair.split_once('=')? {
        ("path", path) => SocketAddrUnix::new(unescaped(path)?).ok(),
        ("abstract", name) => SocketAddrUnix::new_abstract_name(&unescaped(name)?).ok(),
        _ => None,
    })
}

/// `%20` is a blank.
fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut all = Vec::new();
    while let Some(byte) = bytes.next() {
        let digits = (byte == b'%').then(|| [bytes.next(), bytes.next()]);
        all.push(match digits {
            None => byte,
            Some([first, second]) => {
                let digits = [first?, second?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
        });
    }
    Some(all)
}

/// Asks for the scope and waits until this process is in it, in a cgroup of its own there. The scope's directory.
pub fn enter(bus: &SocketAddrUnix, unit: &str) -> Result<String, Errno> {
    Bus::connect(bus, Instant::now() + PATIENCE)?.start(unit)?;
    let all = hierarchy::hierarchies();
    let scope = hierarchy::own(&all).map_err(|_| Errno::NOENT)?;
    if !scope.ends_with(&format!("/{unit}")) {
        return Err(Errno::REMOTEIO); // it says so, and the kernel does not
    }
    let below = Leaf::at(format!("{scope}/{HELPERS}"));
    below.make()?;
    file::write(&format!("{}/cgroup.procs", below.path), "0")?;
    Ok(scope)
}

/// A connection that is given up at `until`, whatever it is waiting for.
struct Bus {
    socket: OwnedFd,
    until: Instant,
    /// What has come and was not read yet.
    mail: Vec<u8>,
}

impl Bus {
    fn connect(address: &SocketAddrUnix, until: Instant) -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, address)?; // EAGAIN: too many are waiting there
        Ok(Bus { socket, until, mail: Vec::new() })
    }

    fn start(&mut self, unit: &str) -> Result<(), Errno> {
        let user: String =
            rustix::process::geteuid().as_raw().to_string().bytes().map(|b| format!("{b:02x}")).collect();
        self.send(format!("\0AUTH EXTERNAL {user}\r\n").as_bytes())?;
        if !self.line()?.starts_with(b"OK ") {
            return Err(Errno::ACCESS);
        }
        self.send(b"BEGIN\r\n")?;
        self.send(&calls(unit))?;
        loop {
            match Message::first(&self.mail).map_err(|Malformed| Errno::PROTO)? {
                None => self.receive()?,
                Some((message, length)) => {
                    let outcome = outcome(&message, unit);
                    self.mail.drain(..length);
                    if let Some(outcome) = outcome {
                        return outcome;
                    }
                }
            }
        }
    }

    /// Without its end.
    fn line(&mut self) -> Result<Vec<u8>, Errno> {
        loop {
            if let Some(at) = self.mail.windows(2).position(|two| two == b"\r\n") {
                let line = self.mail[..at].to_vec();
                self.mail.drain(..at + 2);
                return Ok(line);
            }
            if self.mail.len() > 1024 {
                return Err(Errno::PROTO);
            }
            self.receive()?;
        }
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<(), Errno> {
        while !bytes.is_empty() {
            self.wait(PollFlags::OUT)?;
            match rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Waits for more mail.
    fn receive(&mut self) -> Result<(), Errno> {
        if self.mail.len() > 2 * LONGEST {
            return Err(Errno::PROTO);
        }
        self.wait(PollFlags::IN)?;
        let mut block = [0; 4096];
        match rustix::net::recv(&self.socket, &mut block[..], RecvFlags::empty()) {
            Ok((0, _)) => Err(Errno::PIPE),
            Ok((length, _)) => {
                self.mail.extend(&block[..length]);
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn wait(&self, for_what: PollFlags) -> Result<(), Errno> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Errno::TIMEDOUT); // also where it never stops talking
        }
        let timeout = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        match rustix::event::poll(&mut [PollFd::new(&self.socket, for_what)], Some(&timeout)) {
            Ok(0) => Err(Errno::TIMEDOUT),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

/// All that is asked for, in one go: nothing of it waits for an answer to what is before it.
fn calls(unit: &str) -> Vec<u8> {
    let mut rule = Writer::default();
    rule.string(
        "type='signal',sender='org.freedesktop.systemd1',path='/org/freedesktop/systemd1',\
         interface='org.freedesktop.systemd1.Manager',member='JobRemoved'",
    );
    let nothing = Writer::default();
    let mut scope = Writer::default();
    scope.string(unit).string("fail").structs(properties).structs(|_| {});
    [
        Call { member: "Hello", ..BUS }.message(1, "", &nothing),
        Call { member: "AddMatch", ..BUS }.message(2, "s", &rule),
        Call { member: "Subscribe", ..MANAGER }.message(3, "", &nothing),
        Call { member: "StartTransientUnit", ..MANAGER }.message(START, "ssa(sv)a(sa(sv))", &scope),
    ]
    .concat()
}

fn properties(all: &mut Writer) {
    all.item().string("Description").signature("s").string("proton-stream helpers and what they run");
    // 0 is who asks, as the bus knows it from the kernel: in another PID namespace our own number is somebody else's.
    all.item().string("PIDs").signature("au").u32(4).u32(0);
    all.item().string("Delegate").signature("b").u32(1);
}

/// What a message says of the scope, if it does.
fn outcome(message: &Message, unit: &str) -> Option<Result<(), Errno>> {
    match message.kind {
        ERROR if (1..=START).contains(&message.answers) => {
            let refused = message.error == "org.freedesktop.DBus.Error.AccessDenied";
            Some(Err(if refused { Errno::ACCESS } else { Errno::REMOTEIO }))
        }
        SIGNAL if (message.interface, message.member) == (MANAGER.interface, "JobRemoved") => {
            let mut arguments = message.arguments();
            let mut read = || {
                let (_job, _path) = (arguments.u32()?, arguments.string()?);
                Ok::<_, Malformed>((arguments.string()?, arguments.string()?))
            };
            match read() {
                Err(Malformed) => Some(Err(Errno::PROTO)),
                Ok((of, _)) if of != unit => None,
                Ok((_, result)) => Some(if result == "done" { Ok(()) } else { Err(Errno::REMOTEIO) }),
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_address_that_can_be_used_is() {
        let of = |text: &str| text.split(';').find_map(address);
        let path = |path: &str| SocketAddrUnix::new(path).ok();
        assert_eq!(of("unix:path=/run/user/7/bus,guid=ab"), path("/run/user/7/bus"));
        assert_eq!(of("tcp:host=a;unix:guid=ab,path=/a%20b"), path("/a b"));
        assert_eq!(of("unix:abstract=/tmp/x"), SocketAddrUnix::new_abstract_name(b"/tmp/x").ok());
        for none in ["", "unix:", "unix:runtime=yes", "autolaunch:", "unix:path=%4", "unix:path=%zz"] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn only_what_is_said_of_our_scope_counts() {
        let signal = |member, unit: &str, result: &str| {
            let mut arguments = Writer::default();
            arguments.u32(1).string("/job/1").string(unit).string(result);
            let mut bytes = Call { member, ..MANAGER }.message(1, "uoss", &arguments);
            bytes[1] = SIGNAL;
            let (message, _) = Message::first(&bytes).expect("lawful").expect("whole");
            outcome(&message, "ours.scope")
        };
        assert_eq!(signal("JobRemoved", "ours.scope", "done"), Some(Ok(())));
        assert_eq!(signal("JobRemoved", "ours.scope", "failed"), Some(Err(Errno::REMOTEIO)));
        assert_eq!(signal("JobRemoved", "other.scope", "failed"), None);
        assert_eq!(signal("JobNew", "ours.scope", "done"), None);
    }
}
