//! The table of what was to be reached: a ratio of each round in, a row with its mark out. Pure.

use anyhow::Result;
use podless_e2e::figures::stats::Spread;
use serde::{Deserialize, Serialize};

/// What a figure should come to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Aim {
    /// At most: floor and goal.
    Most(f64, f64),
    /// At least: floor and goal.
    Least(f64, f64),
}

/// One line of the table.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    pub(crate) figure: String,
    /// Over the rounds.
    pub(crate) measured: Spread,
    pub(crate) floor: f64,
    pub(crate) goal: f64,
    /// Whether less is better.
    pub(crate) at_most: bool,
}

impl Row {
    pub(crate) fn new(figure: &str, rounds: impl IntoIterator<Item = f64>, aim: Aim) -> Result<Self> {
        let (at_most, floor, goal) = match aim {
            Aim::Most(floor, goal) => (true, floor, goal),
            Aim::Least(floor, goal) => (false, floor, goal),
        };
        Ok(Self { figure: figure.to_owned(), measured: Spread::of(rounds)?, floor, goal, at_most })
    }

    fn mark(&self) -> &'static str {
        let meets = |aim: f64| if self.at_most { self.measured.median <= aim } else { self.measured.median >= aim };
        match (meets(self.goal), meets(self.floor)) {
            (true, _) => "✓ goal",
            (false, true) => "✓ floor",
            _ => "✗",
        }
    }

    /// In a line, for who waits.
    pub(crate) fn line(&self) -> String {
        let Spread { min, median, max, .. } = &self.measured;
        let sign = if self.at_most { "≤" } else { "≥" };
        let [min, median, max, floor, goal] = [*min, *median, *max, self.floor, self.goal].map(short);
        format!("{}: {min} / {median} / {max}, floor {sign} {floor}, goal {sign} {goal}: {}", self.figure, self.mark())
    }

    fn tell(&self) -> String {
        let Spread { min, median, max, .. } = &self.measured;
        let sign = if self.at_most { "≤" } else { "≥" };
        let [min, median, max, floor, goal] = [*min, *median, *max, self.floor, self.goal].map(short);
        let mark = self.mark();
        format!("| {} | {min} / **{median}** / {max} | {sign} {floor} | {sign} {goal} | {mark} |\n", self.figure)
    }
}

/// The whole table.
pub(crate) fn tell(rows: &[Row]) -> String {
    let rows: String = rows.iter().map(Row::tell).collect();
    format!("| figure | min / **median** / max | floor | goal | |\n|---|---|---|---|---|\n{rows}\n")
}

/// Two or three digits.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => {
            let digits = format!("{value:.0}");
            let mut out = String::new();
            for (at, digit) in digits.char_indices() {
                if at > 0 && (digits.len() - at).is_multiple_of(3) {
                    out.push(',');
                }
                out.push(digit);
            }
            out
        }
        large if large >= 10.0 => format!("{value:.0}"),
        _ => {
            let text = format!("{value:.2}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_by_the_median() -> Result<()> {
        let row = |rounds, aim| Row::new("a figure", rounds, aim).map(|row| row.mark());
        assert_eq!(row([0.1, 0.15, 9.0], Aim::Most(0.22, 0.15))?, "✓ goal");
        assert_eq!(row([0.1, 0.2, 9.0], Aim::Most(0.22, 0.15))?, "✓ floor");
        assert_eq!(row([0.1, 0.23, 9.0], Aim::Most(0.22, 0.15))?, "✗");
        assert_eq!(row([0.1, 0.64, 0.8], Aim::Least(0.63, 0.85))?, "✓ floor");
        assert_eq!(row([0.1, 0.85, 0.9], Aim::Least(0.63, 0.85))?, "✓ goal");
        assert_eq!(row([0.1, 0.62, 0.9], Aim::Least(0.63, 0.85))?, "✗");
        let told = tell(&[Row::new("a figure", [1.0, 2.0, 3.5], Aim::Most(4.0, 2.0))?]);
        assert!(told.ends_with("| a figure | 1 / **2** / 3.5 | ≤ 4 | ≤ 2 | ✓ goal |\n\n"), "{told}");
        Ok(())
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.226, 0.5, 1.0, 12.34, 999.6, 20_000.0, 1_234_567.0].map(short),
            ["0.23", "0.5", "1", "12", "1000", "20,000", "1,234,567"]
        );
    }
}
