// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! How fields are put into a record, and taken off it.

use super::Malformed;

/// Appends fields to a record.
#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    pub fn u32(&mut self, n: u32) -> &mut Self {
        self.0.extend_from_slice(&n.to_le_bytes());
        self
    }

    pub fn i32(&mut self, n: i32) -> &mut Self {
        self.u32(n as u32)
    }

    pub fn u64(&mut self, n: u64) -> &mut Self {
        self.0.extend_from_slice(&n.to_le_bytes());
        self
    }

    pub fn f64(&mut self, n: f64) -> &mut Self {
        self.u64(n.to_bits())
    }

    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn blob(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(bytes.len() as u32).raw(bytes)
    }

    pub fn done(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

/// Takes fields off a record; every `take` compares before it slices.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    pub fn raw(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(Malformed)?;
        self.0 = rest;
        Ok(head)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.raw(N)?.try_into().map_err(|_| Malformed)
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[b]| b)
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// 0 or 1: any other number is somebody who means more than we understand.
    pub fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    pub fn blob(&mut self) -> Result<&'a [u8], Malformed> {
        let n = self.u32()?;
        self.raw(n as usize)
    }

    /// A count of elements that take at least `each` bytes: one larger than
    /// what is left could hold is refused before anything is reserved for it.
    pub fn count(&mut self, each: usize) -> Result<usize, Malformed> {
        let n = self.u32()? as usize;
        if n.checked_mul(each).is_none_or(|bytes| bytes > self.0.len()) {
            return Err(Malformed);
        }
        Ok(n)
    }

    /// Trailing bytes are an error.
    pub fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Malformed)
        }
    }
}

impl Reader<'_> {
    /// A blob that a C string can hold.
    pub(super) fn text(&mut self) -> Result<Vec<u8>, Malformed> {
        let bytes = self.blob()?;
        if bytes.contains(&0) {
            Err(Malformed)
        } else {
            Ok(bytes.to_vec())
        }
    }

    /// A text in UTF-8 that a C string can hold.
    pub(super) fn word(&mut self) -> Result<String, Malformed> {
        String::from_utf8(self.text()?).map_err(|_| Malformed)
    }

    /// A variable and its value, or none to unset it.
    pub(super) fn change(&mut self) -> Result<(Vec<u8>, Option<Vec<u8>>), Malformed> {
        let (key, set, value) = (self.name()?, self.flag()?, self.text()?);
        if !set && !value.is_empty() {
            return Err(Malformed);
        }
        Ok((key, set.then_some(value)))
    }

    /// A text that can name a variable.
    pub(super) fn name(&mut self) -> Result<Vec<u8>, Malformed> {
        let bytes = self.text()?;
        if bytes.is_empty() || bytes.contains(&b'=') {
            Err(Malformed)
        } else {
            Ok(bytes)
        }
    }
}
