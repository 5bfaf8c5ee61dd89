//! What a store would have: an ID in, its item out, about 1 KB and the same each time. Pure.

use crate::{
    id::Id,
    item::{Item, Price, Stock},
};

const WORDS: [&str; 16] = [
    "amber", "birch", "cedar", "delta", "ember", "flint", "grove", "heron", "inlet", "jetty", "knoll", "larch",
    "maple", "north", "ocean", "prism",
];

/// Words of a description: so many make the whole about 1 KB.
const LENGTH: usize = 112;

/// The item of this ID.
pub(crate) fn item(id: Id) -> Item {
    let mut dice = Dice(id.value());
    Item {
        name: format!("{} {}", dice.word(), dice.word()),
        description: (0..LENGTH).map(|_| dice.word()).collect::<Vec<_>>().join(" "),
        price: Price { amount: dice.roll() % 100_000, currency: "EUR".to_owned() },
        tags: WORDS.iter().skip((dice.roll() % 12) as usize).take(4).map(|word| (*word).to_owned()).collect(),
        attributes: ["colour", "material", "origin"].map(|key| (key.to_owned(), dice.word().to_owned())).into(),
        stock: [1, 2, 3].map(|hall| Stock { place: format!("hall {hall}"), count: (dice.roll() % 1000) as u32 }).into(),
    }
}

/// Numbers that look random and are not (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn word(&mut self) -> &'static str {
        WORDS[(self.roll() % WORDS.len() as u64) as usize]
    }
}
