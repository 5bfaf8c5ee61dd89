//! What the control loop tells the pages of the admin port: written there, read there, never on the hot path.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64},
    },
};

use crate::serve::{service::Identity, stats::Stats};

/// Who the services are, by uid, and what is counted of each.
type Services = BTreeMap<String, (Arc<Identity>, Arc<Stats>)>;

/// What is known of the shim as a whole.
#[derive(Default)]
pub(crate) struct Shared {
    /// What was known is loaded, or what the operator assigned is: latched.
    pub(crate) ready: AtomicBool,
    /// The shim is going away.
    pub(crate) draining: AtomicBool,
    /// A session with the operator is open.
    pub(crate) linked: AtomicBool,
    /// Resident bytes of the process, and what of it belongs to no service, when it was measured last.
    pub(crate) resident: AtomicU64,
    /// What of it belongs to no service.
    pub(crate) unattributed: AtomicU64,
    /// Services whose assignment could not be kept for a restart.
    pub(crate) unkept: AtomicU64,
    /// Services whose code is mapped.
    pub(crate) resident_services: AtomicU64,
    /// Services that their first request loads.
    pub(crate) parked_services: AtomicU64,
    /// Services that were parked because there was no room for more code.
    pub(crate) evictions: AtomicU64,
    services: Mutex<Services>,
}

impl Shared {
    /// The services that are known, by uid.
    pub(crate) fn services(&self) -> MutexGuard<'_, Services> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
