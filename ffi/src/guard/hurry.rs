// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Priority for as long as it takes to end a crowd.
//!
//! Hundreds that fork leave the one who ends them a hundredth of a processor.
//! Who ends a few is not to have it: where a thousand trees end at once, what
//! their ends wait for would get nothing beside their keepers.

use rustix::process::{getpriority_process, setpriority_process};
use std::cell::Cell;

const HIGHEST: i32 = -20;

/// Gives back what was taken when it is dropped.
#[derive(Default)]
pub struct Hurry {
    before: Cell<Option<i32>>,
}

impl Hurry {
    /// Refused to whoever is not root: then it takes longer.
    pub fn up(&self) {
        if self.before.get().is_none() {
            self.before.set(getpriority_process(None).ok());
            let _ = setpriority_process(None, HIGHEST); // as said
        }
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        self.before.get().map(|before| setpriority_process(None, before));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_given_back() {
        let own = || getpriority_process(None).expect("a priority");
        let before = own();
        let hurry = Hurry::default();
        assert_eq!(own(), before, "not before it is needed");
        hurry.up();
        hurry.up();
        assert!(own() == HIGHEST || own() == before, "{}", own());
        drop(hurry);
        assert_eq!(own(), before);
    }
}
