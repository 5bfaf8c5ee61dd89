//! What the control loop tells the pages of the admin port: written there, read there, never on the hot path.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64},
    },
};

use crate::serve::{service::Identity, stats::Stats};

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
    services: Mutex<BTreeMap<String, (Identity, Arc<Stats>)>>,
}

impl Shared {
    /// The services that are known, by uid.
    pub(crate) fn services(&self) -> MutexGuard<'_, BTreeMap<String, (Identity, Arc<Stats>)>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
