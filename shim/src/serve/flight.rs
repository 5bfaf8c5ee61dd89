//! One request on its way: its deadline and its permits, shared by the connection that waits for the answer and the
//! instance that makes it. The permits come back when both are done.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Poll,
};

use futures::task::AtomicWaker;
use tokio::{
    sync::SetOnce,
    time::{Instant, timeout_at},
};

use super::budget::Permit;

/// A request that was admitted.
pub(crate) struct Flight {
    deadline: Instant,
    answered: AtomicBool,
    given_up: AtomicBool,
    /// The instance was ended before it was done: what there is of an answer is not all of it.
    cut: Arc<AtomicBool>,
    waker: AtomicWaker,
    /// How the instance ended: why it failed, when it did.
    ended: SetOnce<Option<String>>,
    _permits: [Permit; 2],
}

impl Flight {
    /// A request that must be done by `deadline`, with its shares of the service's and of the node's budget.
    pub(crate) fn new(deadline: Instant, permits: [Permit; 2]) -> Arc<Self> {
        Arc::new(Self {
            deadline,
            answered: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            cut: Arc::default(),
            waker: AtomicWaker::new(),
            ended: SetOnce::new(),
            _permits: permits,
        })
    }

    /// When it must be done.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether nobody waits for the answer any more, or it came too late.
    pub(crate) fn is_given_up(&self) -> bool {
        self.given_up.load(Relaxed)
    }

    /// Whether the head of the answer is there.
    pub(crate) fn is_answered(&self) -> bool {
        self.answered.load(Relaxed)
    }

    /// Whether what there is of an answer is not all of it. Apart from the flight, whose permits must not wait for a
    /// slow client.
    pub(crate) fn cut(&self) -> Arc<AtomicBool> {
        self.cut.clone()
    }

    /// The instance is about to be dropped, with why when it failed.
    pub(crate) fn end(&self, failure: Option<String>) {
        if failure.is_some() {
            self.cut.store(true, Relaxed);
        }
        let _ = self.ended.set(failure);
    }

    /// Waits until the instance has ended, and says why it failed.
    pub(crate) async fn ended(&self) -> Option<String> {
        self.ended.wait().await.clone()
    }

    /// Waits until it must be done, or nobody waits any more: the instance's side, which ends it then.
    pub(crate) async fn over(&self) {
        let given_up = poll_fn(|context| {
            self.waker.register(context.waker());
            if self.is_given_up() { Poll::Ready(()) } else { Poll::Pending }
        });
        if timeout_at(self.deadline, given_up).await.is_err() {
            self.given_up.store(true, Relaxed);
            self.cut.store(true, Relaxed);
        }
    }

    fn give_up(&self) {
        self.given_up.store(true, Relaxed);
        self.waker.wake();
    }
}

/// The waiting side: dropped before the answer's head is there, it ends the instance.
pub(crate) struct Waiting(Arc<Flight>);

impl Waiting {
    /// Waits for this request.
    pub(crate) fn new(flight: Arc<Flight>) -> Self {
        Self(flight)
    }

    /// The head of the answer is there: the instance may go on until the deadline.
    pub(crate) fn answered(self) {
        self.0.answered.store(true, Relaxed);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.0.is_answered() {
            self.0.give_up();
        }
    }
}
