// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! For how long somebody has left unread what it was sent.

use std::time::{Duration, Instant};

/// Between two looks at somebody who is late.
pub const TICK: Duration = Duration::from_secs(1);

/// Of a guardian: whether it reads what it is sent.
#[derive(Default)]
pub struct Silence {
    /// How many looks in a row have found something unread, and nothing read since the one before.
    looks: u32,
    /// How much had been read at the last.
    progress: u64,
    last: Option<Instant>,
}

impl Silence {
    /// Takes a look in: how much has been read, where something is left. How many looks in a row it makes that have seen
    /// nothing being read, of those that are a tick apart; one where somebody reads, and is behind.
    pub fn look(&mut self, progress: Option<u64>, now: Instant) -> u32 {
        let soon = self.last.is_some_and(|last| now < last + TICK / 2);
        match progress {
            None => *self = Silence::default(),
            Some(progress) if self.looks == 0 || progress > self.progress => {
                *self = Silence { looks: 1, progress, last: Some(now) };
            }
            Some(_) if soon => {}
            Some(_) => (self.looks, self.last) = (self.looks + 1, Some(now)),
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
        assert_eq!(silence.look(Some(0), start), 1);
        assert_eq!(silence.look(Some(0), start + TICK / 4), 1, "another port's look at the same moment");
        assert_eq!(silence.look(Some(0), start + TICK), 2);
        assert_eq!(silence.look(None, start + TICK * 2), 0);
        assert_eq!(silence.look(Some(9), start + TICK * 3), 1);
    }

    #[test]
    fn who_is_behind_and_reads_is_not_silent() {
        let mut silence = Silence::default();
        let start = Instant::now();
        assert_eq!(silence.look(Some(100), start), 1);
        assert_eq!(silence.look(Some(100), start + TICK), 2);
        assert_eq!(silence.look(Some(101), start + TICK * 2), 1, "a single message");
        assert_eq!(silence.look(Some(102), start + TICK * 3), 1);
        assert_eq!(silence.look(Some(102), start + TICK * 4), 2);
    }
}
