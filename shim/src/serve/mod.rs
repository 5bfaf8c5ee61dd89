//! The hot path, on all cores: a port's connections, their requests, an instance for each. A request reads one snapshot
//! of its route and waits for the control loop only where that has to load a parked service.

mod accept;
mod authority;
pub(crate) mod background;
mod bodiless;
mod body;
pub(crate) mod budget;
mod clock;
mod connection;
mod cpu;
pub(crate) mod epoch;
mod fair;
mod flight;
pub(crate) mod hosts;
pub(crate) mod in_flight;
pub(crate) mod instance;
pub(crate) mod lanes;
pub(crate) mod listen;
pub(crate) mod pace;
pub(crate) mod parked;
pub(crate) mod refusal;
mod request;
mod route;
pub(crate) mod service;
mod spread;
pub(crate) mod stats;
mod stream;

use std::{
    io,
    sync::{Arc, OnceLock},
};

use tokio::sync::{Semaphore, watch};

use self::{accept::Acceptor, background::Background, instance::AllOpen, stats::Level};
use podless_host::{memory::NodeMemory, outbound::NodeGate, turns::Turns};
pub(crate) use route::Route;

/// For each connection to another server, so many of clients.
const OUTBOUND_SHARE: usize = 8;

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
    pub(crate) instances: Arc<Turns>,
    /// What instances have of its memory.
    pub(crate) memory: Arc<NodeMemory>,
    /// Where instances go on that compute for long.
    pub(crate) background: Arc<Background>,
    /// Live instances.
    pub(crate) live: Arc<Level>,
    /// Those of them that take another request.
    pub(crate) open: Arc<AllOpen>,
    /// Connections that may be open at once.
    pub(crate) connections: Arc<Semaphore>,
    /// The way to other servers.
    pub(crate) outbound: Arc<NodeGate>,
    /// How far the shim's end has come.
    pub(crate) phase: watch::Sender<Phase>,
    /// Accepts for all ports, once there is one.
    acceptor: OnceLock<Arc<Acceptor>>,
    protocols: connection::Protocols,
}

impl Node {
    /// A node that serves.
    pub(crate) fn new(instances: usize, memory: u64, connections: usize) -> Self {
        Self {
            instances: Turns::new(instances),
            memory: NodeMemory::new(memory),
            background: Arc::new(Background::new()),
            live: Arc::default(),
            open: Arc::default(),
            connections: Arc::new(Semaphore::new(connections)),
            outbound: Arc::new(NodeGate::new((connections / OUTBOUND_SHARE).max(16))),
            phase: watch::Sender::new(Phase::Serving),
            acceptor: OnceLock::new(),
            protocols: connection::Protocols::new(),
        }
    }

    /// What accepts for all ports. Only one thread opens ports: the control loop's, inside the serving runtime.
    fn acceptor(&self) -> io::Result<Arc<Acceptor>> {
        match self.acceptor.get() {
            Some(acceptor) => Ok(acceptor.clone()),
            None => {
                let acceptor = Acceptor::start(self.connections.clone())?;
                Ok(self.acceptor.get_or_init(|| acceptor).clone())
            }
        }
    }
}
