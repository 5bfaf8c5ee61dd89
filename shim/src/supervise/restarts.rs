//! When the serving process is started again: how long it lived in, a pause or giving up out. Pure.

use std::time::Duration;

/// A process that lived this long was in order: what went before is forgotten.
const GOOD: Duration = Duration::from_secs(30);
/// So many short lives in a row are ended by others, or bad luck: no pause.
const AT_ONCE: u32 = 3;
/// So many are no bad luck: the kubelet is to see it.
const MOST: u32 = 12;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Short lives in a row.
#[derive(Debug, Default)]
pub(crate) struct Restarts(u32);

impl Restarts {
    /// The pause before the next start, or `None` when there is to be none.
    pub(crate) fn next(&mut self, lived: Duration) -> Option<Duration> {
        self.0 = if lived >= GOOD { 1 } else { self.0 + 1 };
        match self.0 {
            0..=AT_ONCE => Some(Duration::ZERO),
            n if n > MOST => None,
            n => Some(FIRST_PAUSE.saturating_mul(1 << (n - AT_ONCE - 1)).min(LONGEST_PAUSE)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_once_then_ever_later_then_not_again() {
        let mut restarts = Restarts::default();
        let pauses: Vec<_> = (0..14).map(|_| restarts.next(Duration::from_secs(1)).map(|p| p.as_millis())).collect();
        let want = [0, 0, 0, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000].map(Some);
        assert_eq!(pauses[..12], want);
        assert_eq!(pauses[12..], [None, None]);
    }

    #[test]
    fn a_good_life_makes_up_for_what_was_before() {
        let mut restarts = Restarts::default();
        for _ in 0..12 {
            restarts.next(Duration::ZERO);
        }
        assert_eq!(restarts.next(GOOD), Some(Duration::ZERO));
        assert_eq!(restarts.next(Duration::ZERO), Some(Duration::ZERO));
    }
}
