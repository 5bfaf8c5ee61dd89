//! Where an instance's work is done: begun on the threads that serve, gone on with in the background once it has held one
//! of them for long; and begun there when that is what its service does. What it takes is counted. IO: clocks.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::{
    background::{Account, Background, Work},
    cpu::thread_time,
    stats::Stats,
};
use podless_host::aside;

/// Time of its long steps after which an instance goes on in the background. Most requests take a hundredth of it.
const SLICE: Duration = Duration::from_millis(5);
/// A step that is shorter keeps nobody waiting.
const LONG: Duration = Duration::from_millis(1);

/// Whose instances work.
pub(crate) struct Payer {
    /// The service's counters.
    pub(crate) stats: Arc<Stats>,
    /// Its namespace.
    pub(crate) namespace: Arc<str>,
    /// Something is decided by the time that they take: it is read from the thread's clock, which costs a microsecond and
    /// a half a step. Otherwise it is the time that goes by, which is more when the machine itself has too little.
    pub(crate) exact: bool,
}

/// Has an instance do its work.
pub(crate) fn start(background: &Arc<Background>, bill: Arc<Bill>, work: impl Future<Output = ()> + Send + 'static) {
    let work = Box::pin(work);
    if bill.payer.stats.habit.is_heavy() {
        background.start(bill, work);
    } else {
        tokio::spawn(InFront { at_work: Some((bill, work)), background: background.clone() });
    }
}

/// What an instance has taken for the request that it has now.
pub(crate) struct Bill {
    payer: Arc<Payer>,
    /// When it must have answered the last of its requests.
    deadline: Mutex<Instant>,
    /// Nanoseconds of its long steps.
    spent: AtomicU64,
}

impl Bill {
    /// For an instance that must have answered its first request by then.
    pub(crate) fn new(payer: Arc<Payer>, deadline: Instant) -> Self {
        Self { payer, deadline: Mutex::new(deadline), spent: AtomicU64::new(0) }
    }

    /// It has another request.
    pub(crate) fn renew(&self, deadline: Instant) {
        self.vote();
        self.spent.store(0, Relaxed);
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
    }

    /// What took long has voted when it was seen.
    fn vote(&self) {
        if !self.has_spent_its_slice() {
            self.payer.stats.habit.was_light();
        }
    }

    fn has_spent_its_slice(&self) -> bool {
        self.spent.load(Relaxed) >= SLICE.as_nanos() as u64
    }
}

impl Account for Bill {
    fn namespace(&self) -> &Arc<str> {
        &self.payer.namespace
    }

    fn took(&self, time: Duration) {
        self.payer.stats.in_flight.took(time);
        if time >= LONG && !self.has_spent_its_slice() {
            self.spent.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
            if self.has_spent_its_slice() {
                self.payer.stats.habit.was_heavy();
            }
        }
    }

    fn deadline(&self) -> Instant {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Bill {
    fn drop(&mut self) {
        self.vote();
    }
}

/// Work on the threads that serve.
struct InFront {
    at_work: Option<(Arc<Bill>, Work)>,
    background: Arc<Background>,
}

impl Future for InFront {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some((bill, work)) = &mut self.at_work else { return Poll::Ready(()) };
        let begin = Clock::start(bill.payer.exact);
        let step = work.as_mut().poll(context);
        bill.took(begin.elapsed());
        let aside = aside::wanted();
        if step.is_pending() && (aside || bill.has_spent_its_slice()) {
            if let Some((bill, work)) = self.at_work.take() {
                self.background.start(bill, work);
            }
            return Poll::Ready(());
        }
        step
    }
}

enum Clock {
    OfThread(Duration),
    OfWall(Instant),
}

impl Clock {
    fn start(exact: bool) -> Self {
        if exact { Self::OfThread(thread_time()) } else { Self::OfWall(Instant::now()) }
    }

    fn elapsed(&self) -> Duration {
        match self {
            Self::OfThread(begin) => thread_time().saturating_sub(*begin),
            Self::OfWall(begin) => begin.elapsed(),
        }
    }
}

/// Whether the requests of a service compute for long: what most of the last ones did.
#[derive(Default)]
pub(crate) struct Habit(AtomicU32);

impl Habit {
    /// One that computes for long counts for two that do not, up to four of them.
    const MOST: u32 = 8;

    fn was_heavy(&self) {
        let _ = self.0.try_update(Relaxed, Relaxed, |votes| Some((votes + 2).min(Self::MOST)));
    }

    fn was_light(&self) {
        // Nearly always there is nothing to take back.
        if self.0.load(Relaxed) > 0 {
            let _ = self.0.try_update(Relaxed, Relaxed, |votes| votes.checked_sub(1));
        }
    }

    fn is_heavy(&self) -> bool {
        self.0.load(Relaxed) >= Self::MOST / 2
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use tokio::task::yield_now;

    use super::*;

    fn payer(namespace: &str, exact: bool) -> Arc<Payer> {
        Arc::new(Payer { stats: Arc::default(), namespace: namespace.into(), exact })
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn burn(time: Duration) {
        let begin = thread_time();
        while thread_time() - begin < time {}
    }

    fn thread_name() -> String {
        thread::current().name().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn what_computes_for_long_goes_on_in_the_background_and_is_begun_there_next_time() {
        for exact in [false, true] {
            let (background, payer) = (Arc::new(Background::new()), payer("tests", exact));
            let mut last = vec![];
            for round in 0..4 {
                let (end, ended) = tokio::sync::oneshot::channel();
                start(&background, Arc::new(Bill::new(payer.clone(), later())), async move {
                    let mut names = vec![];
                    for _ in 0..4 {
                        names.push(thread_name());
                        burn(Duration::from_millis(3));
                        yield_now().await;
                    }
                    let _ = end.send(names);
                });
                last = ended.await.expect("done");
                assert_eq!(last.last().map(String::as_str), Some("background"), "round {round}");
                assert!(round > 1 || last[0] != "background", "round {round}");
            }
            assert_eq!(last[0], "background");
            assert!(
                payer.stats.in_flight.cpu() >= Duration::from_millis(4 * 4 * 3),
                "{:?}",
                payer.stats.in_flight.cpu()
            );
        }
    }

    #[tokio::test]
    async fn who_is_about_to_keep_a_thread_goes_on_in_the_background_first() {
        let (background, payer) = (Arc::new(Background::new()), payer("tests", false));
        let (end, ended) = tokio::sync::oneshot::channel();
        start(&background, Arc::new(Bill::new(payer.clone(), later())), async move {
            let begun = thread_name();
            aside::step().await;
            let _ = end.send((begun, thread_name()));
        });
        let (begun, went_on) = ended.await.expect("done");
        assert!(begun != "background" && went_on == "background", "{begun}, {went_on}");
        assert!(!payer.stats.habit.is_heavy(), "it has not computed for long");
    }

    #[test]
    fn a_habit_is_what_most_requests_do() {
        let habit = Habit::default();
        for _ in 0..3 {
            habit.was_heavy();
            (0..2).for_each(|_| habit.was_light());
            assert!(!habit.is_heavy(), "one of three");
        }
        (0..10).for_each(|_| habit.was_heavy());
        assert!(habit.is_heavy());
        (0..5).for_each(|_| habit.was_light());
        assert!(!habit.is_heavy(), "a few light ones in a row are enough");
    }

    #[tokio::test]
    async fn namespaces_have_equal_parts_of_the_background() {
        let background = Arc::new(Background::new());
        let done = Arc::new(Mutex::new(vec![]));
        let mut ends = vec![];
        let few = thread::available_parallelism().map_or(1, usize::from);
        for (namespace, jobs) in [("loud", 30 * few), ("quiet", few)] {
            let payer = payer(namespace, false);
            (0..2).for_each(|_| payer.stats.habit.was_heavy());
            for _ in 0..jobs {
                let (end, ended) = tokio::sync::oneshot::channel();
                let done = done.clone();
                ends.push(ended);
                start(&background, Arc::new(Bill::new(payer.clone(), later())), async move {
                    for _ in 0..5 {
                        burn(Duration::from_millis(2));
                        yield_now().await;
                    }
                    done.lock().expect("a lock").push(namespace);
                    let _ = end.send(());
                });
            }
        }
        for end in ends {
            end.await.expect("done");
        }
        let done = done.lock().expect("a lock");
        let last = done.iter().rposition(|namespace| *namespace == "quiet").expect("it was done");
        assert!(last < done.len() / 3, "the last of the quiet one's was {last} of {}", done.len());
    }
}
