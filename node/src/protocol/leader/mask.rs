//! A set of followers as bits, which makes counting a quorum one instruction.

use std::ops::{BitAnd, BitOr};

/// Index of a follower in the leader's table, and its bit in a [`Mask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub(crate) u8);

impl SlotId {
    /// Position in the table.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Maximum number of followers of a leader: the bits of a [`Mask`].
pub const FOLLOWERS_MAX: usize = 64;

/// A set of slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mask(u64);

impl Mask {
    /// Whether the slot is in the set.
    #[must_use]
    pub fn contains(self, slot: SlotId) -> bool {
        self.0 & (1 << slot.0) != 0
    }

    /// The only slot of the set; `None` if it has none or several.
    #[must_use]
    pub fn only(self) -> Option<SlotId> {
        (self.count() == 1).then(|| SlotId(self.0.trailing_zeros() as u8))
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn insert(&mut self, slot: SlotId) {
        self.0 |= 1 << slot.0;
    }

    pub(super) fn remove(&mut self, slot: SlotId) {
        self.0 &= !(1 << slot.0);
    }

    pub(super) fn count(self) -> usize {
        self.0.count_ones() as usize
    }
}

impl BitAnd for Mask {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for Mask {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl From<SlotId> for Mask {
    fn from(slot: SlotId) -> Self {
        Self(1 << slot.0)
    }
}

/// The slots in ascending order.
impl IntoIterator for Mask {
    type Item = SlotId;
    type IntoIter = Slots;

    fn into_iter(self) -> Slots {
        Slots(self)
    }
}

/// Iterates over the slots of a [`Mask`].
#[derive(Clone, Debug)]
pub struct Slots(Mask);

impl Iterator for Slots {
    type Item = SlotId;

    fn next(&mut self) -> Option<SlotId> {
        if self.0.is_empty() {
            return None;
        }
        let slot = SlotId(self.0.0.trailing_zeros() as u8);
        self.0.remove(slot);
        Some(slot)
    }
}

impl FromIterator<SlotId> for Mask {
    fn from_iter<I: IntoIterator<Item = SlotId>>(slots: I) -> Self {
        let mut mask = Self::default();
        slots.into_iter().for_each(|slot| mask.insert(slot));
        mask
    }
}
