//! One generation of a service, from its order to something that can answer: fetch, verify, map, link, start once. IO.
//! Everything here happens beside what serves; the route is swapped when it is done. Of what is to be parked the same is
//! done when it is new, and nothing is kept but the file.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use podless_artifact::seal::HttpWorld;
use podless_engine::Flavour;
use podless_host::{
    Granted, Surroundings,
    memory::NoMemory,
    outbound::{NodeGate, Outbound, ServiceGate},
};
use tokio::{runtime::Handle, time::timeout};
use wasmtime::{PoolConcurrencyLimitError, error::Context as _};
use wasmtime_wasi_http::{handler::ProxyPre, p2, p3};

use super::{
    fetch::{FetchError, fetch, fetch_note},
    link::Client,
    load::{Code, Loaded},
    store::{Store, StoreError, Verified},
    verify::Order,
};
use crate::{
    engine::Engines,
    serve::instance::{Component, Mould, policy::Policy},
};

/// Longest time that a component may take to start when it is tried.
const START: Duration = Duration::from_secs(10);

/// What preparing takes from.
#[derive(Clone)]
pub(crate) struct Workshop {
    /// The engines, and what may be linked.
    pub(crate) engines: Arc<Engines>,
    /// Artifacts on disk.
    pub(crate) store: Store,
    /// Artifacts in memory.
    pub(crate) loaded: Loaded,
    /// The runtime that serves: guest code runs nowhere else.
    pub(crate) serve: Handle,
    /// The way to other servers.
    pub(crate) outbound: Arc<NodeGate>,
}

/// What is ready.
pub(crate) enum Prepared {
    /// Nothing is needed: the service is stopped.
    Stopped,
    /// The artifact is on disk.
    Parked,
    /// A request has had it loaded before its turn came.
    Woken,
    /// Code that can be served.
    Resident(Linked),
}

/// What is ready to be served.
pub(crate) struct Linked {
    /// What instances are made from.
    pub(crate) mould: Arc<Mould>,
    /// Its code.
    pub(crate) code: Arc<Code>,
    /// Receiving and verifying; `None` when it was mapped already.
    pub(crate) fetch: Option<Duration>,
    /// Mapping; `None` likewise.
    pub(crate) load: Option<Duration>,
    /// Resolving the imports.
    pub(crate) link: Duration,
}

/// Why it is not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    /// The artifact did not come.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Wasmtime refused the code.
    #[error("the machine code cannot be loaded: {0}")]
    Load(String),
    /// An import is missing, or an export.
    #[error("the component cannot be linked: {0}")]
    Link(String),
    /// It has no instance within its limits.
    #[error("the component cannot be started within its limits, spec.instance.memory among them: {0}")]
    Start(String),
    /// The work was cut off.
    #[error("loading was cut off: {0}")]
    Cut(#[from] tokio::task::JoinError),
}

impl PrepareError {
    /// A stable name, and whether it may pass by itself.
    pub(crate) fn reason(&self) -> (&'static str, bool) {
        match self {
            Self::Fetch(FetchError::Store(StoreError::Hash | StoreError::Size(_))) => ("artifact-mismatch", true),
            Self::Fetch(FetchError::Store(_)) => ("storage-failed", true),
            Self::Fetch(_) => ("fetch-failed", true),
            Self::Load(_) => ("load-failed", false),
            Self::Link(_) => ("link-failed", false),
            Self::Start(_) => ("start-failed", false),
            Self::Cut(_) => ("load-failed", true),
        }
    }
}

/// Prepares what an order asks for. What is to be parked and has `started` before is not tried again; its artifact is
/// looked at when it is loaded.
pub(crate) async fn prepare(
    shop: Workshop,
    order: Arc<Order>,
    client: Option<Client>,
    gate: Arc<ServiceGate>,
    started: bool,
) -> Result<Prepared, PrepareError> {
    if order.budget == 0 {
        return Ok(Prepared::Stopped);
    }
    if order.parked && started && lies_here(&shop, &order).await? {
        renew_note(&shop, order, client);
        return Ok(Prepared::Parked);
    }
    let linked = linked(&shop, &order, client.clone(), gate).await?;
    renew_note(&shop, order.clone(), client);
    try_start(&shop, linked.mould.clone(), order.timeout.min(START)).await?;
    Ok(if order.parked { Prepared::Parked } else { Prepared::Resident(linked) })
}

/// Nothing here depends on it, and nothing waits for it.
fn renew_note(shop: &Workshop, order: Arc<Order>, client: Option<Client>) {
    let store = shop.store.clone();
    tokio::spawn(async move {
        if let Err(error) = fetch_note(client, &store, &order).await {
            tracing::debug!(%error, "the note of an artifact was not renewed");
        }
    });
}

async fn lies_here(shop: &Workshop, order: &Arc<Order>) -> Result<bool, PrepareError> {
    let (store, order) = (shop.store.clone(), order.clone());
    Ok(tokio::task::spawn_blocking(move || store.lies_here(&order.seal)).await?)
}

/// Makes one instance and drops it: what cannot start must not take the place of what serves, nor be called ready.
async fn try_start(shop: &Workshop, mould: Arc<Mould>, limit: Duration) -> Result<(), PrepareError> {
    let started = shop.serve.spawn(async move {
        let made = timeout(limit, mould.make()).await.context("starting the component took longer than a request may");
        made.and_then(|made| made.map(drop))
    });
    match started.await? {
        // A full node says nothing about the component.
        Err(error) if !error.is::<PoolConcurrencyLimitError>() && !error.is::<NoMemory>() => {
            Err(PrepareError::Start(format!("{error:#}")))
        }
        _ => Ok(()),
    }
}

/// Maps and links the code of an order, which is fetched when it is not on disk. Reading, mapping and linking wait for the
/// disk, or compute: on threads that give way to those that serve.
pub(crate) async fn linked(
    shop: &Workshop,
    order: &Arc<Order>,
    client: Option<Client>,
    gate: Arc<ServiceGate>,
) -> Result<Linked, PrepareError> {
    let here = {
        let (shop, order, gate) = (shop.clone(), order.clone(), gate.clone());
        tokio::task::spawn_blocking(move || from_disk(&shop, &order, gate))
    };
    if let Some(linked) = here.await?? {
        return Ok(linked);
    }
    let started = Instant::now();
    let verified = fetch(client, &shop.store, &order.seal).await?;
    let fetched = started.elapsed();
    let (shop, order) = (shop.clone(), order.clone());
    tokio::task::spawn_blocking(move || map(&shop, &order, gate, &verified, fetched)).await?
}

fn from_disk(shop: &Workshop, order: &Order, gate: Arc<ServiceGate>) -> Result<Option<Linked>, PrepareError> {
    if let Some(code) = shop.loaded.get(&order.seal.code_sha256) {
        return link(shop, order, gate, code, [None, None]).map(Some);
    }
    let started = Instant::now();
    let Some(verified) = shop.store.find(&order.seal) else { return Ok(None) };
    map(shop, order, gate, &verified, started.elapsed()).map(Some)
}

fn map(
    shop: &Workshop,
    order: &Order,
    gate: Arc<ServiceGate>,
    verified: &Verified,
    fetched: Duration,
) -> Result<Linked, PrepareError> {
    let started = Instant::now();
    let engine = &shop.engines.of(order.seal.flavour).engine;
    let code = shop.loaded.load(engine, &order.seal.code_sha256, verified);
    let code = code.map_err(|error| PrepareError::Load(format!("{error:#}")))?;
    link(shop, order, gate, code, [Some(fetched), Some(started.elapsed())])
}

/// How many of the pool's instances' parts an instance takes: it has a memory and four tables for each.
fn parts(component: &wasmtime::component::Component) -> u64 {
    let parts = component.resources_required();
    parts.map_or(1, |parts| u64::from(parts.num_memories.max(parts.num_tables.div_ceil(4)).max(1)))
}

/// How many of the node's places a request takes whose instance has so many parts of a pool with so many places for
/// each: its part of them, when it has them together with others. So a namespace's share of the places is its share of
/// a small pool too.
fn places(parts: u64, each: u64, policy: &Policy) -> u64 {
    let together = if policy.reuses() { policy.concurrency.min(policy.invocations) } else { 1 };
    (parts * each / u64::from(together)).max(parts)
}

fn link(
    shop: &Workshop,
    order: &Order,
    gate: Arc<ServiceGate>,
    code: Arc<Code>,
    [fetch, load]: [Option<Duration>; 2],
) -> Result<Linked, PrepareError> {
    let started = Instant::now();
    let runner = shop.engines.of(order.seal.flavour);
    let component = runner
        .linkers
        .granted(Granted { logging: order.logging, outbound: order.outbound.is_some() })
        .instantiate_pre(&code.component)
        .and_then(|component| {
            Ok(match (order.seal.flavour, order.seal.http) {
                (Flavour::P2, _) => Component::P2(p2::bindings::ProxyPre::new(component)?),
                (Flavour::P3, HttpWorld::P2) => Component::P3(ProxyPre::P2(p2::bindings::ProxyPre::new(component)?)),
                (Flavour::P3, HttpWorld::P3) => Component::P3(ProxyPre::P3(p3::bindings::ServicePre::new(component)?)),
            })
        })
        .map_err(|error| PrepareError::Link(format!("{error:#}")))?;
    let link = started.elapsed();
    let (log, memory) = (gate.log.clone(), gate.memory.clone());
    let outbound = order
        .outbound
        .clone()
        .map(|grant| Arc::new(Outbound { grant, limit: order.timeout, service: gate, node: shop.outbound.clone() }));
    let policy = Policy::new(order.asked, order.seal.http);
    let mould = Arc::new(Mould {
        engine: runner.engine.clone(),
        component,
        surroundings: Surroundings { env: order.env.clone(), instance_memory: order.memory, memory, log, outbound },
        places: places(parts(&code.component), runner.places, &policy),
        policy,
        count_cpu: order.count_cpu,
    });
    Ok(Linked { mould, code, fetch, load, link })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::instance::policy::Asked;

    #[test]
    fn a_request_takes_its_part_of_a_slot_in_places() {
        let asked = |invocations, concurrency| Asked { invocations, concurrency, ..Asked::default() };
        let fresh = Policy::new(Asked::default(), HttpWorld::P2);
        assert_eq!((places(1, 1, &fresh), places(1, 4, &fresh), places(3, 4, &fresh)), (1, 4, 12));
        for (asked, taken) in [
            (asked(None, None), 1),
            (asked(None, Some(1)), 4),
            (asked(None, Some(2)), 2),
            (asked(Some(2), None), 2),
            (asked(Some(1), None), 4),
        ] {
            assert_eq!(places(1, 4, &Policy::new(asked, HttpWorld::P3)), taken, "{asked:?}");
        }
        let usual = Policy::new(Asked::default(), HttpWorld::P3);
        assert_eq!(places(3, 4, &usual), 3, "never less than its parts");
    }
}
