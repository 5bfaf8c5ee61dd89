//! An item: JSON that a client sent in, an item that keeps the rules or why not out. Pure.

use std::collections::BTreeMap;

use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::error::Category;

use crate::problem;

/// What a client sends.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Item {
    /// 1 to 80 characters.
    pub(crate) name: String,
    /// At most 1,000 characters.
    pub(crate) description: String,
    /// What one costs.
    pub(crate) price: Price,
    /// At most 16 different words of lower-case letters.
    #[serde(default)]
    pub(crate) tags: Vec<String>,
    /// At most 16, each at most 80 characters.
    #[serde(default)]
    pub(crate) attributes: BTreeMap<String, String>,
    /// How many are where: at most 16 places.
    #[serde(default)]
    pub(crate) stock: Vec<Stock>,
}

/// What one item costs.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Price {
    /// In the currency's smallest unit.
    pub(crate) amount: u64,
    /// Three capital letters.
    pub(crate) currency: String,
}

/// How many items are in one place.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stock {
    /// 1 to 80 characters.
    pub(crate) place: String,
    /// How many.
    pub(crate) count: u32,
}

/// A rule that an item breaks.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub(crate) struct Fault {
    field: &'static str,
    must: &'static str,
}

impl Item {
    /// Reads an item, or answers why it is none.
    pub(crate) fn read(body: &[u8]) -> Result<Self, Response<Vec<u8>>> {
        let item: Self = serde_json::from_slice(body).map_err(|error| {
            let status = match error.classify() {
                Category::Data => StatusCode::UNPROCESSABLE_ENTITY,
                Category::Syntax | Category::Eof | Category::Io => StatusCode::BAD_REQUEST,
            };
            problem(status, &error.to_string(), vec![])
        })?;
        let faults = item.faults();
        if faults.is_empty() {
            Ok(item)
        } else {
            Err(problem(StatusCode::UNPROCESSABLE_ENTITY, "the item breaks rules", faults))
        }
    }

    fn faults(&self) -> Vec<Fault> {
        let Self { name, description, price, tags, attributes, stock } = self;
        let word = |tag: &String| (1..=32).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_lowercase());
        let again = |tag: &String| tags.iter().filter(|other| *other == tag).count() > 1;
        [
            (is_label(name), "name", "have 1 to 80 characters"),
            (description.chars().count() <= 1000, "description", "have at most 1000 characters"),
            (price.amount <= 100_000_000, "price.amount", "be at most 100000000"),
            (is_currency(&price.currency), "price.currency", "be three capital letters"),
            (tags.len() <= 16 && tags.iter().all(word), "tags", "be at most 16 words of a to z"),
            (!tags.iter().any(again), "tags", "not repeat a word"),
            (
                attributes.len() <= 16 && attributes.iter().all(|(key, value)| is_label(key) && is_label(value)),
                "attributes",
                "be at most 16 of 1 to 80 characters",
            ),
            (stock.len() <= 16 && stock.iter().all(|s| is_label(&s.place)), "stock", "be at most 16 places with names"),
        ]
        .into_iter()
        .filter_map(|(kept, field, must)| (!kept).then_some(Fault { field, must }))
        .collect()
    }
}

fn is_label(text: &str) -> bool {
    (1..=80).contains(&text.chars().count())
}

fn is_currency(text: &str) -> bool {
    text.len() == 3 && text.bytes().all(|b| b.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn each_rule_is_named_when_it_is_broken() {
        let good: Value = serde_json::from_slice(include_bytes!("../item.json")).expect("JSON");
        for (field, value, broken) in [
            ("name", json!(""), "name"),
            ("name", json!("x".repeat(81)), "name"),
            ("description", json!("x".repeat(1001)), "description"),
            ("price", json!({"amount": 100_000_001, "currency": "EUR"}), "price.amount"),
            ("price", json!({"amount": 1, "currency": "Eur"}), "price.currency"),
            ("tags", json!(["two words"]), "tags"),
            ("tags", json!(["a", "a"]), "tags"),
            ("tags", json!(vec!["a"; 17]), "tags"),
            ("attributes", json!({"": "x"}), "attributes"),
            ("stock", json!([{"place": "", "count": 1}]), "stock"),
        ] {
            let mut item = good.clone();
            item[field] = value.clone();
            let read: Item = serde_json::from_value(item).expect("its shape is right");
            let fields: Vec<_> = read.faults().into_iter().map(|fault| fault.field).collect();
            assert!(fields.contains(&broken), "{field}: {value}: {fields:?}");
        }
        assert!(Item::read(good.to_string().as_bytes()).is_ok());
    }
}
