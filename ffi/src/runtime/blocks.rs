// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Memory to read into that is used again.
//!
//! A collector gives chunks back in heaps of hundreds, and what was given back
//! to the allocator costs its page faults once more. So much is kept while some
//! port floods, and next to nothing otherwise.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What one read takes at most: all that a grown pipe holds.
pub const BLOCK: usize = 256 * 1024;

pub type Block = Box<[u8; BLOCK]>;

/// Idle blocks while a port floods. It does not raise the peak: each was held by JavaScript before.
const MOST: usize = 512;
/// And otherwise.
const LEAST: usize = 4;

/// Blocks that nobody holds.
static IDLE: Mutex<Vec<Block>> = Mutex::new(Vec::new());

fn idle() -> MutexGuard<'static, Vec<Block>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn take() -> Block {
    let used = idle().pop();
    used.unwrap_or_else(|| Box::new([0; BLOCK]))
}

pub fn give_back(block: Block, flooding: bool) {
    let most = if flooding { MOST } else { LEAST };
    let mut idle = idle();
    if idle.len() < most {
        idle.push(block);
    }
}

/// Nobody floods any more.
pub fn trim() {
    let surplus = {
        let mut idle = idle();
        let keep = idle.len().min(LEAST);
        idle.split_off(keep)
    };
    drop(surplus); // unmapped without the lock
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_kept_within_bounds_and_let_go() {
        let blocks: Vec<_> = (0..MOST + 9).map(|_| take()).collect();
        blocks.into_iter().for_each(|block| give_back(block, true));
        assert_eq!(idle().len(), MOST);
        trim();
        assert_eq!(idle().len(), LEAST);
        give_back(take(), false);
        give_back(Box::new([0; BLOCK]), false);
        assert_eq!(idle().len(), LEAST);
    }
}
