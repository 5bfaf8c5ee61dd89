//! The hot path, on all cores: a port's connections, their requests, an instance for each. A request reads one snapshot
//! of its route and waits for the control loop only where that has to load a parked service.

mod body;
pub(crate) mod budget;
mod clock;
mod connection;
pub(crate) mod epoch;
mod flight;
pub(crate) mod in_flight;
pub(crate) mod instance;
pub(crate) mod listen;
pub(crate) mod parked;
mod refusal;
mod request;
pub(crate) mod service;
pub(crate) mod stats;
mod stream;

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use hyper_util::{rt::TokioExecutor, server::conn::auto};
use tokio::sync::{Semaphore, watch};

use self::{budget::Budget, service::Service, stats::Level};
use crate::host::outbound::NodeGate;

/// For each connection to another server, so many of clients.
const OUTBOUND_SHARE: usize = 8;

/// What a port answers with: the service that has it now.
pub(crate) struct Route(ArcSwapOption<Service>);

impl Route {
    /// A route to a service.
    pub(crate) fn new(service: Arc<Service>) -> Self {
        Self(ArcSwapOption::new(Some(service)))
    }

    /// Routes to another service or generation; requests in flight keep the one they have.
    pub(crate) fn swap(&self, service: Option<Arc<Service>>) {
        self.0.store(service);
    }

    fn load(&self) -> Option<Arc<Service>> {
        self.0.load_full()
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
