//! The control loop, on one thread: learns from the operator, or from its own volume after a restart, what to serve,
//! and makes it so. `diff` says what to do, this does it; the hot path only ever sees a route swapped.

mod diff;
mod fetch;
pub(crate) mod link;
mod load;
mod ports;
mod prepare;
mod report;
mod resident;
mod state;
mod store;
mod trust;
mod verify;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    future::pending,
    io,
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use podless_engine::{TARGET, fingerprint};
use podless_link::v1::{self, ack::Outcome, from_shim, to_shim};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc, oneshot},
    task::JoinSet,
    time,
};
use wasmtime::Engine;
use wasmtime_wasi_http::handler::ProxyHandler;

use self::{
    diff::{Have, Step, Work, diff},
    link::{Client, LinkConfig, LinkEvent},
    load::{Code, Loaded},
    ports::{Ports, Tenure},
    prepare::{PrepareError, Prepared, Workshop, prepare},
    resident::Resident,
    state::StateDir,
    store::Store,
    verify::{Order, claimed, verify},
};
use crate::{
    host::{
        Linkers,
        log::{Lines, ServiceLog},
    },
    serve::{Node, budget::Budget, instance::Instances, service::Service, stats::Stats},
    shared::Shared,
};

/// Generations that are loaded at once.
const LOADING: usize = 4;
/// Pause before what may pass by itself is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// How often the operator is told.
const REPORT: Duration = Duration::from_secs(5);
/// How long a service that moved to another port still answers on the old one.
const OLD_PORT: Duration = Duration::from_secs(30);
/// Reading smaps may take this share of the time at most, one part in.
const MEASURING: u32 = 20;

/// What the control loop works with.
pub(crate) struct ControlConfig {
    /// The operator.
    pub(crate) link: LinkConfig,
    /// Where artifacts lie.
    pub(crate) data_dir: PathBuf,
    /// Where assignments lie.
    pub(crate) state_dir: PathBuf,
    /// What fits.
    pub(crate) capacity: v1::Capacity,
    /// The engine.
    pub(crate) engine: Engine,
    /// The node.
    pub(crate) node: Arc<Node>,
    /// The guests' log.
    pub(crate) lines: Lines,
    /// What the admin port shows.
    pub(crate) shared: Arc<Shared>,
    /// The runtime that serves.
    pub(crate) serve: Handle,
}

/// One service.
struct Entry {
    serving: Option<Serving>,
    work: Work,
    stats: Arc<Stats>,
    budget: Arc<Budget>,
    log: Arc<ServiceLog>,
    /// Most that was measured.
    bytes_per_instance: u64,
}

/// The generation that answers.
struct Serving {
    order: Arc<Order>,
    code: Arc<Code>,
}

impl Serving {
    fn file(&self) -> String {
        self.code.path.display().to_string()
    }
}

/// What work in the background ends with.
enum Done {
    Prepared(Arc<Order>, Box<Result<Prepared, PrepareError>>),
    Lingered { port: u16, tenure: Tenure, drain: Duration, withdrawn: Option<(String, u64)> },
    Withdrawn(String, u64),
    Measured(io::Result<Resident>, Duration),
}

struct Control {
    config: ControlConfig,
    fingerprint: String,
    shop: Workshop,
    state: StateDir,
    wanted: BTreeMap<String, Arc<Order>>,
    entries: BTreeMap<String, Entry>,
    /// Last generation of what was withdrawn, and how long it lingers: an older assignment does not bring it back.
    withdrawn: HashMap<String, (u64, Duration)>,
    ports: Ports,
    jobs: JoinSet<Done>,
    loading: Arc<Semaphore>,
    client: Option<Client>,
    outbox: Option<mpsc::Sender<v1::FromShim>>,
    restored: bool,
    synced: bool,
    measure_after: Instant,
}

/// Runs until it is told to stop, closes every port and returns when the last request is answered, or cut off.
pub(crate) async fn run(config: ControlConfig, stop: oneshot::Receiver<()>) -> anyhow::Result<()> {
    let (events, mut from_link) = mpsc::channel(1024);
    let mut control = Control::new(config)?;
    control.restore().await;
    let link = tokio::spawn(link::run(control.config.link.clone(), events));
    let mut reports = time::interval(REPORT);
    let mut seconds = time::interval(Duration::from_secs(1));
    reports.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            _ = stop.as_mut() => break,
            Some(event) = from_link.recv() => control.on_link(event),
            Some(done) = join(&mut control.jobs) => control.on_done(done),
            _ = reports.tick() => control.measure(),
            // What failed is tried again when its time has come.
            _ = seconds.tick() => {}
        }
        control.step();
    }
    link.abort();
    control.close().await;
    Ok(())
}

async fn join(jobs: &mut JoinSet<Done>) -> Option<Done> {
    match jobs.join_next().await {
        None => pending().await,
        Some(Ok(done)) => Some(done),
        Some(Err(error)) => {
            tracing::error!(%error, "work in the background was cut off");
            None
        }
    }
}

impl Control {
    fn new(config: ControlConfig) -> anyhow::Result<Self> {
        let shop = Workshop {
            engine: config.engine.clone(),
            linkers: Arc::new(Linkers::new(&config.engine).map_err(|error| anyhow::anyhow!("{error:#}"))?),
            store: Store::open(&config.data_dir)?,
            loaded: Loaded::default(),
        };
        Ok(Self {
            fingerprint: fingerprint(),
            shop,
            state: StateDir::open(&config.state_dir)?,
            wanted: BTreeMap::new(),
            entries: BTreeMap::new(),
            withdrawn: HashMap::new(),
            ports: Ports::new(config.node.clone(), config.serve.clone()),
            jobs: JoinSet::new(),
            loading: Arc::new(Semaphore::new(LOADING)),
            client: None,
            outbox: None,
            restored: false,
            synced: false,
            measure_after: Instant::now(),
            config,
        })
    }

    /// Wants again what was served before the restart.
    async fn restore(&mut self) {
        let trust = loop {
            match trust::read(&self.config.link.trust_dir) {
                Ok(trust) => break trust,
                Err(error) => tracing::warn!("waiting for the operator's public keys: {error}"),
            }
            time::sleep(Duration::from_millis(500)).await;
        };
        let kept = self.state.read().unwrap_or_else(|error| {
            tracing::warn!(%error, "the kept assignments cannot be read");
            vec![]
        });
        for received in kept {
            match verify(received, &trust.keys, &self.fingerprint) {
                Ok(order) => {
                    self.wanted.insert(order.identity.uid.clone(), Arc::new(order));
                }
                Err(refused) => tracing::warn!("a kept assignment is not taken: {refused}"),
            }
        }
        tracing::info!(services = self.wanted.len(), "restored");
        self.step();
    }

    fn on_link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Opened(client, outbox) => {
                (self.client, self.outbox) = (Some(client), Some(outbox));
                self.say(from_shim::Body::Hello(self.hello()));
                self.config.shared.linked.store(true, Relaxed);
                for entry in self.entries.values_mut() {
                    if let Work::Failed { retry: Some(retry), .. } = &mut entry.work {
                        *retry = Instant::now();
                    }
                }
            }
            LinkEvent::Closed => {
                (self.client, self.outbox) = (None, None);
                self.config.shared.linked.store(false, Relaxed);
            }
            LinkEvent::Said(to_shim::Body::Assign(assign)) => self.on_assign(assign),
            LinkEvent::Said(to_shim::Body::Withdraw(withdraw)) => self.on_withdraw(withdraw),
            LinkEvent::Said(to_shim::Body::Synced(_)) => self.synced = true,
        }
    }

    fn on_assign(&mut self, assign: v1::Assign) {
        let (uid, generation) = claimed(&assign);
        let order = trust::read(&self.config.link.trust_dir)
            .map_err(|error| ("trust-missing", error.to_string()))
            .and_then(|trust| {
                verify(assign, &trust.keys, &self.fingerprint)
                    .map_err(|refused| (refused.reason(), refused.to_string()))
            });
        let order = match order {
            Ok(order) => order,
            Err((reason, message)) => return self.fail(uid, generation, reason, message),
        };
        let known = self.known_generation(&uid);
        if known.is_some_and(|known| generation < known) {
            let message = format!("generation {generation} is lower than {}", known.unwrap_or_default());
            return self.fail(uid, generation, "generation-lowered", message);
        }
        let again = self.wanted.get(&uid).is_some_and(|wanted| wanted.generation == generation);
        if !again {
            self.wanted.insert(uid, Arc::new(order));
        } else if let Some(entry) = self.entries.get_mut(&uid) {
            // Sent again: the operator has not heard how it went.
            match entry.work {
                Work::Idle if entry.serving.as_ref().is_some_and(|s| s.order.generation == generation) => {
                    self.ack(uid, generation, Outcome::Loaded(v1::Loaded {}));
                }
                Work::Failed { .. } => entry.work = Work::Idle,
                _ => {}
            }
        }
    }

    fn on_withdraw(&mut self, withdraw: v1::Withdraw) {
        let v1::Withdraw { service_uid: uid, generation, linger_millis } = withdraw;
        if self.known_generation(&uid).is_some_and(|known| generation < known) {
            tracing::warn!(uid, generation, "a withdrawal of an older generation is not followed");
            return;
        }
        self.wanted.remove(&uid);
        self.withdrawn.insert(uid.clone(), (generation, Duration::from_millis(linger_millis)));
        if !self.entries.contains_key(&uid) {
            self.ack(uid, generation, Outcome::Withdrawn(v1::Withdrawn {}));
        }
    }

    fn known_generation(&self, uid: &str) -> Option<u64> {
        let wanted = self.wanted.get(uid).map(|order| order.generation);
        let serving = self.entries.get(uid).and_then(|entry| entry.serving.as_ref()).map(|s| s.order.generation);
        let withdrawn = self.withdrawn.get(uid).map(|(generation, _)| *generation);
        wanted.max(serving).max(withdrawn)
    }

    /// Does what there is to do.
    fn step(&mut self) {
        let wanted = self.wanted.iter().map(|(uid, order)| (uid.clone(), order.generation)).collect();
        let have = self.entries.iter().map(|(uid, entry)| {
            let serving = entry.serving.as_ref().map(|serving| serving.order.generation);
            (uid.clone(), Have { serving, work: entry.work })
        });
        for step in diff(&wanted, &have.collect(), Instant::now()) {
            match step {
                Step::Load(uid) => self.load(&uid),
                Step::Withdraw(uid) => self.withdraw(uid),
            }
        }
        let busy = self.entries.values().any(|entry| entry.work == Work::Loading);
        if !self.restored && !busy {
            self.restored = true;
            // What could be served again is: the shim has something to be ready for.
            let any = self.entries.values().any(|entry| entry.serving.is_some());
            self.config.shared.ready.store(any, Relaxed);
        }
        if self.synced && !busy && !self.config.shared.ready.swap(true, Relaxed) {
            tracing::info!("ready: everything that the operator assigned is loaded");
            self.sweep();
        }
    }

    fn load(&mut self, uid: &str) {
        let Some(order) = self.wanted.get(uid).cloned() else { return };
        let entry = self.entries.entry(uid.to_owned()).or_insert_with(|| {
            let (stats, identity) = (Arc::<Stats>::default(), &order.identity);
            self.config.shared.services().insert(uid.to_owned(), (identity.clone(), stats.clone()));
            let log = ServiceLog::new(self.config.lines.clone(), &identity.namespace, &identity.name);
            Entry {
                serving: None,
                work: Work::Idle,
                stats,
                budget: Budget::new(order.budget),
                log: Arc::new(log),
                bytes_per_instance: 0,
            }
        });
        entry.work = Work::Loading;
        let (shop, client, loading) = (self.shop.clone(), self.client.clone(), self.loading.clone());
        self.jobs.spawn(async move {
            let _turn = loading.acquire().await;
            let prepared = prepare(shop, order.clone(), client).await;
            Done::Prepared(order, Box::new(prepared))
        });
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Prepared(order, prepared) => self.on_prepared(order, *prepared),
            Done::Lingered { port, tenure, drain, withdrawn } => {
                let listener = self.ports.take(port, tenure);
                let deadline = time::Instant::now() + drain;
                match (listener, withdrawn) {
                    (Some(listener), Some((uid, generation))) => drop(self.jobs.spawn(async move {
                        listener.close(deadline).await;
                        Done::Withdrawn(uid, generation)
                    })),
                    (Some(listener), None) => drop(tokio::spawn(listener.close(deadline))),
                    (None, Some((uid, generation))) => self.on_done(Done::Withdrawn(uid, generation)),
                    (None, None) => {}
                }
            }
            Done::Withdrawn(uid, generation) => {
                self.ack(uid, generation, Outcome::Withdrawn(v1::Withdrawn {}));
                self.sweep();
            }
            Done::Measured(resident, took) => {
                self.measure_after = Instant::now() + took * MEASURING;
                match resident {
                    Ok(resident) => self.report(&resident),
                    Err(error) => tracing::warn!(%error, "resident memory cannot be measured"),
                }
            }
        }
    }

    fn on_prepared(&mut self, order: Arc<Order>, prepared: Result<Prepared, PrepareError>) {
        let (uid, generation) = (order.identity.uid.clone(), order.generation);
        let Some(entry) = self.entries.get_mut(&uid) else { return };
        entry.work = Work::Idle;
        if self.wanted.get(&uid).is_none_or(|wanted| wanted.generation != generation) {
            // Wanted no more, or not this one: the next step sees to it.
            return;
        }
        let result = prepared
            .map_err(|error| {
                let (reason, passes) = error.reason();
                (reason, passes, error.to_string())
            })
            .and_then(|prepared| {
                self.install(order, prepared).map_err(|error| ("port-unavailable", true, error.to_string()))
            });
        match result {
            Ok(()) => {
                tracing::info!(uid, generation, "serving");
                self.ack(uid, generation, Outcome::Loaded(v1::Loaded {}));
            }
            Err((reason, passes, message)) => {
                if let Some(entry) = self.entries.get_mut(&uid) {
                    entry.work = Work::Failed { generation, retry: passes.then(|| Instant::now() + RETRY) };
                }
                self.fail(uid, generation, reason, message);
            }
        }
    }

    /// Swaps the route to a new generation.
    fn install(&mut self, order: Arc<Order>, prepared: Prepared) -> Result<(), ports::PortError> {
        let Some(entry) = self.entries.get_mut(&order.identity.uid) else { return Ok(()) };
        let stats = &entry.stats;
        prepared.fetch.inspect(|time| stats.fetch.record(*time));
        prepared.load.inspect(|time| stats.load.record(*time));
        stats.link.record(prepared.link);
        let service = Arc::new(Service {
            identity: order.identity.clone(),
            timeout: order.timeout,
            budget: entry.budget.clone(),
            stats: stats.clone(),
            log: entry.log.clone(),
            handler: ProxyHandler::new(Instances {
                engine: self.config.engine.clone(),
                component: prepared.component,
                env: order.env.clone(),
                memory: order.memory,
                timeout: order.timeout,
                log: entry.log.clone(),
                stats: stats.clone(),
                live: self.config.node.live.clone(),
            }),
        });
        self.ports.serve(order.port, service)?;
        entry.budget.resize(order.budget);
        if let Err(error) = self.state.keep(&order.identity.uid, &order.received) {
            // It serves; only a restart without the operator would miss it.
            tracing::error!(%error, "the assignment cannot be kept for a restart");
        }
        let old = entry.serving.replace(Serving { order: order.clone(), code: prepared.code });
        if let Some(old) = old.filter(|old| old.order.port != order.port)
            && let Some(tenure) = self.ports.linger(old.order.port)
        {
            let (port, drain) = (old.order.port, old.order.timeout);
            self.jobs.spawn(async move {
                time::sleep(OLD_PORT).await;
                Done::Lingered { port, tenure, drain, withdrawn: None }
            });
        }
        self.sweep();
        Ok(())
    }

    fn withdraw(&mut self, uid: String) {
        let Some(entry) = self.entries.remove(&uid) else { return };
        self.config.shared.services().remove(&uid);
        if let Err(error) = self.state.forget(&uid) {
            tracing::error!(%error, uid, "the assignment cannot be forgotten");
        }
        let (generation, linger) = self.withdrawn.get(&uid).copied().unwrap_or_default();
        tracing::info!(uid, generation, "withdrawn");
        let tenure = entry.serving.as_ref().and_then(|serving| self.ports.linger(serving.order.port));
        self.jobs.spawn(async move {
            let (Some(serving), Some(tenure)) = (entry.serving, tenure) else {
                return Done::Withdrawn(uid, generation);
            };
            time::sleep(linger).await;
            let (port, drain) = (serving.order.port, serving.order.timeout);
            Done::Lingered { port, tenure, drain, withdrawn: Some((uid, generation)) }
        });
    }

    /// Removes artifacts that nothing runs or wants. Before the operator has said everything, what is unused now may
    /// be wanted in a moment.
    fn sweep(&self) {
        if !self.synced {
            return;
        }
        let running = self.entries.values().filter_map(|entry| entry.serving.as_ref()).map(|serving| &serving.order);
        let used: HashSet<_> = running.chain(self.wanted.values()).map(|o| o.seal.code_sha256.as_str()).collect();
        if let Err(error) = self.shop.store.sweep(&used) {
            tracing::warn!(%error, "unused artifacts cannot be removed");
        }
    }

    fn measure(&mut self) {
        if Instant::now() < self.measure_after {
            return;
        }
        let dir = self.config.data_dir.display().to_string();
        self.jobs.spawn(async move {
            let started = Instant::now();
            let read = move || std::fs::read_to_string("/proc/self/smaps").map(|text| resident::parse(&text, &dir));
            let resident = tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(io::Error::other(error)));
            Done::Measured(resident, started.elapsed())
        });
    }

    fn report(&mut self, resident: &Resident) {
        let report = report::compose(self.entries.iter_mut(), resident, &self.config.node.live);
        if let Some(memory) = &report.memory {
            self.config.shared.resident.store(memory.resident_bytes, Relaxed);
            self.config.shared.unattributed.store(memory.unattributed_bytes, Relaxed);
        }
        self.say(from_shim::Body::Report(report));
    }

    fn hello(&self) -> v1::Hello {
        let known = self.entries.iter().filter_map(|(uid, entry)| {
            let generation = entry.serving.as_ref()?.order.generation;
            Some(v1::Known { service_uid: uid.clone(), generation })
        });
        v1::Hello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            fingerprint: self.fingerprint.clone(),
            target: TARGET.to_owned(),
            capacity: Some(self.config.capacity.clone()),
            known: known.collect(),
        }
    }

    fn fail(&mut self, uid: String, generation: u64, reason: &str, message: String) {
        tracing::warn!(uid, generation, reason, "an assignment is not served: {message}");
        self.ack(uid, generation, Outcome::Failed(v1::Failed { reason: reason.to_owned(), message }));
    }

    fn ack(&mut self, service_uid: String, generation: u64, outcome: Outcome) {
        self.say(from_shim::Body::Ack(v1::Ack { service_uid, generation, outcome: Some(outcome) }));
    }

    /// Tells the operator, when it is there. What it misses it asks for again after the next Hello.
    fn say(&mut self, body: from_shim::Body) {
        let lost = self.outbox.as_ref().is_some_and(|out| out.try_send(v1::FromShim { body: Some(body) }).is_err());
        if lost {
            // A session that takes nothing is as good as none: ending it makes the link open another.
            self.outbox = None;
        }
    }

    async fn close(mut self) {
        let longest = self.entries.values().filter_map(|entry| Some(entry.serving.as_ref()?.order.timeout)).max();
        let deadline = time::Instant::now() + longest.unwrap_or_default();
        let closing = self.ports.take_all().into_iter().map(|listener| listener.close(deadline));
        futures::future::join_all(closing).await;
    }
}
