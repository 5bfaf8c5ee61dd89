//! Decides again when a service or a policy changes. In: the services there are, the policies; out: the store that
//! reconciles ask, and a reconcile of each service of which something else was decided. No IO of its own: it follows what
//! others watch.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kube::ResourceExt;
use podless_crds::WasmService;

use super::{
    HostWriter,
    claims::{Claimant, Claims, decide},
};
use crate::{link::Hub, policy::PolicyStore, reconcile::service_ref};

/// What changes within this is decided once.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Deciding may take this share of the time at most, one part in: for 100,000 services it takes a quarter of a second.
const DECIDING: u32 = 10;

/// Keeps the store for as long as this replica leads.
pub struct Follow {
    /// The services, and how they are woken.
    pub hub: Arc<Hub>,
    /// What hosts namespaces may have.
    pub policies: PolicyStore,
    /// The store.
    pub writer: HostWriter,
}

impl Follow {
    /// Ends only when the watches do.
    pub async fn run(self) {
        let mut policies = self.policies.clone();
        if self.hub.wait_until_ready().await.is_err() || policies.wait_until_ready().await.is_err() {
            return;
        }
        loop {
            let began = Instant::now();
            self.publish();
            let rest = DEBOUNCE.max(began.elapsed() * (DECIDING - 1));
            tokio::select! {
                () = self.writer.heard.notified() => {}
                changed = policies.changed() => if changed.is_err() {
                    return;
                },
            }
            tokio::time::sleep(rest).await;
        }
    }

    fn publish(&self) {
        let services = self.hub.services();
        let new = decide(services.iter().filter_map(|service| self.claimant(service)).collect());
        let old = self.writer.claims.send_replace(new.clone());
        let decided = |claims: &Claims, uid: &str| claims.get(uid).cloned();
        for service in &services {
            if let Some(id) = service_ref(service)
                && decided(&old, &id.uid) != decided(&new, &id.uid)
            {
                self.hub.wake.one(&id);
            }
        }
    }

    /// `None`: it asks for none, or it is not known yet what its namespace may have.
    fn claimant<'a>(&self, service: &'a WasmService) -> Option<Claimant<'a>> {
        let meta = &service.metadata;
        if service.spec.hosts.is_empty() {
            return None;
        }
        let (uid, namespace) = (meta.uid.as_deref()?, meta.namespace.as_deref()?);
        let mut beyond = self.policies.beyond_hosts(namespace, &service.spec.hosts)?;
        // What it was given before that was forbidden goes on.
        let has = service.status.as_ref().map(|status| status.hosts.as_slice()).unwrap_or_default();
        beyond.retain(|host, _| !has.iter().any(|has| has == host));
        Some(Claimant {
            uid,
            namespace,
            name: meta.name.as_deref()?,
            created_at: created_at(service),
            hosts: &service.spec.hosts,
            beyond,
        })
    }
}

/// When it was made, in seconds since 1970.
pub(crate) fn created_at(service: &WasmService) -> i64 {
    service.creation_timestamp().map_or(0, |time| time.0.as_second())
}
