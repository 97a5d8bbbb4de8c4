// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Numbers and bytes at random, the same in every run.
#![allow(dead_code, reason = "each test uses its own part")]

/// Marsaglia's xorshift with a multiplication behind it: no good for secrets, good enough for tests.
pub struct Random(u64);

/// Numbers at which arithmetic goes wrong, if it does.
pub const EDGES: [u32; 9] =
    [0, 1, 2, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, u32::MAX, u32::MAX / 28 + 1, u32::MAX / 4 + 1];

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.max(1)) // zero would stay zero
    }

    pub fn u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.u64() % n as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Any number, an edge as often as not.
    pub fn u32(&mut self) -> u32 {
        if self.one_in(2) {
            self.of(&EDGES)
        } else {
            self.u64() as u32
        }
    }

    pub fn i32(&mut self) -> i32 {
        self.u32() as i32
    }

    /// Bytes, fewer than `most`.
    pub fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most)).map(|_| self.u64() as u8).collect()
    }

    /// Fewer than `most` of what `each` makes.
    pub fn list<T>(&mut self, most: usize, mut each: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most)).map(|_| each(self)).collect()
    }

    /// Bytes that mean something more often than bytes do: mostly small numbers.
    pub fn noise(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most)).map(|_| if self.one_in(4) { self.below(8) as u8 } else { 0 }).collect()
    }
}
