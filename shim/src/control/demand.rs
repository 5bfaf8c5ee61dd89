//! What is asked of a service: readings of its requests in, what there is to tell the operator out. Pure.

use std::time::{Duration, Instant};

use podless_link::v1;

use crate::serve::in_flight::{InFlight, Reading};

/// What is known of the requests to one service.
pub(super) struct Demand {
    /// As the operator was told last.
    told: Reading,
    /// When something was in flight, or had begun since the look before.
    asked: Instant,
}

impl Demand {
    /// Nothing has been asked.
    pub(super) fn new(now: Instant) -> Self {
        Self { told: Reading::default(), asked: now }
    }

    /// Looks at the requests: what there is to tell. Nothing when nothing was in flight since it was told last, and no
    /// instance was at work.
    pub(super) fn look(&mut self, requests: &InFlight, now: Instant) -> Option<Reading> {
        let reading = requests.read(self.told.busy, now);
        if reading.in_flight == 0 && reading == self.told {
            return None;
        }
        (self.told, self.asked) = (reading, now);
        Some(reading)
    }

    /// For how long nothing has been asked.
    pub(super) fn idle(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.asked)
    }
}

/// A reading as the operator is told it; `at` is the time since the shim's process started.
pub(super) fn load(service_uid: &str, reading: Reading, pace: v1::Pace, at: Duration) -> v1::ServiceLoad {
    v1::ServiceLoad {
        service_uid: service_uid.to_owned(),
        in_flight: reading.in_flight,
        requests: reading.begun,
        busy_micros: reading.busy,
        at_micros: u64::try_from(at.as_micros()).unwrap_or(u64::MAX),
        cpu_micros: reading.cpu,
        pace: Some(pace),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_while_there_is_news_and_once_after() {
        let (requests, start) = (InFlight::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        let mut demand = Demand::new(start);
        assert_eq!(demand.look(&requests, at(100)), None, "nothing was ever asked");
        requests.begin(at(150));
        for now in [200, 400] {
            let busy = (now - 150) * 1000;
            assert_eq!(
                demand.look(&requests, at(now)),
                Some(Reading { in_flight: 1, begun: 1, busy, cpu: 0 }),
                "at {now}"
            );
        }
        requests.end(at(450));
        let ended = Reading { in_flight: 0, begun: 1, busy: 300_000, cpu: 0 };
        assert_eq!(demand.look(&requests, at(600)), Some(ended), "the end is told");
        assert_eq!(demand.look(&requests, at(800)), None);
        assert_eq!(demand.idle(at(900)), Duration::from_millis(300), "since the look that saw the end");
        requests.begin(at(900));
        requests.end(at(950));
        let between = Reading { in_flight: 0, begun: 2, busy: 350_000, cpu: 0 };
        assert_eq!(demand.look(&requests, at(1000)), Some(between), "what began and ended between two looks");
        requests.took(Duration::from_millis(3));
        let after = Reading { cpu: 3000, ..between };
        assert_eq!(demand.look(&requests, at(1200)), Some(after), "what an instance did after its answer");
        assert_eq!(demand.look(&requests, at(1400)), None);
    }
}
