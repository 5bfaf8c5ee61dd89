//! The hot path, on all cores: a port's connections, their requests, an instance for each. A request reads one snapshot
//! of its route and waits for the control loop only where that has to load a parked service.

mod body;
pub(crate) mod budget;
mod clock;
mod connection;
mod cpu;
pub(crate) mod epoch;
mod flight;
pub(crate) mod in_flight;
pub(crate) mod instance;
pub(crate) mod listen;
pub(crate) mod pace;
pub(crate) mod parked;
mod refusal;
mod request;
pub(crate) mod service;
mod spread;
pub(crate) mod stats;
mod stream;

use std::{sync::Arc, time::Instant};

use arc_swap::ArcSwapOption;
use hyper_util::{rt::TokioExecutor, server::conn::auto};
use tokio::sync::{Semaphore, watch};

use self::{budget::Budget, service::Service, spread::Spread, stats::Level};
use podless_host::outbound::NodeGate;

/// For each connection to another server, so many of clients.
const OUTBOUND_SHARE: usize = 8;

/// What a port answers with: the service that has it now. And which of its connections are to come again.
pub(crate) struct Route {
    service: ArcSwapOption<Service>,
    spread: watch::Sender<Option<Spread>>,
}

impl Route {
    /// A route to a service.
    pub(crate) fn new(service: Arc<Service>) -> Self {
        Self { service: ArcSwapOption::new(Some(service)), spread: watch::Sender::new(None) }
    }

    /// Routes to another service or generation; requests in flight keep the one they have.
    pub(crate) fn swap(&self, service: Option<Arc<Service>>) {
        self.service.store(service);
    }

    /// More shims than before get connections of this port: a share of those that are open is asked to come again. The
    /// draw is random.
    pub(crate) fn spread(&self, before: u32, after: u32, now: Instant, draw: u64) {
        self.spread.send_modify(|spread| *spread = Some(Spread::after(*spread, before, after, now, draw)));
    }

    fn load(&self) -> Option<Arc<Service>> {
        self.service.load_full()
    }
}

/// How far the shim's end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It serves.
    Serving,
    /// It serves on while the cluster learns that it goes; clients are asked to come again elsewhere.
    Lingering,
    /// It takes nothing new.
    Closing,
}

/// What all services of the shim share.
pub(crate) struct Node {
    /// Instances that may be live at once.
    pub(crate) instances: Arc<Budget>,
    /// Live instances.
    pub(crate) live: Arc<Level>,
    /// Connections that may be open at once.
    pub(crate) connections: Arc<Semaphore>,
    /// The way to other servers.
    pub(crate) outbound: Arc<NodeGate>,
    /// How far the shim's end has come.
    pub(crate) phase: watch::Sender<Phase>,
    protocol: auto::Builder<TokioExecutor>,
}

impl Node {
    /// A node that serves.
    pub(crate) fn new(instances: usize, connections: usize) -> Self {
        Self {
            instances: Budget::new(instances),
            live: Arc::default(),
            connections: Arc::new(Semaphore::new(connections)),
            outbound: Arc::new(NodeGate::new((connections / OUTBOUND_SHARE).max(16))),
            phase: watch::Sender::new(Phase::Serving),
            protocol: connection::protocol(),
        }
    }
}
