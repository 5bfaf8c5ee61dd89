//! How far a build has come, and when there is something to say of it. Pure.

use std::{mem::discriminant, time::Duration};

use tokio::time::Instant;

/// Least time between two words about the same step: each is a write of status.
const EVERY: Duration = Duration::from_secs(5);
/// A step that takes longer than this takes long: its time is told.
const LONG: u64 = 3;

/// How far a build has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It waits for its turn, or the registry is being asked.
    Resolving,
    /// The component comes in.
    Pulling {
        /// Bytes that are there.
        done: u64,
        /// Bytes of the component.
        total: u64,
        /// For how long, if it is long.
        seconds: Option<u64>,
    },
    /// The component waits for its turn to be compiled.
    Waiting,
    /// It is being audited and compiled.
    Compiling {
        /// For how long, if it is long.
        seconds: Option<u64>,
    },
}

impl Phase {
    fn after(self, passed: Duration) -> Self {
        let seconds = Some(passed.as_secs()).filter(|seconds| *seconds >= LONG);
        match self {
            Self::Pulling { done, total, .. } => Self::Pulling { done, total, seconds },
            Self::Compiling { .. } => Self::Compiling { seconds },
            Self::Resolving | Self::Waiting => self,
        }
    }

    fn is_long(self) -> bool {
        matches!(self, Self::Pulling { seconds: Some(_), .. } | Self::Compiling { seconds: Some(_) })
    }
}

/// The step that a build is at, and what was said of it.
pub(super) struct Step {
    newest: Phase,
    since: Instant,
    said: Phase,
    said_at: Instant,
}

impl Step {
    /// The first one, of which it was said that it begins.
    pub(super) fn first(now: Instant) -> Self {
        let phase = Phase::Resolving;
        Self { newest: phase, since: now, said: phase, said_at: now }
    }

    /// Notes how far it has come; answers what is to be said.
    pub(super) fn note(&mut self, phase: Phase, now: Instant) -> Option<Phase> {
        let another = discriminant(&phase) != discriminant(&self.newest);
        if another {
            self.since = now;
        }
        self.newest = phase;
        let phase = phase.after(now - self.since);
        let due = now - self.said_at >= EVERY || phase.is_long() && !self.said.is_long();
        if !another && (!due || phase == self.said) {
            return None;
        }
        (self.said, self.said_at) = (phase, now);
        Some(phase)
    }

    /// Nothing came, but time has passed.
    pub(super) fn look(&mut self, now: Instant) -> Option<Phase> {
        self.note(self.newest, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_at_once_and_then_every_few_seconds() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut step = Step::first(start);
        let pulling = |done, seconds| Phase::Pulling { done, total: 18, seconds };
        let compiling = |seconds| Phase::Compiling { seconds };
        for (millis, phase, said) in [
            (10, Some(Phase::Resolving), None),
            (20, Some(pulling(0, None)), Some(pulling(0, None))),
            (900, Some(pulling(3, None)), None),
            // It takes long.
            (3100, Some(pulling(5, None)), Some(pulling(5, Some(3)))),
            (5000, Some(pulling(9, None)), None),
            // Nothing comes, but its time has.
            (8200, None, Some(pulling(9, Some(8)))),
            (8300, Some(Phase::Waiting), Some(Phase::Waiting)),
            (60_000, None, None),
            (60_100, Some(compiling(None)), Some(compiling(None))),
            (62_000, None, None),
            (63_100, None, Some(compiling(Some(3)))),
            (67_000, None, None),
            (68_200, None, Some(compiling(Some(8)))),
        ] {
            let got = match phase {
                Some(phase) => step.note(phase, at(millis)),
                None => step.look(at(millis)),
            };
            assert_eq!(got, said, "at {millis} ms");
        }
    }
}
