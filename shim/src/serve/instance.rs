//! A fresh instance for each request: the linked component and a request in, the answer out of a live instance that is
//! dropped after its one request. `Prepared` calls it for WASI 0.2 and 0.3 alike.

use std::{
    future::{pending, poll_fn},
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use futures::{
    channel::oneshot,
    future::{Either, select},
};
use http::{Request, Response};
use wasmtime::{AsContextMut as _, Engine, Store, component::Accessor, format_err};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::{
    WasiBody, WasiHttpView,
    handler::{Prepared, Proxy, ProxyPre, TrapOrPanicError},
};

use super::{
    cpu::counted,
    flight::{Failure, Flight},
    stats::{Level, Stats},
};
use podless_host::{
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
    /// The CPU time that they take is counted.
    pub(crate) count_cpu: bool,
}

/// Where the answer goes.
type Answer = oneshot::Sender<wasmtime::Result<Response<WasiBody>>>;

impl Mould {
    /// Makes an instance; no request has reached it. A component's start function is guest code: it may take for ever.
    pub(crate) async fn make(&self) -> wasmtime::Result<(Store<Guest>, Proxy)> {
        let mut store = podless_host::store(&self.engine, &self.surroundings);
        let proxy = self.component.instantiate_async(&mut store).await?;
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

/// There is no instance that could answer.
#[derive(Debug, thiserror::Error)]
#[error("the instance could not be made: {0:#}")]
pub(crate) struct NotMade(pub(crate) wasmtime::Error);

impl Instances {
    /// Has a fresh instance answer. It is at work for itself: dropping this ends only the wait.
    pub(crate) async fn handle(
        self: &Arc<Self>,
        flight: Arc<Flight>,
        request: Request<WasiBody>,
    ) -> wasmtime::Result<Response<WasiBody>> {
        let (answer, answered) = oneshot::channel();
        let work = self.clone().work(flight, request, answer);
        if self.mould.count_cpu {
            let stats = self.stats.clone();
            tokio::spawn(counted(work, move |time| stats.in_flight.took(time)));
        } else {
            tokio::spawn(work);
        }
        answered.await.unwrap_or_else(|_| Err(TrapOrPanicError.into()))
    }

    /// Makes an instance and drives it until it has nothing more to do, its time is over, or nobody waits for it.
    async fn work(self: Arc<Self>, flight: Arc<Flight>, request: Request<WasiBody>, answer: Answer) {
        let live = Live::new(&self.stats, &self.live);
        // The flight first: what is over already is not begun.
        let (store, proxy) = match select(pin!(flight.over()), pin!(self.make())).await {
            Either::Left(((), _)) => return,
            Either::Right((Ok(made), _)) => made,
            Either::Right((Err(error), _)) => {
                let _ = answer.send(Err(NotMade(error).into()));
                return;
            }
        };
        let log = self.mould.surroundings.log.clone();
        let cut_off = Err(format_err!("the shim failed"));
        let mut instance = AtWork { store, flight: flight.clone(), log, ended: cut_off, _live: live };
        let ended = {
            let work = pin!(instance.store.run_concurrent(async |accessor: &Accessor<_>| {
                let call = accessor
                    .with(|mut store| Prepared::new(store.as_context_mut(), &proxy, request, Guest::http, answer))?;
                // The flight ends it; a second clock inside the guest's event loop would add nothing.
                call.run(accessor, pending()).await?;
                // What it does after its answer.
                poll_fn(|context| accessor.poll_no_interesting_tasks(context)).await;
                wasmtime::error::Ok(())
            }));
            // Beside the guest's event loop: a guest that never comes back from a loop is ended at its next epoch tick.
            match select(work, pin!(flight.over())).await {
                Either::Left((ended, _)) => ended.flatten(),
                Either::Right(((), _)) => Err(format_err!("guest timed out")),
            }
        };
        instance.ended = ended;
    }

    async fn make(&self) -> wasmtime::Result<(Store<Guest>, Proxy)> {
        let started = Instant::now();
        self.stats.cold_starts.fetch_add(1, Relaxed);
        let made = self.mould.make().await?;
        self.stats.instantiate.record(started.elapsed());
        Ok(made)
    }
}

/// One instance at work. However it ends, its flight ends, and then its store.
struct AtWork {
    store: Store<Guest>,
    flight: Arc<Flight>,
    log: Arc<ServiceLog>,
    /// How it ended.
    ended: wasmtime::Result<()>,
    // Dropped after the store: only then is the instance's memory free.
    _live: Live,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        let failure = self.ended.as_ref().err().map(|error| Failure {
            why: error.root_cause().to_string(),
            cuts: error.downcast_ref::<I32Exit>().is_none_or(|exit| exit.0 != 0),
        });
        // Before the store is dropped, which ends the answer's body.
        if let Some(why) = self.flight.end(failure) {
            tell_cut(&self.log, why);
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
