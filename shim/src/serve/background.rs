//! Where instances go on that have computed for long: threads of a lower priority than those that serve, so that the
//! kernel takes the CPU from them whenever a request comes; among themselves namespaces have equal parts. Work in, its
//! steps done. IO: threads.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, Once, PoisonError,
        atomic::{
            AtomicU8,
            Ordering::{AcqRel, Acquire, Release},
        },
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use rustix::process::nice;
use tokio::runtime::Handle;

use super::{cpu::thread_time, fair::FairQueue};

/// How much lower their priority is, as `nice` counts it: beside one thread that serves and is busy, a tenth of a core.
const NICE: i32 = 10;

/// Work of an instance.
pub(crate) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The threads, started when the first work comes.
pub(crate) struct Background {
    queues: Arc<Queues>,
    started: Once,
}

#[derive(Default)]
struct Queues {
    waiting: Mutex<Waiting>,
    more: Condvar,
}

#[derive(Default)]
struct Waiting {
    fair: FairQueue<Arc<str>, Arc<Job>>,
    /// Those whose time is over: they end at their next step.
    over: Vec<Arc<Job>>,
    closed: bool,
}

/// Who some work is done for, and what is told of it.
pub(crate) trait Account: Send + Sync {
    /// The namespace that it is done for.
    fn namespace(&self) -> &Arc<str>;

    /// A step took this long.
    fn took(&self, time: Duration);

    /// When it must be done.
    fn deadline(&self) -> Instant;
}

struct Job {
    queues: Arc<Queues>,
    account: Arc<dyn Account>,
    state: AtomicU8,
    work: Mutex<Option<Work>>,
}

/// It waits for something to happen.
const IDLE: u8 = 0;
/// It waits for its turn.
const QUEUED: u8 = 1;
/// A step of it is being done.
const AT_WORK: u8 = 2;
/// The same, and there is more to do after it.
const AGAIN: u8 = 3;

impl Background {
    /// No thread runs yet.
    pub(crate) fn new() -> Self {
        Self { queues: Arc::default(), started: Once::new() }
    }

    /// Has this work done to its end; called on a runtime, whose timers and sockets it uses.
    pub(crate) fn start(&self, account: Arc<dyn Account>, work: Work) {
        self.started.call_once(|| {
            let runtime = Handle::current();
            for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
                let (queues, runtime) = (self.queues.clone(), runtime.clone());
                let started = thread::Builder::new().name("background".to_owned()).spawn(move || {
                    // Of this thread alone, as Linux has it.
                    let _ = nice(NICE);
                    let _runtime = runtime.enter();
                    while let Some(job) = queues.next() {
                        job.step();
                    }
                });
                if let Err(error) = started {
                    tracing::error!(%error, "a thread for what computes for long cannot be started");
                }
            }
        });
        let job =
            Job { queues: self.queues.clone(), account, state: AtomicU8::new(QUEUED), work: Mutex::new(Some(work)) };
        self.queues.push(Arc::new(job));
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.queues.waiting().closed = true;
        self.queues.more.notify_all();
    }
}

impl Queues {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Arc<Job>) {
        let namespace = job.account.namespace().clone();
        self.waiting().fair.push(&namespace, job);
        self.more.notify_one();
    }

    /// The next one, waited for; none when there will be none.
    fn next(&self) -> Option<Arc<Job>> {
        let mut waiting = self.waiting();
        loop {
            if waiting.closed {
                return None;
            }
            if let Some(job) = waiting.over.pop().or_else(|| waiting.fair.pop()) {
                return Some(job);
            }
            waiting = self.more.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Job {
    fn step(self: Arc<Self>) {
        // What was over has gone before its turn: nothing is left to do at that.
        if self.state.compare_exchange(QUEUED, AT_WORK, AcqRel, Acquire).is_err() {
            return;
        }
        let waker = Waker::from(self.clone());
        let begin = thread_time();
        let ended = {
            let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
            let poll = work
                .as_mut()
                .map(|work| catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut Context::from_waker(&waker)))));
            let ended = !matches!(poll, Some(Ok(Poll::Pending)));
            if ended {
                *work = None;
            }
            ended
        };
        let took = thread_time().saturating_sub(begin);
        self.account.took(took);
        self.queues.waiting().fair.charge(self.account.namespace(), took);
        if !ended && self.state.compare_exchange(AT_WORK, IDLE, AcqRel, Acquire).is_err() {
            self.state.store(QUEUED, Release);
            let queues = self.queues.clone();
            queues.push(self);
        }
    }
}

impl Wake for Job {
    fn wake(self: Arc<Self>) {
        let woken = self.state.fetch_update(AcqRel, Acquire, |state| match state {
            IDLE => Some(QUEUED),
            AT_WORK => Some(AGAIN),
            _ => None,
        });
        let queues = self.queues.clone();
        match woken {
            Ok(IDLE) => queues.push(self),
            Err(QUEUED) if self.account.deadline() <= Instant::now() => {
                queues.waiting().over.push(self);
                queues.more.notify_one();
            }
            _ => {}
        }
    }
}
