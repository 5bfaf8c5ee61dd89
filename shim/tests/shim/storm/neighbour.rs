//! The neighbour: a service that does nothing wrong, asked at a fixed rate whatever it answers, and how it fares. In: its
//! port; out: figures of each stretch of time. IO, on a thread of its own: whoever storms from this process must not hold
//! up its clock.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    sync::oneshot,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::client::Connection;

/// Requests a second.
const RATE: u32 = 200;
/// Connections that are kept for the next requests.
const KEPT: usize = 8;
/// Whoever waits longer than this is lost.
const LOST: Duration = Duration::from_secs(10);

/// How long each request of a stretch waited; `None`: it got no answer, or another.
type Waits = Arc<Mutex<Vec<Option<Duration>>>>;

/// A service under a steady load; the load ends with this.
pub(crate) struct Neighbour {
    waits: Waits,
    _end: oneshot::Sender<()>,
}

impl Neighbour {
    /// Begins to ask the service on this port.
    pub(crate) fn ask(port: u16) -> Self {
        let (end, ended) = oneshot::channel::<()>();
        let waits = Waits::default();
        let all = waits.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    _ = ended => {}
                    () = load(port, all) => {}
                }
            });
        });
        Self { waits, _end: end }
    }

    /// What there was since the last time.
    pub(crate) fn stretch(&self) -> Figures {
        Figures::of(&std::mem::take(&mut *self.waits.lock().expect("a lock")))
    }

    /// The same of so many requests from now on.
    pub(crate) async fn stretch_of(&self, requests: usize) -> Figures {
        self.stretch();
        while self.waits.lock().expect("a lock").len() < requests {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.stretch()
    }
}

async fn load(port: u16, waits: Waits) {
    let free = Arc::<Mutex<Vec<Connection>>>::default();
    let mut ticks = interval(Duration::from_secs(1) / RATE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        ticks.tick().await;
        let (free, waits) = (free.clone(), waits.clone());
        tokio::spawn(async move {
            let kept = free.lock().expect("a lock").pop();
            let start = Instant::now();
            let answered = timeout(LOST, async {
                let mut connection = match kept {
                    Some(connection) => connection,
                    None => Connection::open(port).await.ok()?,
                };
                (connection.get("/").await.ok()?.status == 200).then_some(connection)
            });
            let connection = answered.await.ok().flatten();
            waits.lock().expect("a lock").push(connection.is_some().then(|| start.elapsed()));
            let mut free = free.lock().expect("a lock");
            free.extend(connection);
            free.truncate(KEPT);
        });
    }
}

/// How a stretch of time was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    asked: usize,
    lost: usize,
    p50: Duration,
    p99: Duration,
    longest: Duration,
}

impl Figures {
    fn of(waits: &[Option<Duration>]) -> Self {
        let mut answered: Vec<_> = waits.iter().copied().flatten().collect();
        answered.sort_unstable();
        let at = |share: usize| answered.get((answered.len() * share / 100).min(answered.len().saturating_sub(1)));
        let at = |share| at(share).copied().unwrap_or_default();
        let lost = waits.len() - answered.len();
        Self { asked: waits.len(), lost, p50: at(50), p99: at(99), longest: at(100) }
    }

    /// Requests that got no answer, or another.
    pub(crate) fn lost(&self) -> usize {
        self.lost
    }

    /// Nobody was lost, and hardly anybody waited longer than twice as long as before, or than two ticks of the epoch:
    /// what a guest may keep a thread for, on each side of a request's way.
    pub(crate) fn assert_undisturbed(&self, before: &Self) {
        let most = (before.p99 * 2).max(Duration::from_millis(20));
        assert!(self.lost == 0 && self.p99 <= most, "the neighbour before: {before}; now: {self}");
        assert!(self.asked > 0, "it was asked nothing");
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, lost, p50, p99, longest } = self;
        write!(f, "{lost} of {asked} lost, p50 {p50:.1?}, p99 {p99:.1?}, longest {longest:.1?}")
    }
}
