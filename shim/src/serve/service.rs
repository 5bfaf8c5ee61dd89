//! One generation of a service, ready to answer. Immutable: an update is a new one, and requests in flight keep theirs.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{budget::Budget, instance::Instances, parked::Parked, refusal::Refusal, stats::Stats};
use podless_host::{log::ServiceLog, turns::Way};

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
    pub(crate) identity: Arc<Identity>,
    /// How long a request may take, waiting included.
    pub(crate) timeout: Duration,
    /// Requests in flight; shared with other generations of the same service.
    pub(crate) budget: Arc<Budget>,
    /// Its namespace's way to the node's instances.
    pub(crate) instances: Arc<Way>,
    /// Its counters; shared likewise.
    pub(crate) stats: Arc<Stats>,
    /// Where it logs; shared likewise.
    pub(crate) log: Arc<ServiceLog>,
    /// Who answers.
    pub(crate) handler: Handler,
}

/// Makes instances and has them answer.
pub(crate) type Resident = Arc<Instances>;

/// Who answers a service's requests.
pub(crate) enum Handler {
    /// Nobody: the service is stopped.
    Stopped,
    /// Instances.
    Resident(Resident),
    /// Instances, once a request has had them loaded.
    Parked(Arc<Parked<Resident>>),
}

impl Handler {
    /// What has instances answer; what is parked is waited for until `deadline`.
    pub(crate) async fn resident(&self, deadline: Instant) -> Result<&Resident, Refusal> {
        match self {
            Self::Stopped => Err(Refusal::Stopped),
            Self::Resident(resident) => Ok(resident),
            Self::Parked(parked) => parked.get(deadline).await,
        }
    }
}
