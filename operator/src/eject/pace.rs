//! How quickly one shim answers. In: what it counts; out: windows, one after another, in which enough has happened to be
//! compared with other shims. Pure.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use podless_link::{pace::typical, v1};

/// Shortest time that is looked at.
const SHORTEST: Duration = Duration::from_millis(2500);
/// Longest: who answers so little in this time says nothing.
const LONGEST: Duration = Duration::from_secs(10);
/// Requests in a window, at least.
const ENOUGH: u64 = 10;

/// What has happened to the requests of a service between two looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// Generation of the object that was served all the while.
    pub generation: i64,
    /// Requests that were answered, and those that wait.
    pub requests: u64,
    /// What an answer takes, in microseconds.
    pub micros: f64,
    /// The earlier look.
    pub from: Instant,
    /// The later one.
    pub until: Instant,
}

/// What one shim has counted, by service.
#[derive(Debug, Default)]
pub struct Pace {
    services: HashMap<String, Last>,
}

#[derive(Debug)]
struct Last {
    generation: i64,
    said: v1::Pace,
    at: Instant,
    window: Option<Window>,
}

impl Pace {
    /// The shim has counted, while it serves this generation of the object.
    pub fn told(&mut self, service: &str, generation: i64, said: v1::Pace, now: Instant) {
        let Some(last) = self.services.get_mut(service) else {
            self.services.insert(service.to_owned(), Last { generation, said, at: now, window: None });
            return;
        };
        let over = now.saturating_duration_since(last.at);
        let counted = last.said.answered <= said.answered && last.said.weights <= said.weights;
        if last.generation != generation || !counted || over > LONGEST {
            *last = Last { generation, said, at: now, window: None };
        } else if over >= SHORTEST
            && let Some((requests, micros)) = pace(&last.said, &said, over)
        {
            let window = Window { generation, requests, micros, from: last.at, until: now };
            *last = Last { generation, said, at: now, window: Some(window) };
        }
    }

    /// The latest window of each service, unless it is old. What is older than that is forgotten.
    pub fn windows(&mut self, now: Instant) -> HashMap<String, Window> {
        self.services.retain(|_, last| now.saturating_duration_since(last.at) <= LONGEST);
        self.services.iter().filter_map(|(uid, last)| Some((uid.clone(), last.window?))).collect()
    }
}

/// How many requests there were, and what an answer took, in microseconds. `None`: there were too few. Where nearly nothing
/// is answered, those that wait tell: as long as it would take to answer them all.
fn pace(before: &v1::Pace, after: &v1::Pace, over: Duration) -> Option<(u64, f64)> {
    let (answered, waiting) = (after.answered - before.answered, u64::from(after.waiting));
    let micros = if answered >= ENOUGH {
        typical(after.weights - before.weights, answered)
    } else if waiting >= ENOUGH {
        over.as_secs_f64() * 1e6 * waiting as f64 / answered.max(1) as f64
    } else {
        return None;
    };
    Some((answered.saturating_add(waiting), micros))
}

#[cfg(test)]
mod tests {
    use podless_link::pace::weight;

    use super::*;

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// So many requests answered after 8 ms each, and some that wait.
    fn said(answered: u64, waiting: u32) -> v1::Pace {
        v1::Pace { waiting, answered, weights: answered * weight(millis(8)) }
    }

    /// The window after these messages, at milliseconds: its length, its requests and milliseconds of an answer.
    fn check(told: &[(u64, i64, v1::Pace)], want: Option<(u64, u64, u64)>) {
        let (mut pace, start) = (Pace::default(), Instant::now());
        for (at, generation, said) in told {
            pace.told("s", *generation, *said, start + millis(*at));
        }
        let now = start + millis(told.last().map_or(0, |(at, ..)| *at));
        let window = pace.windows(now).remove("s");
        let got = window.map(|w| ((w.until - w.from).as_millis() as u64, w.requests, (w.micros / 1e3).round() as u64));
        assert_eq!(got, want, "{told:?}");
    }

    #[test]
    fn a_window_is_long_enough_and_says_enough() {
        let first = (0, 1, said(100, 0));
        check(&[first], None);
        check(&[first, (2400, 1, said(200, 0))], None);
        check(&[first, (2400, 1, said(200, 0)), (2600, 1, said(210, 3))], Some((2600, 113, 8)));
        check(&[first, (2600, 1, said(200, 0)), (5200, 1, said(220, 0))], Some((2600, 20, 8)));
        // Few requests: it takes longer until they are enough, and at last too long.
        check(&[first, (3000, 1, said(109, 0)), (6000, 1, said(118, 0))], Some((6000, 18, 8)));
        check(&[first, (3000, 1, said(109, 0)), (10_100, 1, said(180, 0))], None);
        // Another object, another process.
        check(&[first, (3000, 2, said(150, 0))], None);
        check(&[first, (3000, 2, said(150, 0)), (6000, 2, said(170, 0))], Some((3000, 20, 8)));
        check(&[first, (3000, 1, said(50, 0))], None);
        check(&[first, (3000, 1, v1::Pace { weights: 1, ..said(500, 0) })], None);
    }

    #[test]
    fn who_answers_nothing_is_known_by_those_that_wait() {
        let first = (0, 1, said(100, 0));
        check(&[first, (5000, 1, said(100, 9))], None);
        check(&[first, (5000, 1, said(100, 10))], Some((5000, 10, 50_000)));
        check(&[first, (5000, 1, said(104, 20))], Some((5000, 24, 25_000)));
        check(&[first, (5000, 1, said(110, 20))], Some((5000, 30, 8)));
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        pace.told("s", 1, said(0, 0), start);
        pace.told("s", 1, said(50, 0), start + millis(3000));
        assert_eq!(pace.windows(start + millis(13_000)).len(), 1);
        assert!(pace.windows(start + millis(13_001)).is_empty());
        assert!(pace.services.is_empty());
    }
}
