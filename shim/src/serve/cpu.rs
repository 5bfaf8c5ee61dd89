//! The CPU time that a step of some work takes: it runs on one thread, whose clock is read before and after it. IO: that
//! clock.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// CPU time of this thread.
pub(crate) fn thread_time() -> Duration {
    // It is never negative, and its nanoseconds are less than a second's.
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}
