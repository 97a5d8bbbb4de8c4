// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! For how long somebody has left unread what it was sent.

use std::time::{Duration, Instant};

/// Between two looks at somebody who is late.
pub const TICK: Duration = Duration::from_secs(1);

/// Of a guardian: whether it reads what it is sent.
#[derive(Default)]
pub struct Silence {
    /// How many looks in a row have found something unread.
    looks: u32,
    last: Option<Instant>,
}

impl Silence {
    /// Takes a look in. How many it makes in a row, of those that are a tick apart.
    pub fn look(&mut self, unread: bool, now: Instant) -> u32 {
        let soon = self.last.is_some_and(|last| now < last + TICK / 2);
        if !unread {
            *self = Silence::default();
        } else if !soon {
            (self.looks, self.last) = (self.looks + 1, Some(now));
        }
        self.looks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_looks_in_a_row_and_a_tick_apart_count() {
        let mut silence = Silence::default();
        let start = Instant::now();
        assert_eq!(silence.look(true, start), 1);
        assert_eq!(silence.look(true, start + TICK / 4), 1, "another port's look at the same moment");
        assert_eq!(silence.look(true, start + TICK), 2);
        assert_eq!(silence.look(false, start + TICK * 2), 0);
        assert_eq!(silence.look(true, start + TICK * 3), 1);
    }
}
