//! IDs of items: 64 bits, written as 16 hexadecimal digits. Pure.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::item::Item;

/// The ID of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id(u64);

impl Id {
    /// The ID of this number.
    pub(crate) fn number(number: u64) -> Self {
        Self(number)
    }

    /// The ID that a new item gets: a hash (FNV-1a) of what it is, so that the same request has the same answer.
    pub(crate) fn of(item: &Item) -> Self {
        let text = serde_json::to_vec(item).unwrap_or_default();
        Self(
            text.iter()
                .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)),
        )
    }

    /// Reads an ID.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        digits.then(|| u64::from_str_radix(text, 16).ok().map(Self)).flatten()
    }

    /// Its number.
    pub(crate) fn value(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
