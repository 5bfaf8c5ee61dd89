//! One generation of a service, ready to answer. Immutable: an update is a new one, and requests in flight keep theirs.

use std::{sync::Arc, time::Duration};

use wasmtime_wasi_http::handler::ProxyHandler;

use super::{budget::Budget, instance::Instances, stats::Stats};
use crate::host::log::ServiceLog;

/// Who a service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Uid of its WasmService.
    pub(crate) uid: String,
    /// Namespace.
    pub(crate) namespace: String,
    /// Name.
    pub(crate) name: String,
}

/// One generation of a service.
pub(crate) struct Service {
    /// Who it is.
    pub(crate) identity: Identity,
    /// How long a request may take, waiting included.
    pub(crate) timeout: Duration,
    /// Requests in flight; shared with other generations of the same service.
    pub(crate) budget: Arc<Budget>,
    /// Its counters; shared likewise.
    pub(crate) stats: Arc<Stats>,
    /// Where it logs; shared likewise.
    pub(crate) log: Arc<ServiceLog>,
    /// Makes instances and has them answer; none while the service is stopped.
    pub(crate) handler: Option<ProxyHandler<Instances>>,
}
