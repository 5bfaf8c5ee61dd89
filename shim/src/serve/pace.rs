//! How quickly a service answers. Beginnings and answers in, sums out: nodes are compared by them, and one that is much
//! slower than the others is found out by the operator. An atomic addition or two each, no lock. Pure.
//!
//! What counts is the time to the head of the answer: how long the rest takes is up to the client and to what is streamed.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use podless_link::{pace::weight, v1};

/// What is counted since the process started.
#[derive(Default)]
pub(crate) struct Pace {
    waiting: AtomicU32,
    answered: AtomicU64,
    weights: AtomicU64,
}

impl Pace {
    /// A request begins.
    pub(crate) fn begin(&self) {
        self.waiting.fetch_add(1, Relaxed);
    }

    /// A request that has begun does not wait any more: its answer begins, after this long, or it will have none of the
    /// component.
    pub(crate) fn end(&self, answered: Option<Duration>) {
        self.waiting.fetch_sub(1, Relaxed);
        if let Some(time) = answered {
            self.weights.fetch_add(weight(time), Relaxed);
            self.answered.fetch_add(1, Relaxed);
        }
    }

    /// Reads everything.
    pub(crate) fn read(&self) -> v1::Pace {
        v1::Pace {
            waiting: self.waiting.load(Relaxed),
            answered: self.answered.load(Relaxed),
            weights: self.weights.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_component_answers_is_weighed() {
        let pace = Pace::default();
        (0..3).for_each(|_| pace.begin());
        pace.end(Some(Duration::from_millis(4)));
        pace.end(None);
        assert_eq!(pace.read(), v1::Pace { waiting: 1, answered: 1, weights: weight(Duration::from_millis(4)) });
    }
}
