//! A fresh instance for each request: the linked component in, a store with a live instance out, dropped after its one
//! request. `ProxyHandler` drives it for WASI 0.2 and 0.3 alike.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use tokio::time::timeout;
use wasmtime::{Engine, Store, StoreContextMut, component::GuestTaskId, error::Context as _};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::{
    WasiHttpView,
    handler::{HandlerState, Instance, Proxy, ProxyPre, ShouldAccept, WorkerState},
};

use super::{
    flight::{Expiration, Flight},
    stats::{Level, Stats},
};
use crate::host::{
    self, Guest, Surroundings,
    log::{Message, ServiceLog, Stream},
};

/// What instances of one generation of a service are made from.
pub(crate) struct Mould {
    /// The engine.
    pub(crate) engine: Engine,
    /// The component with its imports resolved.
    pub(crate) component: ProxyPre<Guest>,
    /// What it finds around it.
    pub(crate) surroundings: Surroundings,
    /// How long making an instance may take: a component's start function is guest code too.
    pub(crate) timeout: Duration,
}

/// Making the instance took longer than it may.
#[derive(Debug, thiserror::Error)]
#[error("starting the component took longer than a request may")]
pub(crate) struct StartTimeout;

impl Mould {
    /// Makes an instance; no request has reached it.
    pub(crate) async fn make(&self) -> wasmtime::Result<(Store<Guest>, Proxy)> {
        let mut store = host::store(&self.engine, &self.surroundings);
        let proxy =
            timeout(self.timeout, self.component.instantiate_async(&mut store)).await.context(StartTimeout)??;
        Ok((store, proxy))
    }
}

/// Makes an instance for each request, and counts it.
pub(crate) struct Instances {
    /// What they are made from.
    pub(crate) mould: Arc<Mould>,
    /// The service's counters.
    pub(crate) stats: Arc<Stats>,
    /// Live instances of the node.
    pub(crate) live: Arc<Level>,
}

impl HandlerState for Instances {
    type StoreData = Guest;
    type WorkerExpiration = Expiration;
    type WorkerState = Worker;

    async fn instantiate(&self) -> wasmtime::Result<Instance<Guest, Expiration, Worker>> {
        let started = Instant::now();
        self.stats.cold_starts.fetch_add(1, Relaxed);
        let live = Live::new(&self.stats, &self.live);
        let (store, proxy) = self.mould.make().await?;
        self.stats.instantiate.record(started.elapsed());
        let flight = Arc::new(OnceLock::new());
        let log = self.mould.surroundings.log.clone();
        Ok(Instance {
            store,
            proxy,
            view: Guest::http,
            expiration: Expiration::new(flight.clone()),
            state: Worker { flight, log, _live: live },
        })
    }
}

/// One instance at work.
pub(crate) struct Worker {
    flight: Arc<OnceLock<Arc<Flight>>>,
    log: Arc<ServiceLog>,
    // Dropped with the worker, after its store: only then is the instance's memory free.
    _live: Live,
}

impl WorkerState for Worker {
    type StoreData = Guest;
    type RequestData = Arc<Flight>;

    fn should_accept_request(&self, _: usize, _: usize) -> ShouldAccept {
        // The request that it was made for is handed over directly; there is never a second one.
        ShouldAccept::Never
    }

    fn on_request_start(
        &self,
        _: StoreContextMut<'_, Guest>,
        flight: Arc<Flight>,
        _: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + 'static + Send + Sync>> {
        let _ = self.flight.set(flight);
        // `Expiration` ends the instance; a second clock inside the guest's event loop would add nothing.
        Box::pin(std::future::pending())
    }

    fn drop(&self, store: Store<Guest>, result: Result<(), wasmtime::Error>) {
        if let Some(flight) = self.flight.get() {
            let done = |error: &wasmtime::Error| error.downcast_ref::<I32Exit>().is_some_and(|exit| exit.0 == 0);
            let failure = result.err().filter(|error| !(flight.is_answered() && done(error)));
            let failure = failure.map(|error| error.root_cause().to_string());
            // Before its answer, who waits for that tells of it.
            if let Some(failure) = failure.as_ref().filter(|_| flight.is_answered()) {
                let message = format!("the component was ended after its answer had begun: {failure}");
                self.log.write(Message { level: Some("error"), ..Message::new(Stream::Shim, &message) });
            }
            flight.end(failure);
        }
        // Only now: dropping the store ends the answer's body.
        drop(store);
    }
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
