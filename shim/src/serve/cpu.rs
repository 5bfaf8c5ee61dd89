//! The CPU time that work takes: each of its steps runs on one thread, whose clock is read before and after it. IO: that
//! clock.

use std::{future::poll_fn, pin::pin, time::Duration};

use rustix::time::{ClockId, clock_gettime};

/// Does this work, and tells the CPU time of each of its steps.
pub(crate) async fn counted<T>(work: impl Future<Output = T>, took: impl Fn(Duration)) -> T {
    let mut work = pin!(work);
    poll_fn(|context| {
        let before = thread_time();
        let step = work.as_mut().poll(context);
        took(thread_time().saturating_sub(before));
        step
    })
    .await
}

/// CPU time of this thread.
fn thread_time() -> Duration {
    // It is never negative, and its nanoseconds are less than a second's.
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    #[tokio::test]
    async fn computing_counts_and_waiting_does_not() {
        let micros = AtomicU64::new(0);
        let took = |time: Duration| {
            micros.fetch_add(time.as_micros() as u64, Relaxed);
        };
        let burn = Duration::from_millis(20);
        let waits_between = async {
            for _ in 0..2 {
                let begin = thread_time();
                while thread_time() - begin < burn {}
                // Another task of this thread computes meanwhile.
                tokio::spawn(async move {
                    let begin = thread_time();
                    while thread_time() - begin < burn * 10 {}
                })
                .await
                .expect("done");
            }
        };
        counted(waits_between, took).await;
        let counted = Duration::from_micros(micros.load(Relaxed));
        assert!(counted >= burn * 2 && counted < burn * 10, "{counted:?}");
    }
}
