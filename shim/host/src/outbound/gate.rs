//! What stands before the way out: what a service is granted, and what services and nodes share there. No IO but the log.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use ipnet::IpNet;
use podless_link::v1::OutboundHttp;
use tokio::sync::Semaphore;
use wasmtime_wasi_http::Error;

use super::{
    allow::{AllowedHosts, Target},
    place::{Places, node_lookups},
    tls::Tls,
};
use crate::{
    bucket::Bucket,
    log::{Message, ServiceLog, Stream},
    memory::ServiceMemory,
    turns::Turns,
};

/// What a service is granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Servers.
    pub(super) hosts: AllowedHosts,
    /// Internal ranges.
    pub(super) ranges: Vec<IpNet>,
}

impl Grant {
    /// Reads what the operator says; a sentence when it makes no sense.
    pub fn parse(grant: &OutboundHttp) -> Result<Self, String> {
        let hosts = AllowedHosts::parse(&grant.allowed_hosts).map_err(|error| format!("allowedHosts: {error}"))?;
        let range =
            |text: &String| text.parse().map_err(|error| format!("allowedCidrs: {text:?} is no range: {error}"));
        let ranges = grant.allowed_cidrs.iter().map(range).collect::<Result<_, String>>()?;
        Ok(Self { hosts, ranges })
    }
}

/// What all services of a node share on the way out.
pub struct NodeGate {
    /// Connections at once, shared by namespaces.
    connections: Arc<Turns>,
    /// Look-ups at once.
    lookups: Arc<Semaphore>,
    /// TLS.
    pub(super) tls: Tls,
}

impl NodeGate {
    /// A gate for so many connections at once.
    pub fn new(connections: usize) -> Self {
        Self { connections: Turns::new(connections), lookups: node_lookups(), tls: Tls::default() }
    }
}

/// Requests of one service to other servers, by how they went.
#[derive(Default)]
pub struct Counts {
    /// Somebody answered.
    pub answered: AtomicU64,
    /// The service may not send them.
    pub denied: AtomicU64,
    /// Nobody answered.
    pub failed: AtomicU64,
}

/// What the generations of one service share.
pub struct ServiceGate {
    /// Where the service logs.
    pub log: Arc<ServiceLog>,
    /// The linear memory of its instances.
    pub memory: Arc<ServiceMemory>,
    counts: Arc<Counts>,
    /// Requests and look-ups at once.
    pub(super) places: Places,
    /// One line a second says what was denied.
    lines: Mutex<Bucket>,
}

impl ServiceGate {
    /// A service of a namespace that logs and counts here.
    pub fn new(
        node: &NodeGate,
        namespace: &str,
        log: Arc<ServiceLog>,
        memory: Arc<ServiceMemory>,
        counts: Arc<Counts>,
    ) -> Self {
        let lines = Mutex::new(Bucket::new(1, 1, std::time::Instant::now()));
        let places = Places::new(node.connections.of(namespace), node.lookups.clone());
        Self { log, memory, counts, places, lines }
    }

    /// Says, at most once a second, that a request was denied.
    pub(super) fn deny(&self, target: &Target, why: &str, error: Error) -> Error {
        let line = self.lines.lock().unwrap_or_else(PoisonError::into_inner).take(1, std::time::Instant::now());
        if line {
            let text = format!("a request to {target} was denied: {why}");
            self.log.write(Message { level: Some("warn"), ..Message::new(Stream::Shim, &text) });
        }
        error
    }

    /// Counts how a request went.
    pub(super) fn count<T>(&self, result: &Result<T, Error>) {
        let count = match result {
            Ok(_) => &self.counts.answered,
            Err(Error::HttpRequestDenied | Error::DestinationIpProhibited) => &self.counts.denied,
            Err(_) => &self.counts.failed,
        };
        count.fetch_add(1, Relaxed);
    }
}
