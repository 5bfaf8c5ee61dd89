//! What is kept of one shim, by the uid of its pod: during an upgrade two of them share a node. In: what it said; out:
//! what it knows, remembered after it has disconnected, because it goes on serving. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use podless_link::{histogram, v1};
use tokio::sync::{Notify, oneshot};

use crate::{eject::Pace, link::auth::Identity};

/// No honest shim says Hello with a higher generation: they grow by one with each change. What is above is left for the
/// changes to come.
pub const HIGHEST_BELIEVED: u64 = u64::MAX / 2;

/// A shim could not load a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Generation of the assignment.
    pub generation: u64,
    /// The shim's stable name for it.
    pub reason: String,
    /// The shim's sentence.
    pub message: String,
    /// When it said so.
    pub at: Instant,
}

/// One stream of one shim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionKey {
    /// Uid of the shim's pod.
    pub pod_uid: String,
    pub(super) session: u64,
}

/// A shim, connected or remembered.
pub struct Shim {
    /// Who it is, from its token.
    pub identity: Identity,
    /// What it runs.
    pub hello: v1::Hello,
    /// Whether its stream is open, and since when it is so or not.
    pub connected: bool,
    /// When it connected or disconnected.
    pub since: Instant,
    /// Assignment generation that it serves, by service uid.
    pub known: HashMap<String, u64>,
    /// What it could not load, by service uid.
    pub failed: HashMap<String, Failure>,
    /// What it said last about itself; the services are in `measured`.
    pub report: Option<v1::Report>,
    /// What it said last, by service uid.
    pub measured: HashMap<String, v1::ServiceReport>,
    /// It was slow since it connected, and is not any more.
    pub pardoned: bool,
    /// How quickly it answers.
    pub(super) pace: Pace,
    pub(super) session: u64,
    /// Its pod is gone: forgotten when its stream has ended too.
    pub(super) gone: bool,
    /// Assignment generation that was sent last, by service uid.
    pub(super) told: HashMap<String, u64>,
    pub(super) dirty: BTreeSet<String>,
    /// Services that must have been planned with this shim in view before it is told that it has everything.
    /// Of one that cannot be made for now: since when that is known.
    pub(super) awaits: HashMap<String, Option<Instant>>,
    pub(super) joined: u64,
    pub(super) synced: bool,
    /// Questions about others that it is yet to be asked.
    pub(super) questions: VecDeque<v1::Probe>,
    /// Services of which connections are to come again elsewhere, and it is yet to be told; by their uids.
    pub(super) spreads: BTreeMap<String, v1::Spread>,
    /// What it is yet to be asked for.
    pub(super) recalls: VecDeque<v1::Recall>,
    /// Who waits for an answer, by the number of the question.
    pub(super) asked: HashMap<u64, oneshot::Sender<bool>>,
    pub(super) notify: Arc<Notify>,
}

impl Shim {
    /// A shim that has just said Hello on its stream of this number.
    pub(super) fn new(
        identity: Identity,
        hello: v1::Hello,
        awaits: HashSet<String>,
        session: u64,
        now: Instant,
    ) -> Self {
        let known = hello.known.iter().map(|k| (k.service_uid.clone(), k.generation.min(HIGHEST_BELIEVED)));
        let known: HashMap<_, _> = known.collect();
        let notify = Arc::new(Notify::new());
        notify.notify_one();
        Self {
            identity,
            connected: true,
            since: now,
            told: HashMap::new(),
            failed: HashMap::new(),
            report: None,
            measured: HashMap::new(),
            pardoned: false,
            pace: Pace::default(),
            session,
            gone: false,
            dirty: known.keys().cloned().collect(),
            awaits: awaits.into_iter().map(|service| (service, None)).collect(),
            joined: session,
            synced: false,
            questions: VecDeque::new(),
            spreads: BTreeMap::new(),
            recalls: VecDeque::new(),
            asked: HashMap::new(),
            notify,
            known,
            hello: v1::Hello { known: vec![], ..hello },
        }
    }

    /// Its stream has ended. Who waits for an answer sees that there will be none.
    pub(super) fn disconnected(&mut self, now: Instant) {
        (self.connected, self.since) = (false, now);
        self.dirty.clear();
        self.questions.clear();
        self.spreads.clear();
        self.recalls.clear();
        self.asked.clear();
    }

    /// Takes its word, for no higher a generation than it can have. Answers whether it claimed one.
    pub(super) fn acknowledged(&mut self, ack: v1::Ack, assigned: u64, now: Instant) -> bool {
        let v1::Ack { service_uid, generation: claimed, outcome } = ack;
        // 0 is none: of what it was never told it can say nothing.
        let generation = claimed.min(self.highest(&service_uid).max(assigned));
        match outcome {
            Some(v1::ack::Outcome::Loaded(_)) if generation > 0 => {
                self.failed.remove(&service_uid);
                self.known.insert(service_uid, generation);
            }
            Some(v1::ack::Outcome::Failed(v1::Failed { reason, message })) if generation > 0 => {
                self.failed.insert(service_uid, Failure { generation, reason, message, at: now });
            }
            Some(v1::ack::Outcome::Withdrawn(_)) => {
                self.known.remove(&service_uid);
                self.failed.remove(&service_uid);
                self.told.remove(&service_uid);
                // The generation of a withdrawal is what anyone has seen, not this shim.
                return false;
            }
            _ => {}
        }
        claimed > generation
    }

    /// Buckets that there are not are dropped: what comes from a node is not believed blindly.
    pub(super) fn reported(&mut self, mut report: v1::Report) {
        for phases in report.services.iter_mut().filter_map(|s| s.phases.as_mut()) {
            let v1::Phases { fetch, load, link, instantiate, first_byte } = phases;
            for histogram in [fetch, load, link, instantiate, first_byte].into_iter().flatten() {
                histogram.counts.retain(|bucket, _| (*bucket as usize) < histogram::BUCKETS);
            }
        }
        self.measured = report.services.drain(..).map(|s| (s.service_uid.clone(), s)).collect();
        self.report = Some(report);
    }

    /// The highest generation of a service that this shim has or was told on this stream.
    pub fn highest(&self, service: &str) -> u64 {
        let known = self.known.get(service).copied().unwrap_or(0);
        known.max(self.told.get(service).copied().unwrap_or(0))
    }
}
