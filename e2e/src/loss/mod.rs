//! The one way to count loss: a fixed rate of requests goes in, however slowly they are answered, usually a third on new
//! connections, a third on kept ones, a third by HTTP/2; what was lost comes out, of which kind and when. IO.
//!
//! A connection that cannot be made, a connection or stream that ends before the whole answer, an answer that is not 200
//! or not what was asked for, and no answer in time count. What HTTP allows a client to send again once is not lost: see
//! [`lanes`].

mod lanes;
mod mix;
mod report;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    Target,
    client::{joined, namespace, spawn},
    eventually,
};
use lanes::{Lanes, Outcome};
pub use mix::{Guest, Lane};
use report::Recorder;
pub use report::{Kind, Loss, Report};

/// How much is sent, and to whom.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What the service answers.
    pub guest: Guest,
    /// How the requests get there, in turn.
    pub lanes: &'static [Lane],
    /// Connections that each lane keeps: kube-proxy balances connections, so that one alone would see one node only.
    pub kept: usize,
    /// Requests on a connection until another is opened in its place, for the same reason.
    pub per_connection: usize,
    /// Requests each second.
    pub rate: u32,
    /// Longest that the load lasts: it ends by itself, and a report says so.
    pub most: Duration,
    /// Longest that one request may take before it counts as lost.
    pub patience: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            guest: Guest::Echo,
            lanes: &[Lane::New, Lane::KeepAlive, Lane::Http2],
            kept: 3,
            per_connection: 50,
            rate: 60,
            most: Duration::from_secs(240),
            patience: Duration::from_secs(3),
        }
    }
}

/// A load that goes on until it is stopped.
pub struct Traffic {
    stop: watch::Sender<bool>,
    flows: watch::Receiver<bool>,
    counts: Arc<Counts>,
    thread: JoinHandle<Result<Report>>,
}

/// Outcomes up to now.
#[derive(Debug, Default)]
struct Counts {
    good: AtomicUsize,
    lost: AtomicUsize,
}

impl Traffic {
    /// Starts the usual load on any component that answers GET and POST by 200; its bodies are not looked at.
    pub fn start(target: &Target) -> Result<Self> {
        Self::with(target, Plan { guest: Guest::Any, ..Plan::default() })
    }

    /// Starts the usual load on the guest `probe`, which says back what it is told.
    pub fn echo(target: &Target) -> Result<Self> {
        Self::with(target, Plan::default())
    }

    /// Starts a load from the cluster's client.
    pub fn with(target: &Target, plan: Plan) -> Result<Self> {
        Self::start_in(Some(namespace()?), target, plan)
    }

    fn start_in(namespace: Option<File>, target: &Target, plan: Plan) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let (flowing, flows) = watch::channel(false);
        let counts = Arc::new(Counts::default());
        let (target, counted) = (target.clone(), counts.clone());
        let thread = spawn(namespace, async move || run(target, plan, stopped, flowing, counted).await);
        Ok(Self { stop, flows, counts, thread })
    }

    /// Waits until the first request was answered. What counts begins there: kube-proxy hears of new endpoints a moment
    /// after status does.
    pub async fn flows(&self) -> Result<()> {
        let mut flows = self.flows.clone();
        ensure!(flows.wait_for(|flows| *flows).await.is_ok(), "no request was answered: stop() says why");
        Ok(())
    }

    /// Good answers up to now.
    pub fn good(&self) -> usize {
        self.counts.good.load(Ordering::Relaxed)
    }

    /// Waits until this many requests more were answered well: what happened last has been under load by then.
    pub async fn another(&self, count: usize) -> Result<()> {
        let wanted = self.good() + count;
        eventually(&format!("{count} more good answers"), Duration::from_secs(30), async || {
            ensure!(self.good() >= wanted, "{} of {wanted}, {} lost", self.good(), self.lost());
            Ok(())
        })
        .await
    }

    /// Waits until this many requests in a row were answered well: what was in the way is over. Answers how many were
    /// lost until then.
    pub async fn recovers(&self, count: usize) -> Result<usize> {
        let (mut lost, mut good) = (self.lost(), self.good());
        eventually(&format!("{count} good answers in a row"), Duration::from_secs(60), async || {
            if self.lost() > lost {
                (lost, good) = (self.lost(), self.good());
            }
            ensure!(self.good() >= good + count, "{} of them, {lost} lost", self.good() - good);
            Ok(lost)
        })
        .await
    }

    /// Requests lost up to now.
    pub fn lost(&self) -> usize {
        self.counts.lost.load(Ordering::Relaxed)
    }

    /// Stops, waits for what is under way, and tells what was seen.
    pub async fn stop(self) -> Result<Report> {
        let _ = self.stop.send(true); // who has ended already has ended with an error
        joined(self.thread).await
    }
}

async fn run(
    target: Target,
    plan: Plan,
    mut stopped: watch::Receiver<bool>,
    flowing: watch::Sender<bool>,
    counts: Arc<Counts>,
) -> Result<Report> {
    let lanes = Arc::new(Lanes::new(target, &plan));
    first_answer(&lanes, plan).await?;
    let _ = flowing.send(true);

    let most = usize::try_from(plan.most.as_millis() * u128::from(plan.rate) / 1000)?;
    let mut ticks = interval(Duration::from_secs(1) / plan.rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut under_way: JoinSet<(Duration, Duration, mix::Ask, Outcome)> = JoinSet::new();
    let (mut recorder, start) = (Recorder::default(), Instant::now());
    let mut ended = None;
    loop {
        tokio::select! {
            due = ticks.tick(), if ended.is_none() && recorder.sent < most => {
                let (lanes, ask) = (lanes.clone(), mix::ask(&plan, recorder.sent));
                recorder.sent(due.elapsed());
                under_way.spawn(async move {
                    let sent = start.elapsed();
                    let outcome = lanes.exchange(&ask, plan.patience).await;
                    (sent, start.elapsed(), ask, outcome)
                });
            }
            Some(one) = under_way.join_next() => {
                let (sent, answered, ask, outcome) = one?;
                recorder.retried += usize::from(outcome.retried);
                match outcome.result {
                    Ok(()) => {
                        counts.good.fetch_add(1, Ordering::Relaxed);
                        recorder.good(answered);
                    }
                    Err((kind, detail)) => {
                        counts.lost.fetch_add(1, Ordering::Relaxed);
                        recorder.lost(sent, &ask, kind, detail);
                    }
                }
            }
            // A handle that was dropped is a stop, too.
            _ = stopped.wait_for(|stopped| *stopped), if ended.is_none() => ended = Some(start.elapsed()),
            else => break,
        }
    }
    let cut_short = recorder.sent >= most;
    Ok(recorder.report(ended.unwrap_or_else(|| start.elapsed()), cut_short))
}

/// Asks until there is an answer: none within a minute is an error.
async fn first_answer(lanes: &Lanes, plan: Plan) -> Result<()> {
    let start = Instant::now();
    loop {
        match lanes.exchange(&mix::ask(&plan, 0), plan.patience).await.result {
            Ok(()) => return Ok(()),
            Err((kind, detail)) if start.elapsed() > Duration::from_secs(60) => bail!("no answer: {kind}: {detail}"),
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}
