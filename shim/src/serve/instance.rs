//! Instances, and calls of them: the linked component and a request in, the answer out of a live instance. It is one
//! that has room, where the service's policy lets instances answer more than once, or a fresh one: a task of its own,
//! which ends with the instance.

mod inbox;
mod open;
mod p2;
mod p3;
pub(crate) mod policy;

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError, Weak, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use futures::{
    channel::oneshot,
    future::{Either, select},
};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use podless_engine::Flavour;
use tokio::time::sleep;
use wasmtime::{Engine, PoolConcurrencyLimitError, Store, format_err};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::{
    WasiBody,
    handler::{Proxy, ProxyPre},
    p2::bindings as bindings_p2,
};

pub(crate) use self::open::AllOpen;
use self::{inbox::Inbox, open::Open, p3::Watched, policy::Policy};
use super::{
    Node,
    background::Background,
    flight::{Failure, Flight},
    lanes::{self, Bill, Payer},
    refusal::Refusal,
    stats::{Level, Stats},
};
use podless_host::{
    self, Guest, Surroundings,
    log::{Message, ServiceLog, Stream},
};

/// Pauses after which making an instance is tried again that found no slot, or no memory.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(1),
    Duration::from_millis(4),
    Duration::from_millis(16),
    Duration::from_millis(64),
    Duration::from_millis(256),
];

/// A component with its imports resolved, on the engine that runs it.
pub(crate) enum Component {
    /// On that of WASI 0.2.
    P2(bindings_p2::ProxyPre<Guest>),
    /// On that of WASI 0.3, whichever handler it exports.
    P3(ProxyPre<Guest>),
}

impl Component {
    /// Which engine runs it.
    fn flavour(&self) -> Flavour {
        match self {
            Self::P2(_) => Flavour::P2,
            Self::P3(_) => Flavour::P3,
        }
    }
}

/// An instance's exports.
pub(crate) enum Exports {
    /// On the engine of WASI 0.2.
    P2(bindings_p2::Proxy),
    /// On that of WASI 0.3.
    P3(Proxy),
}

/// What instances of one generation of a service are made from.
pub(crate) struct Mould {
    /// The engine.
    pub(crate) engine: Engine,
    /// The component.
    pub(crate) component: Component,
    /// What it finds around it.
    pub(crate) surroundings: Surroundings,
    /// How many instances' parts of the pool each of them takes.
    pub(crate) places: u64,
    /// How often instances are used.
    pub(crate) policy: Policy,
    /// The CPU time that they take is counted exactly.
    pub(crate) count_cpu: bool,
}

impl Mould {
    /// Makes an instance; no request has reached it. A component's start function is guest code: it may take for ever.
    pub(crate) async fn make(&self) -> wasmtime::Result<(Store<Guest>, Exports)> {
        let mut store = podless_host::store(&self.engine, &self.surroundings);
        let exports = match &self.component {
            Component::P2(component) => Exports::P2(component.instantiate_async(&mut store).await?),
            Component::P3(component) => Exports::P3(component.instantiate_async(&mut store).await?),
        };
        Ok((store, exports))
    }
}

/// Where the answer goes.
type Answer = oneshot::Sender<wasmtime::Result<Response<WasiBody>>>;

/// A request for an instance.
struct Call {
    flight: Arc<Flight>,
    request: Request<WasiBody>,
    answer: Answer,
    /// Told when nobody reads the answer's body any more; dropped when that does not matter.
    read: Option<oneshot::Receiver<()>>,
}

/// Has the instances of one generation of a service answer, and makes them.
pub(crate) struct Instances {
    maker: Arc<Maker>,
    /// Those that take another call, when the policy has any.
    open: Option<Arc<Open>>,
}

/// There is no instance that could answer.
#[derive(Debug, thiserror::Error)]
#[error("the instance could not be made: {0:#}")]
pub(crate) struct NotMade(pub(crate) wasmtime::Error);

impl Instances {
    /// Instances from this mould, which are counted here.
    pub(crate) fn new(mould: Arc<Mould>, stats: Arc<Stats>, node: &Node, namespace: &str) -> Self {
        let open = mould.policy.reuses().then(|| {
            let open = Arc::new(Open::new(mould.policy.pool));
            node.open.add(mould.component.flavour(), &open);
            open
        });
        let payer = Payer { stats: stats.clone(), namespace: namespace.into(), exact: mould.count_cpu };
        let maker = Maker {
            mould,
            stats,
            live: node.live.clone(),
            all: node.open.clone(),
            background: node.background.clone(),
            payer: Arc::new(payer),
        };
        Self { maker: Arc::new(maker), open }
    }

    /// How many of the node's places a request takes.
    pub(crate) fn places(&self) -> u64 {
        self.maker.mould.places
    }

    /// Has an instance answer. It is at work for itself: dropping this ends only the wait.
    pub(crate) async fn handle(
        &self,
        flight: Arc<Flight>,
        request: Request<WasiBody>,
    ) -> wasmtime::Result<Response<WasiBody>> {
        let (answer, answered) = oneshot::channel();
        let shared = self.open.is_some() && matches!(self.maker.mould.component, Component::P3(_));
        let (reading, read) = shared.then(oneshot::channel).unzip();
        let call = Call { flight, request, answer, read };
        match &self.open {
            None => self.maker.begin(&Weak::new(), call),
            Some(open) => {
                if let Some(call) = open.give(call) {
                    self.maker.begin(&Arc::downgrade(open), call);
                }
            }
        }
        // Who had it ended without a word: how its flight ended says why.
        let response = answered.await.unwrap_or_else(|_| Err(format_err!("the component ended without an answer")))?;
        Ok(match reading {
            Some(reading) => response.map(|body| Watched::new(body, reading).boxed_unsync()),
            None => response,
        })
    }
}

/// Makes instances, and counts them.
struct Maker {
    mould: Arc<Mould>,
    /// The service's counters.
    stats: Arc<Stats>,
    /// Live instances of the node.
    live: Arc<Level>,
    /// Who else keeps instances.
    all: Arc<AllOpen>,
    /// Where they go on that compute for long.
    background: Arc<Background>,
    /// Whom their work is counted for.
    payer: Arc<Payer>,
}

impl Maker {
    /// Begins an instance with this as its first call.
    fn begin(self: &Arc<Self>, open: &Weak<Open>, call: Call) {
        let bill = Arc::new(Bill::new(self.payer.clone(), call.flight.deadline().into_std()));
        let work = self.clone().work(open.clone(), call, bill.clone());
        lanes::start(&self.background, bill, work);
    }

    /// Makes an instance and drives it until it has nothing more to do, its time is over, or nobody waits for it.
    async fn work(self: Arc<Self>, open: Weak<Open>, mut call: Call, bill: Arc<Bill>) {
        let live = Live::new(&self.stats, &self.live);
        let flight = call.flight.clone();
        if flight.is_given_up() {
            return;
        }
        let mut pauses = PAUSES.into_iter();
        let (store, exports) = loop {
            // The clock second: most instances are made before it would have to be set.
            let error = match select(pin!(self.make()), pin!(flight.over())).await {
                Either::Left((Ok(made), _)) => break made,
                Either::Left((Err(error), _)) => error,
                Either::Right(((), _)) => return,
            };
            let is_full = error.is::<PoolConcurrencyLimitError>();
            let Some(pause) = pauses.next().filter(|_| is_full) else {
                let _ = call.answer.send(Err(NotMade(error).into()));
                return;
            };
            // There is no slot. One of the service's own may have room by now; others that wait for calls
            // give way, when it is their turn to run.
            if let Some(open) = open.upgrade() {
                match open.give(call) {
                    Some(given_back) => call = given_back,
                    None => return,
                }
            }
            self.all.close(self.mould.component.flavour());
            sleep(pause).await;
        };
        drop(flight);
        let log = self.mould.surroundings.log.clone();
        let instance = AtWork { store, flights: Mutex::default(), log, ended: None, _live: live };
        let inbox = Inbox::new(self, open, bill);
        match exports {
            Exports::P2(proxy) => p2::serve(instance, proxy, call, inbox).await,
            Exports::P3(proxy) => Box::pin(p3::serve(instance, proxy, call, inbox)).await,
        }
    }

    async fn make(&self) -> wasmtime::Result<(Store<Guest>, Exports)> {
        let started = Instant::now();
        let made = self.mould.make().await?;
        self.stats.cold_starts.fetch_add(1, Relaxed);
        self.stats.instantiate.record(started.elapsed());
        Ok(made)
    }
}

/// One instance at work. However it ends, its calls end, and then its store.
struct AtWork {
    store: Store<Guest>,
    /// The calls that it has.
    flights: Mutex<Vec<Arc<Flight>>>,
    log: Arc<ServiceLog>,
    /// How it ended; `None`: the shim failed.
    ended: Option<wasmtime::Result<()>>,
    // Dropped after the store: only then is the instance's memory free.
    _live: Live,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        // Before the store is dropped, which ends the answers' bodies.
        for flight in self.flights.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let failure = match &self.ended {
                None => Some(Failure { refusal: Refusal::Trapped, why: "the shim failed".to_owned(), cuts: true }),
                Some(Ok(())) => None,
                Some(Err(error)) => Some(Failure {
                    refusal: Refusal::of_end(error),
                    why: error.root_cause().to_string(),
                    cuts: error.downcast_ref::<I32Exit>().is_none_or(|exit| exit.0 != 0),
                }),
            };
            if let Some(why) = flight.end(failure) {
                tell_cut(&self.log, why);
            }
        }
    }
}

/// Tells the service's log of an answer that was cut off: its client sees that, and not why.
pub(crate) fn tell_cut(log: &ServiceLog, why: &str) {
    let message = format!("the component was ended after its answer had begun: {why}");
    log.write(Message { level: Some("error"), ..Message::new(Stream::Shim, &message) });
}

/// Counts an instance as live for as long as it exists.
struct Live {
    service: Arc<Stats>,
    node: Arc<Level>,
}

impl Live {
    fn new(service: &Arc<Stats>, node: &Arc<Level>) -> Self {
        service.instances.up();
        node.up();
        Self { service: service.clone(), node: node.clone() }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.service.instances.down();
        self.node.down();
    }
}
