// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Messages of D-Bus, as far as one question takes them: calls that are
//! written, and what a bus sends that is read. Little-endian, as both
//! processors are that this runs on, and a bus of this machine is. (D-Bus
//! Specification, "Message Format" and "Marshaling".)

/// What no bus sends, or nothing that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// The longest message that is read. What was asked for takes some hundred bytes.
pub const LONGEST: usize = 64 * 1024;

/// The kinds of messages that say something here. (`METHOD_RETURN`, `ERROR`, `SIGNAL`.)
pub const RETURN: u8 = 2;
pub const ERROR: u8 = 3;
pub const SIGNAL: u8 = 4;

const CALL: u8 = 1;
const FIXED: usize = 16;

/// The codes of header fields.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// Values one behind the other, each aligned as its type asks for.
#[derive(Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn align(&mut self, to: usize) -> &mut Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
        self
    }

    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.align(4).bytes.extend(value.to_le_bytes());
        self
    }

    pub fn string(&mut self, text: &str) -> &mut Self {
        self.u32(text.len() as u32).bytes.extend(text.as_bytes());
        self.bytes.push(0);
        self
    }

    /// The type of a variant, in front of its value.
    pub fn signature(&mut self, text: &str) -> &mut Self {
        self.bytes.push(text.len() as u8);
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
        self
    }

    /// An array of structs.
    pub fn structs(&mut self, write: impl FnOnce(&mut Self)) -> &mut Self {
        let at = self.align(4).bytes.len();
        let begin = self.u32(0).align(8).bytes.len();
        write(self);
        let length = (self.bytes.len() - begin) as u32;
        self.bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
        self
    }

    /// Where the next struct of an array begins.
    pub fn item(&mut self) -> &mut Self {
        self.align(8)
    }
}

/// Whom a call is for.
pub struct Call<'a> {
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
}

impl Call<'_> {
    /// The message, with arguments of these types.
    pub fn message(&self, serial: u32, signature: &str, arguments: &Writer) -> Vec<u8> {
        let mut all = Writer { bytes: vec![b'l', CALL, 0, 1] };
        all.u32(arguments.bytes.len() as u32).u32(serial).structs(|fields| {
            fields.item().bytes.push(PATH);
            fields.signature("o").string(self.path);
            let texts = [(INTERFACE, self.interface), (MEMBER, self.member), (DESTINATION, self.destination)];
            for (code, text) in texts {
                fields.item().bytes.push(code);
                fields.signature("s").string(text);
            }
            if !signature.is_empty() {
                fields.item().bytes.push(SIGNATURE);
                fields.signature("g").signature(signature);
            }
        });
        all.align(8).bytes.extend(&arguments.bytes);
        all.bytes
    }
}

/// A message that has come. Fields that it does not have are empty, or 0.
#[derive(Debug, PartialEq, Eq)]
pub struct Message<'a> {
    pub kind: u8,
    /// The serial of the call that it answers.
    pub answers: u32,
    pub interface: &'a str,
    pub member: &'a str,
    pub error: &'a str,
    pub signature: &'a str,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The first message in `bytes`, and how long it is; `None` where it has not come to its end.
    pub fn first(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, Malformed> {
        let Some(fixed) = bytes.get(..FIXED) else { return Ok(None) };
        let mut reader = Reader { bytes: fixed, at: 4 };
        let (body, _serial, fields) = (reader.u32()? as usize, reader.u32()?, reader.u32()? as usize);
        let kind = fixed[1];
        if fixed[0] != b'l' || fixed[3] != 1 || !(CALL..=SIGNAL).contains(&kind) {
            return Err(Malformed);
        }
        if body > LONGEST || fields > LONGEST {
            return Err(Malformed);
        }
        let begin = (FIXED + fields).next_multiple_of(8);
        let Some(whole) = bytes.get(..begin + body) else { return Ok(None) };
        let mut message = Message {
            kind,
            answers: 0,
            interface: "",
            member: "",
            error: "",
            signature: "",
            body: &whole[begin..],
        };
        message.read_fields(Reader { bytes: &whole[..FIXED + fields], at: FIXED })?;
        Ok(Some((message, begin + body)))
    }

    /// Each is a code and a variant; those that are not asked for are passed over.
    fn read_fields(&mut self, mut reader: Reader<'a>) -> Result<(), Malformed> {
        while reader.at < reader.bytes.len() {
            reader.align(8)?;
            let code = reader.byte()?;
            match (code, reader.signature()?) {
                (INTERFACE, "s") => self.interface = reader.string()?,
                (MEMBER, "s") => self.member = reader.string()?,
                (ERROR_NAME, "s") => self.error = reader.string()?,
                (REPLY_SERIAL, "u") => self.answers = reader.u32()?,
                (SIGNATURE, "g") => self.signature = reader.signature()?,
                (INTERFACE | MEMBER | ERROR_NAME | REPLY_SERIAL | SIGNATURE, _) => return Err(Malformed),
                (_, "s" | "o") => drop(reader.string()?),
                (_, "u") => drop(reader.u32()?),
                _ => return Err(Malformed),
            }
        }
        Ok(())
    }

    /// What it carries.
    pub fn arguments(&self) -> Reader<'a> {
        Reader { bytes: self.body, at: 0 }
    }
}

/// Values one behind the other.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn align(&mut self, to: usize) -> Result<(), Malformed> {
        let padding = self.at.next_multiple_of(to) - self.at;
        if self.take(padding)?.iter().any(|&byte| byte != 0) {
            return Err(Malformed);
        }
        Ok(())
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(length).ok_or(Malformed)?;
        let taken = self.bytes.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.align(4)?;
        let bytes = self.take(4)?.try_into().map_err(|_| Malformed)?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub fn string(&mut self) -> Result<&'a str, Malformed> {
        let length = self.u32()? as usize;
        self.text(length)
    }

    fn signature(&mut self) -> Result<&'a str, Malformed> {
        let length = usize::from(self.byte()?);
        self.text(length)
    }

    fn text(&mut self, length: usize) -> Result<&'a str, Malformed> {
        let bytes = self.take(length)?;
        if self.byte()? != 0 || bytes.contains(&0) {
            return Err(Malformed);
        }
        std::str::from_utf8(bytes).map_err(|_| Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: Call = Call {
        destination: "org.freedesktop.DBus",
        path: "/org/freedesktop/DBus",
        interface: "org.freedesktop.DBus",
        member: "Hello",
    };

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let mut arguments = Writer::default();
        arguments.string("a").u32(7).string("");
        let bytes = HELLO.message(9, "sus", &arguments);
        let (message, length) = Message::first(&bytes).expect("lawful").expect("whole");
        assert_eq!(length, bytes.len());
        assert_eq!((message.kind, message.member, message.signature), (CALL, "Hello", "sus"));
        let mut reader = message.arguments();
        assert_eq!((reader.string(), reader.u32(), reader.string()), (Ok("a"), Ok(7), Ok("")));
        assert_eq!(reader.u32(), Err(Malformed));
    }

    #[test]
    fn of_a_part_of_a_message_more_is_waited_for() {
        let bytes = HELLO.message(1, "", &Writer::default());
        for length in 0..bytes.len() {
            assert_eq!(Message::first(&bytes[..length]), Ok(None), "{length} bytes");
        }
        let two = [&bytes[..], &bytes[..]].concat();
        assert_eq!(Message::first(&two).map(|found| found.map(|(_, length)| length)), Ok(Some(bytes.len())));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let good = HELLO.message(1, "", &Writer::default());
        let broken = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            Message::first(&bytes).map(|found| found.map(|(_, length)| length))
        };
        assert_eq!(broken(0, b'B'), Err(Malformed), "the other byte order");
        assert_eq!(broken(1, 0), Err(Malformed), "no kind");
        assert_eq!(broken(3, 2), Err(Malformed), "another version");
        assert_eq!(broken(6, 0xff), Err(Malformed), "too long");
        assert_eq!(broken(14, 0xff), Err(Malformed), "too many fields");
        assert_eq!(broken(FIXED + 2, b'y'), Err(Malformed), "a path that is a byte");
        assert_eq!(broken(FIXED + 4, 0xff), Err(Malformed), "a path longer than the message");
    }
}
