//! What was seen: single outcomes in, losses by kind and time and the longest gap between good answers out. Pure.

use std::{fmt, time::Duration};

use anyhow::{Result, ensure};
use http::Method;

use super::{Lane, mix::Ask};

/// How a request was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No connection.
    Connect,
    /// Connection or stream ended before the whole answer.
    Reset,
    /// No whole answer in time.
    Timeout,
    /// Answered, and not by 200.
    Status(u16),
    /// Answered by something else than what was asked for.
    WrongBody,
    /// What the server sent is not HTTP.
    Protocol,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => f.write_str("no connection"),
            Self::Reset => f.write_str("ended early"),
            Self::Timeout => f.write_str("timed out"),
            Self::Status(code) => write!(f, "status {code}"),
            Self::WrongBody => f.write_str("wrong body"),
            Self::Protocol => f.write_str("not HTTP"),
        }
    }
}

/// A request that was lost.
#[derive(Clone, Debug)]
pub struct Loss {
    /// Which one it was, from 0.
    pub number: usize,
    /// When it was sent, since the start.
    pub at: Duration,
    /// How it went.
    pub lane: Lane,
    /// GET or POST.
    pub method: Method,
    /// How it was lost.
    pub kind: Kind,
    /// What was seen instead of an answer.
    pub detail: String,
}

/// What a load saw.
#[derive(Clone, Debug)]
pub struct Report {
    /// Requests sent.
    pub sent: usize,
    /// Requests sent again, as HTTP allows, because a kept connection had been closed.
    pub retried: usize,
    /// Requests lost, in the order in which that was noticed.
    pub failed: Vec<Loss>,
    /// Longest time without a good answer.
    pub longest_gap: Duration,
    /// When it began, since the start.
    pub gap_at: Duration,
    /// How much later than planned the client sent, at worst: what it did not measure.
    pub latest: Duration,
    /// From the first request to the stop.
    pub took: Duration,
    /// Whether the load ended by itself, before it was stopped.
    pub cut_short: bool,
}

impl Report {
    /// An error that tells everything, unless each of at least `least` requests had its answer to the end.
    pub fn none_lost(&self, least: usize) -> Result<()> {
        ensure!(self.failed.is_empty(), "requests were lost: {self}");
        ensure!(self.sent >= least, "fewer than {least} requests prove nothing: {self}");
        ensure!(!self.cut_short, "the load ended before the test did: {self}");
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} requests lost, {} sent again, in {:.1?}; longest gap {:.0?} (from {:.1?}), client late by {:.0?} at most",
            self.failed.len(),
            self.sent,
            self.retried,
            self.took,
            self.longest_gap,
            self.gap_at,
            self.latest
        )?;
        let mut kinds: Vec<Kind> = vec![];
        for loss in &self.failed {
            if !kinds.contains(&loss.kind) {
                kinds.push(loss.kind);
            }
        }
        for kind in kinds {
            let of_it: Vec<_> = self.failed.iter().filter(|loss| loss.kind == kind).collect();
            if let (Some(first), Some(last)) = (of_it.first(), of_it.last()) {
                write!(f, "\n  {kind}: {}, from {:.2?} to {:.2?}", of_it.len(), first.at, last.at)?;
            }
            for loss in of_it.iter().take(3) {
                write!(f, "\n    {:.2?} {:?} {}: {}", loss.at, loss.lane, loss.method, loss.detail)?;
            }
        }
        Ok(())
    }
}

/// Collects a report.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    pub(super) sent: usize,
    pub(super) retried: usize,
    failed: Vec<Loss>,
    last_good: Duration,
    longest_gap: Duration,
    gap_at: Duration,
    latest: Duration,
}

impl Recorder {
    /// A request goes out, this much later than it should.
    pub(super) fn sent(&mut self, late: Duration) {
        self.sent += 1;
        self.latest = self.latest.max(late);
    }

    /// A good answer, this long after the start.
    pub(super) fn good(&mut self, at: Duration) {
        let gap = at.saturating_sub(self.last_good);
        if gap > self.longest_gap {
            (self.longest_gap, self.gap_at) = (gap, self.last_good);
        }
        self.last_good = self.last_good.max(at);
    }

    /// A request that was sent at this time after the start, and lost.
    pub(super) fn lost(&mut self, at: Duration, ask: &Ask, kind: Kind, detail: String) {
        self.failed.push(Loss { number: ask.number, at, lane: ask.lane, method: ask.method.clone(), kind, detail });
    }

    /// Ends it, this long after the start.
    pub(super) fn report(mut self, took: Duration, cut_short: bool) -> Report {
        self.good(took); // the time since the last good answer is a gap, too
        let Self { sent, retried, failed, longest_gap, gap_at, latest, last_good: _ } = self;
        Report { sent, retried, failed, longest_gap, gap_at, latest, took, cut_short }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::{Plan, mix};

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn the_gap_is_the_longest_time_without_a_good_answer() {
        let gap = |good: &[f64], took: f64| {
            let mut recorder = Recorder::default();
            for at in good {
                recorder.good(seconds(*at));
            }
            let report = recorder.report(seconds(took), false);
            (report.longest_gap.as_secs_f64(), report.gap_at.as_secs_f64())
        };
        assert_eq!(gap(&[0.5, 1.0, 3.0, 3.5], 4.0), (2.0, 1.0));
        assert_eq!(gap(&[0.5], 4.0), (3.5, 0.5), "until the end");
        assert_eq!(gap(&[2.0, 2.5], 3.0), (2.0, 0.0), "from the start");
        assert_eq!(gap(&[1.0, 0.5, 1.5], 2.0), (1.0, 0.0), "answers overtake each other");
        assert_eq!(gap(&[], 3.0), (3.0, 0.0));
    }

    #[test]
    fn a_report_without_requests_or_with_a_loss_is_not_good() {
        let mut recorder = Recorder::default();
        for _ in 0..10 {
            recorder.sent(seconds(0.01));
        }
        assert!(recorder.report(seconds(1.0), false).none_lost(11).is_err());
        let mut recorder = Recorder { sent: 10, ..Recorder::default() };
        recorder.lost(seconds(0.3), &mix::ask(&Plan::default(), 4), Kind::Status(503), "overloaded".to_owned());
        let report = recorder.report(seconds(1.0), false);
        let said = report.none_lost(1).map_err(|error| error.to_string()).expect_err("one was lost");
        assert!(said.contains("status 503: 1") && said.contains("KeepAlive POST: overloaded"), "{said}");
        assert!(Recorder { sent: 10, ..Recorder::default() }.report(seconds(1.0), false).none_lost(10).is_ok());
        assert!(Recorder { sent: 10, ..Recorder::default() }.report(seconds(1.0), true).none_lost(10).is_err());
    }
}
