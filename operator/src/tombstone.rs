//! When shims may let a service go. In: services that shims or this leader know and that the watch does not show any
//! more; out: those that are gone for certain. `Doubts` is pure; the rest asks the API server.
//!
//! Fail static: what is not certainly gone stays. The watch must have lost the service, a live request must confirm it,
//! and when much is missing at once (a restored or emptied API server looks like that), a second one half a minute later.
//! And what is there again was not gone for good.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use kube::{Api, Client, ResourceExt, api::ListParams};
use podless_crds::WasmService;

use crate::{
    build::Builds,
    ledger::Ledger,
    link::Hub,
    namespaces::{Namespaces, is_gone, is_refused},
    reconcile::failures::Failures,
    said,
    wake::ServiceRef,
};

/// How often to look.
const LOOK: Duration = Duration::from_secs(2);
/// How long a mass absence must last.
const CONFIRM: Duration = Duration::from_secs(30);
/// Fewer than this are never a mass.
const MASS: usize = 5;
/// Services in one page of a list.
const PAGE: u32 = 500;

/// Services that are missing, and since when.
#[derive(Debug, Default)]
pub struct Doubts(HashMap<String, Instant>);

impl Doubts {
    /// Of `known` services, these were just confirmed to be absent: which of them are gone for certain?
    pub fn resolve(&mut self, known: usize, absent: &HashSet<String>, now: Instant) -> Vec<String> {
        self.0.retain(|uid, _| absent.contains(uid));
        for uid in absent {
            self.0.entry(uid.clone()).or_insert(now);
        }
        let mass = absent.len() >= MASS && absent.len() * 5 > known;
        let certain: Vec<_> = self
            .0
            .iter()
            .filter(|(_, since)| !mass || now.duration_since(**since) >= CONFIRM)
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in &certain {
            self.0.remove(uid);
        }
        certain
    }
}

/// Looks for services that are gone, for as long as this replica leads.
pub async fn watch(
    client: Client,
    namespaces: &Namespaces,
    hub: Arc<Hub>,
    builds: Arc<Builds>,
    ledger: Arc<Mutex<Ledger>>,
    failures: Arc<Failures>,
) -> std::convert::Infallible {
    let ledger = || ledger.lock().unwrap_or_else(PoisonError::into_inner);
    let mut doubts = Doubts::default();
    let mut told = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let mut known = hub.sessions().all_known();
        known.extend(ledger().services().cloned());
        let present = hub.service_uids();
        failures.retain(&present);
        hub.autoscale.retain(&known);
        hub.sessions().forget_buried(Instant::now());
        if hub.sessions().exhume(&present) {
            tracing::warn!("services that were gone are there again: the API server was restored");
            hub.wake.all();
        }
        let missing: HashSet<_> = known.difference(&present).cloned().collect();
        let absent = match confirm(&client, namespaces, &hub, missing).await {
            Ok(absent) => absent,
            Err(error) => {
                let error = said::api(&error);
                if told.as_ref() != Some(&error) {
                    tracing::warn!(error, "whether services are gone cannot be confirmed for now: they stay");
                    told = Some(error);
                }
                continue;
            }
        };
        let certain = doubts.resolve(known.len(), &absent, Instant::now());
        if certain.len() < absent.len() {
            tracing::warn!(absent = absent.len(), known = known.len(), "many services are gone at once: looking again");
        }
        for uid in certain {
            tracing::info!(uid, "a service is gone");
            hub.sessions().bury(&uid, Instant::now());
            builds.forget(&uid);
            ledger().release(&uid);
        }
    }
}

/// Which of these the API server does not have. Each is asked for by name; a service that only a shim knows, by its
/// uid, is looked for in a list.
async fn confirm(
    client: &Client,
    namespaces: &Namespaces,
    hub: &Hub,
    missing: HashSet<String>,
) -> Result<HashSet<String>, kube::Error> {
    let mut absent = HashSet::new();
    let mut nameless = HashSet::new();
    for uid in missing {
        let service = hub.sessions().assigned(&uid).map(|assigned| assigned.service.clone());
        match service {
            Some(ServiceRef { namespace, name, .. }) => {
                let live = Api::<WasmService>::namespaced(client.clone(), &namespace).get_metadata_opt(&name).await;
                let live = match live {
                    Err(error) if is_refused(&error) => match is_gone(client, &namespace).await? {
                        true => None,
                        // Nothing is known of this one; others may be gone.
                        false => continue,
                    },
                    live => live?,
                };
                if live.and_then(|live| live.uid()).as_ref() != Some(&uid) {
                    absent.insert(uid);
                }
            }
            None => {
                nameless.insert(uid);
            }
        }
    }
    if nameless.is_empty() {
        return Ok(absent);
    }
    // Those without a name may be where nothing can be read: then they stay, and the others go.
    if let Some(uids) = all_uids(client, namespaces).await? {
        absent.extend(nameless.into_iter().filter(|uid| !uids.contains(uid)));
    }
    Ok(absent)
}

/// The uids of all services there are; `None` when a namespace may not be read.
async fn all_uids(client: &Client, namespaces: &Namespaces) -> Result<Option<HashSet<String>>, kube::Error> {
    let mut uids = HashSet::new();
    for api in namespaces.apis::<WasmService>(client) {
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = match (api.list_metadata(&params).await, api.namespace()) {
                (Err(error), Some(name)) if is_refused(&error) => match is_gone(client, name).await? {
                    true => break,
                    false => return Ok(None),
                },
                (page, _) => page?,
            };
            uids.extend(page.items.iter().filter_map(ResourceExt::uid));
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                break;
            }
        }
    }
    Ok(Some(uids))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uids(range: std::ops::Range<u32>) -> HashSet<String> {
        range.map(|i| i.to_string()).collect()
    }

    #[test]
    fn a_few_go_at_once_and_a_mass_waits_for_confirmation() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut doubts = Doubts::default();
        assert_eq!(doubts.resolve(100, &uids(0..20), at(0)).len(), 20, "20% is no mass");
        assert_eq!(doubts.resolve(4, &uids(0..4), at(0)).len(), 4, "four of four are no mass");
        assert_eq!(doubts.resolve(100, &uids(0..21), at(0)).len(), 0, "21% is one");
        assert_eq!(doubts.resolve(100, &uids(0..21), at(29)).len(), 0);
        // One came back: it was not gone.
        assert_eq!(doubts.resolve(100, &uids(1..22), at(30)).len(), 20, "the 22nd is missing for the first time");
        assert_eq!(doubts.resolve(80, &uids(21..22), at(31)), ["21"]);
    }

    #[test]
    fn what_comes_back_starts_anew() {
        let start = Instant::now();
        let mut doubts = Doubts::default();
        assert!(doubts.resolve(10, &uids(0..10), start).is_empty());
        assert!(doubts.resolve(10, &uids(0..0), start + CONFIRM).is_empty());
        assert!(doubts.resolve(10, &uids(0..10), start + CONFIRM).is_empty());
        assert_eq!(doubts.resolve(10, &uids(0..10), start + CONFIRM * 2).len(), 10);
    }
}
