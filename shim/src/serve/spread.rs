//! Which of a port's connections come again, and when, because more shims get its connections than before. In: how many
//! did and do, the time, what was drawn at random for a connection; out: its turn, if it has one. Pure.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

/// Every kube-proxy has learned of a new endpoint by then: who comes again sooner would find only the old ones.
const QUIET: Duration = Duration::from_secs(2);
/// The turns are spread evenly over this time: nobody has to take all new connections at once.
const WINDOW: Duration = Duration::from_secs(5);

/// A share of the connections that are open is to come again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    before: u32,
    after: u32,
    since: Instant,
    draw: u64,
}

impl Spread {
    /// So many shims got connections before, and now. What follows another while that goes on makes a series with it:
    /// one step from where the series began to where it is now. That keeps the series' draw, so whoever tells the same
    /// again and again asks no more connections by it.
    pub(crate) fn after(last: Option<Self>, before: u32, after: u32, now: Instant, draw: u64) -> Self {
        let (before, draw) = match last {
            Some(last) if now < last.since + QUIET + WINDOW => (before.min(last.before), last.draw),
            _ => (before, draw),
        };
        Self { before, after, since: now, draw }
    }

    /// When the connection of this draw is to come again: its own draw and that of the series decide.
    pub(crate) fn turn(&self, draw: u64) -> Option<Instant> {
        let share = share(self.before, self.after);
        let point = fraction(mixed(self.draw, draw));
        (point < share).then(|| self.since + QUIET + WINDOW.mul_f64(point / share))
    }
}

/// The share of connections that come again. Who does is sent anywhere, back to where it was as well: were it only the
/// share that the new shims should have, the old ones would keep up to twice theirs. By the square it is a quarter more.
fn share(before: u32, after: u32) -> f64 {
    1.0 - (f64::from(before) / f64::from(after)).powi(2)
}

/// Who stayed in one series is no more and no less likely than others to stay in the next.
fn mixed(series: u64, connection: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (series, connection).hash(&mut hasher);
    hasher.finish()
}

/// A number that was drawn from all of 64 bits, from 0 to 1.
pub(super) fn fraction(draw: u64) -> f64 {
    draw as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const CONNECTIONS: u64 = 4000;

    fn asked(spread: &Spread) -> BTreeSet<u64> {
        (0..CONNECTIONS).filter(|draw| spread.turn(*draw).is_some()).collect()
    }

    /// About this share of so many, as far as chance may be off: six standard deviations.
    fn about(count: usize, share: f64, of: usize) -> bool {
        let of = of as f64;
        (count as f64 - share * of).abs() <= 6.0 * (of * share * (1.0 - share)).sqrt() + 1.0
    }

    proptest! {
        #[test]
        fn a_share_comes_again_evenly_in_its_time(before in 1u32..50, more in 1u32..50, draw: u64) {
            let now = Instant::now();
            let spread = Spread::after(None, before, before + more, now, draw);
            let turns: Vec<_> = (0..CONNECTIONS).filter_map(|draw| spread.turn(draw)).collect();
            let share = share(before, before + more);
            prop_assert!(about(turns.len(), share, CONNECTIONS as usize), "{} of {share}", turns.len());
            prop_assert!(turns.iter().all(|turn| (now + QUIET..=now + QUIET + WINDOW).contains(turn)));
            let early = turns.iter().filter(|turn| **turn < now + QUIET + WINDOW / 4).count();
            prop_assert!(about(early, 0.25, turns.len()), "{early} of {} in the first quarter", turns.len());
        }

        #[test]
        fn a_series_asks_as_one_step_does(steps in prop::collection::vec(0u32..9, 1..6), millis in 0u64..7000, draw: u64) {
            let now = Instant::now();
            let (mut last, mut shims) = (Spread::after(None, 2, 3, now, draw), 3);
            for (n, more) in (1u32..).zip(steps) {
                let at = now + Duration::from_millis(millis) * n;
                let next = Spread::after(Some(last), shims, shims + more, at, u64::from(n));
                prop_assert!(asked(&last).is_subset(&asked(&next)));
                (last, shims) = (next, shims + more);
            }
            prop_assert_eq!(asked(&last), asked(&Spread::after(None, 2, shims, now, draw)));
        }

        #[test]
        fn who_tells_it_again_and_again_asks_no_more(millis in 0u64..7000, draw: u64, more: u64) {
            let now = Instant::now();
            let first = Spread::after(None, 1, 2, now, draw);
            let mut last = first;
            for n in 1..20 {
                last = Spread::after(Some(last), 1, 2, now + Duration::from_millis(millis) * n, more);
            }
            prop_assert_eq!(asked(&first), asked(&last));
        }

        #[test]
        fn the_next_series_asks_its_share_of_those_who_stayed(draw: u64, other: u64) {
            prop_assume!(draw != other);
            let now = Instant::now();
            let first = Spread::after(None, 1, 2, now, draw);
            let next = Spread::after(Some(first), 2, 4, now + QUIET + WINDOW, other);
            let stayed = CONNECTIONS as usize - asked(&first).len();
            let again = asked(&next).difference(&asked(&first)).count();
            prop_assert!(about(again, 0.75, stayed), "{again} of {stayed}");
        }

        #[test]
        fn who_was_there_before_keeps_a_quarter_more_than_its_share_at_most(before in 1u32..50, more in 1u32..50) {
            let (after, comes_again) = (before + more, share(before, before + more));
            let kept = (1.0 - comes_again) / f64::from(before) + comes_again / f64::from(after);
            prop_assert!(kept * f64::from(after) <= 1.25 + 1e-9, "{before} to {after}");
        }

        #[test]
        fn no_more_shims_than_before_ask_nobody(before: u32, less: u32, draw: u64) {
            let spread = Spread::after(None, before, before.saturating_sub(less), Instant::now(), draw);
            prop_assert!(asked(&spread).is_empty());
        }
    }
}
