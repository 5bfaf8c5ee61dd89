//! How many requests may be in flight: a request in, a permit out; or a refusal when the bounded queue is full or the
//! bounded wait is over. No IO but the clock.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

/// A number of permits that can change while permits are out.
pub(crate) struct Budget {
    permits: Arc<Semaphore>,
    limit: AtomicUsize,
    /// Permits to take out of circulation as they come back.
    owed: AtomicUsize,
    waiting: AtomicUsize,
}

/// One request's share of a budget; it comes back when dropped.
pub(crate) struct Permit {
    budget: Arc<Budget>,
    permit: Option<OwnedSemaphorePermit>,
}

/// There was no permit in time.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no capacity is free")]
pub(crate) struct Exhausted;

impl Budget {
    /// A budget of `limit` permits.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(limit)),
            limit: AtomicUsize::new(limit),
            owed: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
        })
    }

    /// Changes the number of permits. Those that are out stay; the new number holds as they come back.
    /// Only one thread may resize at a time: the control loop's.
    pub(crate) fn resize(&self, limit: usize) {
        let old = self.limit.swap(limit, Relaxed);
        if limit < old {
            let gone = self.permits.forget_permits(old - limit);
            self.owed.fetch_add(old - limit - gone, Relaxed);
        } else {
            let more = limit - old;
            let owed = self.owed.fetch_update(Relaxed, Relaxed, |owed| Some(owed.saturating_sub(more))).unwrap_or(0);
            self.permits.add_permits(more - owed.min(more));
        }
    }

    /// Waits for a permit until `until`, and not at all when as many wait already as may be in flight.
    pub(crate) async fn acquire(self: &Arc<Self>, until: Instant) -> Result<Permit, Exhausted> {
        let permit = match self.permits.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => self.wait(until).await?,
        };
        Ok(Permit { budget: self.clone(), permit: Some(permit) })
    }

    async fn wait(&self, until: Instant) -> Result<OwnedSemaphorePermit, Exhausted> {
        let _place = Place::take(&self.waiting, self.limit.load(Relaxed)).ok_or(Exhausted)?;
        match timeout_at(until, self.permits.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(Exhausted),
        }
    }

    /// Takes one permit off what is owed, when something is.
    fn repay(&self) -> bool {
        self.owed.try_update(Relaxed, Relaxed, |owed| owed.checked_sub(1)).is_ok()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take()
            && self.budget.repay()
        {
            permit.forget();
        }
    }
}

/// A place in the queue, left when dropped.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, limit: usize) -> Option<Self> {
        waiting.try_update(Relaxed, Relaxed, |n| (n < limit).then_some(n + 1)).ok().map(|_| Self(waiting))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::{FutureExt, future::join_all};

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(200)
    }

    #[tokio::test]
    async fn the_queue_is_bounded_in_length_and_time() {
        let budget = Budget::new(2);
        let held = [budget.acquire(soon()).await, budget.acquire(soon()).await];
        assert!(held.iter().all(Result::is_ok));
        let mut waiting: Vec<_> = (0..2).map(|_| Box::pin(budget.acquire(soon()))).collect();
        assert!(waiting.iter_mut().all(|w| w.now_or_never().is_none()), "two wait");
        assert_eq!(budget.acquire(soon()).now_or_never().expect("at once").err(), Some(Exhausted), "a third does not");
        assert!(join_all(waiting).await.iter().all(Result::is_err), "they wait no longer than they may");
        drop(held);
        assert!(budget.acquire(soon()).now_or_never().expect("at once").is_ok());
    }

    #[tokio::test]
    async fn a_permit_that_comes_back_is_handed_on() {
        let budget = Budget::new(1);
        let held = budget.acquire(soon()).await;
        let mut waiting = Box::pin(budget.acquire(soon()));
        assert!((&mut waiting).now_or_never().is_none());
        drop(held);
        assert!(waiting.await.is_ok());
    }

    #[tokio::test]
    async fn resizing_holds_for_permits_that_are_out() {
        let budget = Budget::new(3);
        let mut held = vec![];
        for _ in 0..3 {
            held.push(budget.acquire(soon()).await.expect("a permit"));
        }
        budget.resize(1);
        held.truncate(1);
        assert!(budget.acquire(soon()).await.is_err(), "one is out and one is the limit");
        held.clear();
        let one = budget.acquire(soon()).await.expect("the one");
        assert!(budget.acquire(soon()).await.is_err());
        budget.resize(2);
        let two = budget.acquire(soon()).await.expect("the second");
        assert!(budget.acquire(soon()).await.is_err());
        budget.resize(0);
        budget.resize(2);
        drop((one, two));
        let again = [budget.acquire(soon()).await, budget.acquire(soon()).await, budget.acquire(soon()).await];
        assert_eq!(again.iter().filter(|p| p.is_ok()).count(), 2);
    }
}
