//! The control loop, on one thread: learns from the operator, or from its own volume after a restart, what to serve,
//! and makes it so. `diff` says what to do, this does it; the hot path only ever sees a route swapped.

mod demand;
mod diff;
pub(crate) mod doors;
mod execute;
mod fetch;
mod give;
mod hosts;
pub(crate) mod link;
mod load;
mod looked;
mod measure;
mod ports;
mod prepare;
mod probe;
mod report;
mod residency;
mod resident;
mod restore;
mod state;
pub(crate) mod store;
mod talk;
mod trust;
mod verify;
mod wake;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::pending,
    io,
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use podless_engine::Target;
use podless_host::{log::Lines, outbound::ServiceGate, turns::Way};
use podless_link::v1;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc, oneshot},
    task::JoinSet,
    time,
};

use self::{
    demand::Demand,
    diff::{Have, Step, Work, diff},
    doors::Doors,
    hosts::{Hosted, Hosts},
    link::{Client, LinkEvent},
    load::{Code, Loaded},
    ports::{Ports, Tenure},
    prepare::{Linked, PrepareError, Prepared, Workshop},
    resident::Resident,
    state::StateDir,
    store::Store,
    verify::Order,
    wake::Wake,
};
use crate::{
    engine::Engines,
    node::Room,
    serve::{
        Node,
        budget::Budget,
        hosts::Seat,
        parked::Parked,
        service::{self, Handler, Service},
        stats::Stats,
    },
    shared::Shared,
};

/// Other shims that are probed at once.
const PROBING: usize = 32;
/// Artifacts that are given back at once: nobody waits for them here.
const GIVING: usize = 1;
/// Messages of the operator that are taken before the loop looks what there is to do.
const BATCH: usize = 256;
/// How often the operator is told.
const REPORT: Duration = Duration::from_secs(5);
/// How often it is told what is asked of services, while something is.
const DEMAND: Duration = Duration::from_millis(200);

/// What the control loop works with.
pub(crate) struct ControlConfig {
    /// The mounted `podless-trust`.
    pub(crate) trust_dir: PathBuf,
    /// Where artifacts lie.
    pub(crate) data_dir: PathBuf,
    /// Where assignments lie; nowhere when nobody is going to restart.
    pub(crate) state_dir: Option<PathBuf>,
    /// The port of all services that have hosts, if there is to be one.
    pub(crate) shared_port: Option<u16>,
    /// The admin port of every shim; none where there are no others.
    pub(crate) admin_port: Option<u16>,
    /// Time without a request after which a service that a request has woken is parked again.
    pub(crate) park_after: Duration,
    /// What fits.
    pub(crate) capacity: v1::Capacity,
    /// How much code may be mapped.
    pub(crate) room: Room,
    /// The engines.
    pub(crate) engines: Arc<Engines>,
    /// What machine code it runs.
    pub(crate) target: Target,
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
    /// Where the shared port finds it.
    seat: Arc<Seat>,
    /// What it has there: of the last order that was tried, though an older one may answer.
    hosted: Option<Arc<Hosted>>,
    work: Work,
    stats: Arc<Stats>,
    budget: Arc<Budget>,
    instances: Arc<Way>,
    gate: Arc<ServiceGate>,
    demand: Demand,
    /// Pause before the next attempt, when the last one failed.
    pause: Duration,
    /// Most that was measured.
    bytes_per_instance: u64,
}

impl Entry {
    /// What answers, once it was looked at.
    fn proven(&self) -> Option<&Serving> {
        self.serving.as_ref().filter(|serving| !serving.restored)
    }
}

/// The generation that answers.
struct Serving {
    order: Arc<Order>,
    /// Nothing is loaded of what is stopped, or parked.
    code: Option<Arc<Code>>,
    service: Arc<Service>,
    /// It answers since a restart and was not looked at: only who asks for it has it loaded before its turn comes.
    restored: bool,
}

impl Serving {
    /// What a request wakes, or has woken.
    fn parked(&self) -> Option<&Arc<Parked<service::Resident>>> {
        match &self.service.handler {
            Handler::Parked(parked) => Some(parked),
            Handler::Stopped | Handler::Resident(_) => None,
        }
    }

    fn file(&self) -> Option<String> {
        Some(self.code.as_ref()?.path.display().to_string())
    }
}

/// What work in the background ends with.
enum Done {
    Prepared(Arc<Order>, Box<Result<Prepared, PrepareError>>),
    Woken(Wake, Box<Result<Linked, PrepareError>>),
    Lingered { port: u16, tenure: Tenure, drain: Duration, withdrawn: Option<(String, u64)> },
    Withdrawn(String, u64),
    Measured(io::Result<Resident>, Duration),
    Probed(v1::ProbeResult),
}

struct Control {
    config: ControlConfig,
    shop: Workshop,
    state: StateDir,
    /// Services whose assignment could not be kept.
    unkept: BTreeSet<String>,
    wanted: BTreeMap<String, Arc<Order>>,
    /// Wanted services that did not answer when the link opened, so Hello did not name them: the operator assigns them
    /// anew, or does not have them any more.
    unheard: BTreeSet<String>,
    entries: BTreeMap<String, Entry>,
    /// Last generation of what was withdrawn, and how long it lingers: until it is gone an older assignment does not bring
    /// it back. After that it may, as when the API server was restored with records of then.
    withdrawn: HashMap<String, (u64, Duration)>,
    /// What was withdrawn and lingers: a request may still wake it.
    lingering: HashMap<String, Arc<Order>>,
    ports: Ports,
    hosts: Hosts<Seat>,
    jobs: JoinSet<Done>,
    /// Turns to load a generation: as many at once as there are cores, and on small nodes more, because some wait for the
    /// disk.
    loading: Arc<Semaphore>,
    /// Turns to load what a request waits for: twice as many.
    waking: Arc<Semaphore>,
    wakes: mpsc::UnboundedSender<Wake>,
    probing: Arc<Semaphore>,
    giving: Arc<Semaphore>,
    client: Option<Client>,
    outbox: Option<mpsc::Sender<v1::FromShim>>,
    /// Generations being loaded now.
    busy: usize,
    /// Something was learned since the last look at what there is to do.
    changed: bool,
    /// Code was mapped since the last look at how much there is.
    mapped: bool,
    /// Something is run no more since the last sweep.
    unused: bool,
    restored: bool,
    synced: bool,
    measure_after: Instant,
    /// A parked service was asked: the operator is to know at once.
    asked: bool,
    started: Instant,
}

/// Runs until it is told to stop, closes every port and returns when the last request is answered, or cut off. Listening
/// sockets come from `doors`; `link` makes what brings the operator's words and carries the answers.
pub(crate) async fn run<L: Future<Output = ()> + Send + 'static>(
    config: ControlConfig,
    doors: Box<dyn Doors>,
    link: impl FnOnce(mpsc::Sender<LinkEvent>) -> L,
    stop: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    let (events, mut from_link) = mpsc::channel(1024);
    let (wakes, mut from_requests) = mpsc::unbounded_channel();
    let mut control = Control::new(config, doors, wakes)?;
    let mut stop = std::pin::pin!(stop);
    tokio::select! {
        // It may wait for the operator's keys, and they for ever.
        _ = stop.as_mut() => return Ok(()),
        () = control.restore() => {}
    }
    // The link opens when what was kept is served again: then Hello says all of it.
    let (mut opening, mut session) = (Some((link, events)), None);
    let mut reports = time::interval(REPORT);
    let mut seconds = time::interval(Duration::from_secs(1));
    let mut looks = time::interval(DEMAND);
    looks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    reports.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let (mut said, mut woken) = (vec![], vec![]);
    loop {
        tokio::select! {
            _ = stop.as_mut() => break,
            count = from_link.recv_many(&mut said, BATCH) => {
                debug_assert!(count > 0 || opening.is_none());
                said.drain(..).for_each(|event| control.on_link(event));
            }
            _ = from_requests.recv_many(&mut woken, BATCH) => woken.drain(..).for_each(|wake| control.on_wake(wake)),
            Some(done) = join(&mut control.jobs) => control.on_done(done),
            _ = looks.tick() => control.on_look(),
            _ = reports.tick() => control.measure(),
            _ = seconds.tick() => control.on_second(),
        }
        control.step();
        if control.restored
            && let Some((link, events)) = opening.take()
        {
            session = Some(tokio::spawn(link(events)));
        }
    }
    session.inspect(tokio::task::JoinHandle::abort);
    control.close(from_requests).await;
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
    fn new(config: ControlConfig, doors: Box<dyn Doors>, wakes: mpsc::UnboundedSender<Wake>) -> anyhow::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shop = Workshop {
            engines: config.engines.clone(),
            store: Store::open(&config.data_dir),
            loaded: Loaded::default(),
            serve: config.serve.clone(),
            outbound: config.node.outbound.clone(),
        };
        let mut ports = Ports::new(doors, config.node.clone(), config.serve.clone());
        config
            .shared_port
            .map(|port| ports.hold_shared(port))
            .transpose()
            .context("the shared port cannot be opened")?;
        Ok(Self {
            shop,
            state: StateDir::open(config.state_dir.as_deref()),
            unkept: BTreeSet::new(),
            wanted: BTreeMap::new(),
            unheard: BTreeSet::new(),
            entries: BTreeMap::new(),
            withdrawn: HashMap::new(),
            lingering: HashMap::new(),
            ports,
            hosts: Hosts::default(),
            jobs: JoinSet::new(),
            loading: Arc::new(Semaphore::new(cores.max(4))),
            waking: Arc::new(Semaphore::new((2 * cores).max(8))),
            wakes,
            probing: Arc::new(Semaphore::new(PROBING)),
            giving: Arc::new(Semaphore::new(GIVING)),
            client: None,
            outbox: None,
            busy: 0,
            changed: false,
            mapped: false,
            unused: false,
            restored: false,
            synced: false,
            measure_after: Instant::now(),
            asked: false,
            started: Instant::now(),
            config,
        })
    }

    fn on_second(&mut self) {
        // What failed is tried again when its time has come.
        self.changed |= self.entries.values().any(|entry| matches!(entry.work, Work::Failed { .. }));
        if std::mem::take(&mut self.unused) {
            self.sweep();
        }
        if self.shop.store.is_unsettled() {
            let store = self.shop.store.clone();
            tokio::task::spawn_blocking(move || store.settle());
        }
        let unkept = std::mem::take(&mut self.unkept);
        if !unkept.is_empty() {
            unkept.iter().for_each(|uid| self.keep(uid));
            self.config.shared.unkept.store(self.unkept.len() as u64, Relaxed);
        }
    }

    fn on_look(&mut self) {
        self.asked = true;
        self.park(Instant::now());
        let (mut resident, mut parked) = (0, 0);
        for serving in self.entries.values().filter_map(|entry| entry.serving.as_ref()) {
            match (&serving.code, serving.parked()) {
                (Some(_), _) => resident += 1,
                (None, Some(_)) => parked += 1,
                (None, None) => {}
            }
        }
        self.config.shared.resident_services.store(resident, Relaxed);
        self.config.shared.parked_services.store(parked, Relaxed);
    }

    /// Does what there is to do.
    fn step(&mut self) {
        if std::mem::take(&mut self.asked) {
            self.tell_demand();
        }
        if std::mem::take(&mut self.changed) {
            let wanted = self.wanted.iter().map(|(uid, order)| (uid.as_str(), order.generation)).collect();
            let have = self.entries.iter().map(|(uid, entry)| {
                (
                    uid.as_str(),
                    Have { serving: entry.proven().map(|serving| serving.order.generation), work: entry.work },
                )
            });
            for step in diff(&wanted, &have.collect(), Instant::now()) {
                match step {
                    Step::Load(uid) => self.load(&uid),
                    Step::Withdraw(uid) => self.withdraw(uid),
                }
            }
        }
        if std::mem::take(&mut self.mapped) {
            self.make_room(Instant::now());
        }
        if self.busy > 0 {
            return;
        }
        if !self.restored {
            self.restored = true;
            self.ports.settled();
            // What could be served again is: the shim has something to be ready for.
            let any = self.entries.values().any(|entry| entry.proven().is_some());
            self.config.shared.ready.store(any, Relaxed);
        }
        if self.synced && !self.config.shared.ready.swap(true, Relaxed) {
            tracing::info!("ready: everything that the operator assigned is loaded");
        }
    }

    async fn close(mut self, mut from_requests: mpsc::UnboundedReceiver<Wake>) {
        let longest = self.entries.values().filter_map(|entry| Some(entry.serving.as_ref()?.order.timeout)).max();
        let deadline = time::Instant::now() + longest.unwrap_or_default();
        let closing = self.ports.take_all().into_iter().map(|listener| listener.close(deadline));
        let mut closed = std::pin::pin!(futures::future::join_all(closing));
        // What is still being answered may be waiting for something that is parked.
        loop {
            tokio::select! {
                _ = closed.as_mut() => return,
                Some(wake) = from_requests.recv() => self.on_wake(wake),
                done = join(&mut self.jobs) => if let Some(Done::Woken(wake, linked)) = done {
                    self.on_woken(wake, *linked);
                },
            }
        }
    }
}
