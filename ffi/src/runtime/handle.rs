// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Numbers for things that may only be named over the ABI: slot and
//! generation. A stale or forged number finds nothing.
//!
//! 16 bits of slot, 15 of generation. A slot is used again only while at least
//! `FRESH` others wait, so a number comes back after some 33 million ports at
//! the earliest; one kept that long could name a younger port of its own isolate.

use std::collections::VecDeque;

const SLOT_BITS: u32 = 16;
const SLOTS: usize = 1 << SLOT_BITS;
const GENERATIONS: u32 = 1 << 15;
const FRESH: usize = 1024;

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Values by handle.
pub struct Slots<T> {
    slots: Vec<Slot<T>>,
    vacant: VecDeque<usize>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots { slots: Vec::new(), vacant: VecDeque::new() }
    }
}

impl<T> Slots<T> {
    /// Stores what `make` makes of its own handle; `None` when all slots are taken.
    pub fn insert(&mut self, make: impl FnOnce(i32) -> T) -> Option<i32> {
        let reuse = self.vacant.len() >= FRESH || self.slots.len() == SLOTS;
        let at = if reuse { self.vacant.pop_front()? } else { self.slots.len() };
        if at == self.slots.len() {
            self.slots.push(Slot { generation: 0, value: None });
        }
        let slot = self.slots.get_mut(at)?;
        let handle = (slot.generation << SLOT_BITS | at as u32) as i32;
        slot.value = Some(make(handle));
        Some(handle)
    }

    fn slot(&self, handle: i32) -> Option<usize> {
        let (at, generation) = split(handle)?;
        (self.slots.get(at)?.generation == generation).then_some(at)
    }

    pub fn get(&self, handle: i32) -> Option<&T> {
        self.slots[self.slot(handle)?].value.as_ref()
    }

    /// Takes the value out; its handle finds nothing from then on.
    pub fn remove(&mut self, handle: i32) -> Option<T> {
        let at = self.slot(handle)?;
        let slot = &mut self.slots[at];
        let value = slot.value.take()?;
        slot.generation = (slot.generation + 1) % GENERATIONS;
        self.vacant.push_back(at);
        Some(value)
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }
}

fn split(handle: i32) -> Option<(usize, u32)> {
    let bits = u32::try_from(handle).ok()?;
    Some((bits as usize % SLOTS, bits >> SLOT_BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_handle_finds_nothing_even_after_its_slot_is_used_again() {
        let mut slots = Slots::default();
        let first = slots.insert(|h| h).expect("room");
        assert_eq!(slots.remove(first), Some(first));
        let later: Vec<i32> = (0..2 * FRESH)
            .filter_map(|_| {
                let handle = slots.insert(|h| h)?;
                slots.remove(handle)
            })
            .collect();
        assert!(
            later.iter().any(|h| split(*h).map(|s| s.0) == split(first).map(|s| s.0)),
            "the slot came back"
        );
        assert!(!later.contains(&first));
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.remove(first), None);
    }

    #[test]
    fn forged_handles_find_nothing() {
        let mut slots = Slots::default();
        let handle = slots.insert(|h| h).expect("room");
        for forged in [-1, i32::MIN, i32::MAX, handle + 1, handle | 1 << 16, handle | 1 << 30] {
            assert_eq!(slots.get(forged), None, "{forged}");
        }
        assert_eq!(slots.get(handle), Some(&handle));
    }

    #[test]
    fn a_full_table_says_so_and_generations_wrap() {
        let mut slots = Slots::default();
        for _ in 0..SLOTS {
            assert!(slots.insert(|_| ()).is_some());
        }
        assert_eq!(slots.insert(|_| ()), None);
        for _ in 0..2 * GENERATIONS {
            let any = slots.slots[7].generation << SLOT_BITS | 7;
            assert!(slots.remove(any as i32).is_some());
            assert!(slots.insert(|_| ()).is_some_and(|h| h >= 0));
        }
    }
}
