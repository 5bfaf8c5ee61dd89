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
    /// Requests that were answered. None: as many have begun as would have been enough.
    pub answered: u64,
    /// Requests that wait at the later look.
    pub waiting: u64,
    /// What an answer takes, in microseconds; where there is none, for how long there has been none.
    pub micros: f64,
    /// The earlier look.
    pub from: Instant,
    /// The later one.
    pub until: Instant,
}

impl Window {
    /// Nothing was answered.
    pub(super) fn is_stalled(&self) -> bool {
        self.answered == 0
    }

    /// Requests that were answered, and those that wait.
    pub(super) fn requests(&self) -> u64 {
        self.answered.saturating_add(self.waiting)
    }
}

/// What one shim has counted, by service.
#[derive(Debug, Default)]
pub struct Pace {
    services: HashMap<String, Last>,
}

/// What it has counted of one service.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Requests that have begun.
    pub begun: u64,
    /// How they were answered.
    pub said: v1::Pace,
    /// When it said so.
    pub at: Instant,
}

#[derive(Debug)]
struct Last {
    generation: i64,
    /// The look that the next window begins with.
    from: Look,
    /// The latest since then that saw an answer more than the one before.
    answer: Look,
    window: Option<Window>,
}

impl Last {
    fn new(generation: i64, from: Look, window: Option<Window>) -> Self {
        Self { generation, from, answer: from, window }
    }

    /// What has happened until now, if it is enough. Too few answers say nothing: clients that wait for news are no sign of
    /// slowness.
    fn window(&self, now: &Look) -> Option<Window> {
        let answered = now.said.answered.saturating_sub(self.from.said.answered);
        let weights = now.said.weights.saturating_sub(self.from.said.weights);
        let from = if answered >= ENOUGH { self.from.at } else { self.answer.at };
        let over = now.at.saturating_duration_since(from);
        let window = Window {
            generation: self.generation,
            answered,
            waiting: u64::from(now.said.waiting),
            micros: typical(weights, answered),
            from,
            until: now.at,
        };
        if over < SHORTEST {
            None
        } else if answered >= ENOUGH {
            Some(window)
        } else {
            // Nor do those that wait by themselves: others have come after the last answer.
            let stalled = now.begun.saturating_sub(self.answer.begun) >= ENOUGH && window.waiting >= ENOUGH;
            let silent =
                self.window.filter(|last| last.is_stalled() && last.until == from).map_or(0.0, |last| last.micros);
            stalled.then_some(Window { answered: 0, micros: silent + over.as_secs_f64() * 1e6, ..window })
        }
    }
}

impl Pace {
    /// The shim has counted, while it serves this generation of the object.
    pub fn told(&mut self, service: &str, generation: i64, now: Look) {
        let Some(last) = self.services.get_mut(service) else {
            self.services.insert(service.to_owned(), Last::new(generation, now, None));
            return;
        };
        let Look { begun, said, at } = last.from;
        let counted = begun <= now.begun && said.answered <= now.said.answered && said.weights <= now.said.weights;
        if last.generation != generation || !counted || now.at.saturating_duration_since(at) > LONGEST {
            *last = Last::new(generation, now, None);
            return;
        }
        if last.answer.said.answered < now.said.answered {
            last.answer = now;
        }
        if let Some(window) = last.window(&now) {
            *last = Last::new(generation, now, Some(window));
        }
    }

    /// The latest window of each service, unless it is old. What is older than that is forgotten.
    pub fn windows(&mut self, now: Instant) -> HashMap<String, Window> {
        self.services.retain(|_, last| now.saturating_duration_since(last.from.at) <= LONGEST);
        self.services.iter().filter_map(|(uid, last)| Some((uid.clone(), last.window?))).collect()
    }
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

    /// The window after these messages, at milliseconds: its length, its requests and milliseconds of an answer. All that
    /// were answered or wait have begun, and no others.
    fn check(told: &[(u64, i64, v1::Pace)], want: Option<(u64, u64, u64)>) {
        let (mut pace, start) = (Pace::default(), Instant::now());
        for (at, generation, said) in told {
            let begun = said.answered + u64::from(said.waiting);
            pace.told("s", *generation, Look { begun, said: *said, at: start + millis(*at) });
        }
        let now = start + millis(told.last().map_or(0, |(at, ..)| *at));
        let window = pace.windows(now).remove("s");
        let got =
            window.map(|w| ((w.until - w.from).as_millis() as u64, w.requests(), (w.micros / 1e3).round() as u64));
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
        check(&[(0, 1, said(100, 900)), (3000, 1, said(500, 0))], None);
    }

    #[test]
    fn who_answers_nothing_while_requests_come_is_stalled() {
        let first = (0, 1, said(100, 0));
        check(&[first, (5000, 1, said(100, 9))], None);
        check(&[first, (5000, 1, said(100, 10))], Some((5000, 10, 5000)));
        check(&[first, (2400, 1, said(100, 10))], None);
        // Since the last answer, and on and on.
        let last = (1000, 1, said(105, 20));
        check(&[first, last, (3400, 1, said(105, 40))], None);
        check(&[first, last, (3500, 1, said(105, 40))], Some((2500, 40, 2500)));
        check(&[first, last, (3500, 1, said(105, 40)), (6500, 1, said(105, 60))], Some((3000, 60, 5500)));
        check(&[first, last, (3500, 1, said(105, 40)), (6500, 1, said(155, 60))], Some((3000, 110, 8)));
    }

    #[test]
    fn clients_that_wait_for_news_say_nothing() {
        let news = |at| (at, 1, said(100, 20));
        check(&[news(0), news(3000), news(6000), news(9000)], None);
        // Beside them, few others are answered.
        check(&[news(0), (3000, 1, said(108, 20))], None);
        check(&[news(0), (3000, 1, said(108, 20)), (6000, 1, said(116, 20))], Some((6000, 36, 8)));
        check(&[news(0), (5000, 1, said(104, 20)), (9000, 1, said(104, 25))], None);
        check(&[news(0), (9000, 1, said(109, 20)), (18_000, 1, said(118, 20))], None);
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        pace.told("s", 1, Look { begun: 0, said: said(0, 0), at: start });
        pace.told("s", 1, Look { begun: 50, said: said(50, 0), at: start + millis(3000) });
        assert_eq!(pace.windows(start + millis(13_000)).len(), 1);
        assert!(pace.windows(start + millis(13_001)).is_empty());
        assert!(pace.services.is_empty());
    }
}
