//! One generation of a service, ready to answer. Immutable: an update is a new one, and requests in flight keep theirs.

use std::{sync::Arc, time::Duration};

use wasmtime_wasi_http::handler::ProxyHandler;

use super::{budget::Budget, instance::Instances, stats::Stats};
use crate::host::log::ServiceLog;

/// Who a service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Uid of its WasmService.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// One generation of a service.
pub struct Service {
    /// Who it is.
    pub identity: Identity,
    /// How long a request may take, waiting included.
    pub timeout: Duration,
    /// Requests in flight; shared with other generations of the same service.
    pub budget: Arc<Budget>,
    /// Its counters; shared likewise.
    pub stats: Arc<Stats>,
    /// Where it logs; shared likewise.
    pub log: Arc<ServiceLog>,
    /// Makes instances and has them answer.
    pub handler: ProxyHandler<Instances>,
}
