//! One request on its way: its deadline and its permits, shared by the connection that waits for the answer and the
//! instance that makes it. The permits come back when both are done.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{AcqRel, Relaxed},
        },
    },
    task::Poll,
};

use futures::task::AtomicWaker;
use tokio::{
    sync::SetOnce,
    task::coop::unconstrained,
    time::{Instant, timeout_at},
};

use podless_host::turns::Place;

use super::{budget::Permit, refusal::Refusal};

/// Why an instance failed.
#[derive(Clone)]
pub(crate) struct Failure {
    /// What the client is told, when nothing was sent yet.
    pub(crate) refusal: Refusal,
    /// The reason.
    pub(crate) why: String,
    /// What there is of an answer is not all of it. An instance that says itself that it is done cuts nothing off.
    pub(crate) cuts: bool,
}

/// A request that was admitted.
pub(crate) struct Flight {
    deadline: Instant,
    /// One of two has happened: the head of the answer is there, the instance has ended. Who sets it second sees both.
    met: AtomicBool,
    given_up: AtomicBool,
    /// The guest has given its answer.
    answered: AtomicBool,
    /// The instance was ended before it was done: what there is of an answer is not all of it.
    cut: Arc<AtomicBool>,
    waker: AtomicWaker,
    /// How the instance ended.
    ended: SetOnce<Option<Failure>>,
    _permits: (Permit, Place),
}

impl Flight {
    /// A request that must be done by `deadline`, with its shares of the service's and of the node's budget.
    pub(crate) fn new(deadline: Instant, ours: Permit, nodes: Place) -> Arc<Self> {
        Arc::new(Self {
            deadline,
            met: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            cut: Arc::default(),
            waker: AtomicWaker::new(),
            ended: SetOnce::new(),
            _permits: (ours, nodes),
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

    /// The guest gives its answer, or says that there is none.
    pub(crate) fn answer(&self) {
        self.answered.store(true, Relaxed);
    }

    /// Whether it has.
    pub(crate) fn is_answered(&self) -> bool {
        self.answered.load(Relaxed)
    }

    /// Whether what there is of an answer is not all of it. Apart from the flight, whose permits must not wait for a
    /// slow client.
    pub(crate) fn cut(&self) -> Arc<AtomicBool> {
        self.cut.clone()
    }

    /// The instance is about to be dropped. Gives why, when that cuts off an answer whose head is there: before, who
    /// waits for the head tells of it.
    pub(crate) fn end(&self, failure: Option<Failure>) -> Option<&str> {
        if failure.as_ref().is_some_and(|failure| failure.cuts) {
            self.cut.store(true, Relaxed);
        }
        let _ = self.ended.set(failure);
        self.meet()
    }

    /// Why an answer with a head was cut off, for the second one to know it: it is told once.
    fn meet(&self) -> Option<&str> {
        let second = self.met.swap(true, AcqRel);
        let failure = self.ended.get()?.as_ref()?;
        (second && failure.cuts).then_some(failure.why.as_str())
    }

    /// Waits until the instance has ended, and says why it failed.
    pub(crate) async fn ended(&self) -> Option<Failure> {
        self.ended.wait().await.clone()
    }

    /// Whether it must have been done by now, or nobody waits any more: the instance's side, which ends it then.
    pub(crate) fn is_past(&self) -> bool {
        if Instant::now() >= self.deadline {
            self.run_out();
        }
        self.is_given_up()
    }

    fn run_out(&self) {
        self.given_up.store(true, Relaxed);
        self.cut.store(true, Relaxed);
    }

    /// Waits until it must be done, or nobody waits any more: the instance's side, which ends it then.
    pub(crate) async fn over(&self) {
        let given_up = poll_fn(|context| {
            self.waker.register(context.waker());
            if self.is_given_up() { Poll::Ready(()) } else { Poll::Pending }
        });
        // A guest that uses up what tokio lets a task do at once must not keep its clock from being looked at.
        if unconstrained(timeout_at(self.deadline, given_up)).await.is_err() {
            self.run_out();
        }
    }

    fn give_up(&self) {
        self.given_up.store(true, Relaxed);
        self.waker.wake();
    }
}

/// The waiting side: dropped before the answer's head is there, it ends the instance.
pub(crate) struct Waiting {
    flight: Arc<Flight>,
    answered: bool,
}

impl Waiting {
    /// Waits for this request.
    pub(crate) fn new(flight: Arc<Flight>) -> Self {
        Self { flight, answered: false }
    }

    /// The head of the answer is there: the instance may go on until the deadline. Gives why, when it has ended since and
    /// that cuts the answer off.
    pub(crate) fn answered(mut self) -> Option<String> {
        self.answered = true;
        self.flight.meet().map(str::to_owned)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.answered {
            self.flight.give_up();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, time::Duration};

    use futures::future::{Either, select};
    use podless_host::turns::Turns;
    use tokio::task::coop::poll_proceed;

    use super::{super::budget::Budget, *};

    async fn flight(time: Duration) -> Arc<Flight> {
        let deadline = Instant::now() + time;
        let ours = Budget::new(1).acquire(deadline).await.expect("a permit");
        let nodes = Turns::new(1).of("tests").take(deadline).await.expect("a place");
        Flight::new(deadline, ours, nodes)
    }

    #[tokio::test]
    async fn what_is_cut_off_is_told_once_whoever_comes_first() {
        for (case, cuts, told) in [
            ("it went well", None, None),
            ("it said that it is done", Some(false), None),
            ("it failed", Some(true), Some("a trap")),
        ] {
            let failure = || cuts.map(|cuts| Failure { refusal: Refusal::Trapped, why: "a trap".to_owned(), cuts });
            let early = flight(Duration::from_secs(60)).await;
            let waiting = Waiting::new(early.clone());
            assert_eq!(early.end(failure()), None, "{case}: there is no head yet");
            assert_eq!(early.cut().load(Relaxed), told.is_some(), "{case}");
            assert_eq!(waiting.answered().as_deref(), told, "{case}: the end was first");
            let late = flight(Duration::from_secs(60)).await;
            assert_eq!(Waiting::new(late.clone()).answered(), None, "{case}: it has not ended");
            assert_eq!(late.end(failure()), told, "{case}: the head was first");
            assert!(!late.is_given_up());
        }
    }

    #[tokio::test]
    async fn the_deadline_holds_beside_who_takes_all_that_a_task_may() {
        let flight = flight(Duration::from_millis(50)).await;
        let greedy = poll_fn(|context| {
            while let Poll::Ready(taken) = poll_proceed(context) {
                taken.made_progress();
            }
            assert!(Instant::now() < flight.deadline() + Duration::from_secs(10), "the deadline does not hold");
            Poll::<()>::Pending
        });
        assert!(matches!(select(pin!(greedy), pin!(flight.over())).await, Either::Right(_)));
        assert!(flight.is_given_up());
    }
}
