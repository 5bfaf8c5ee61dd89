//! What a new leader goes on from. In: the slices of the services that it serves; out: what each service has been given.
//! IO, reading only; `note_slice` keeps the names current.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use anyhow::Context as _;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Client, ResourceExt,
    api::ListParams,
    core::{ObjectList, PartialObjectMeta},
    runtime::watcher,
};
use podless_crds::{MANAGED_BY, SERVICE_LABEL, WasmService};

use crate::{
    ledger::Ledger,
    namespaces::{Namespaces, is_refused},
    reconcile::{
        children::{recorded, recorded_port},
        slices::owner,
    },
};

/// What services have been given, as their slices say.
pub async fn recover(client: &Client, namespaces: &Namespaces) -> anyhow::Result<Ledger> {
    let mine =
        ListParams::default().labels(&format!("{SERVICE_LABEL},endpointslice.kubernetes.io/managed-by={MANAGED_BY}"));
    let (mut slices, mut services) = (vec![], vec![]);
    for api in namespaces.apis::<EndpointSlice>(client) {
        slices.extend(readable(api.list(&mine).await).context("slices cannot be listed")?);
    }
    for api in namespaces.apis::<WasmService>(client) {
        let listed = api.list_metadata(&ListParams::default()).await;
        services.extend(readable(listed).context("services cannot be listed")?);
    }
    let homes: HashMap<_, _> = services.into_iter().filter_map(|s| Some((s.uid()?, s.namespace()?))).collect();
    let mut ledger = Ledger::default();
    for slice in slices {
        let Some(service) = owner(&slice) else { continue };
        // Anybody can give a slice in a namespace of their own the owner of another.
        if homes.get(&service).is_some_and(|home| slice.namespace().as_ref() != Some(home)) {
            continue;
        }
        ledger.slices.seen(&slice);
        if let Some(port) = recorded_port(&slice) {
            ledger.ports.recover(&service, port);
        }
        // Only the first one of a service has a record.
        if let Some(record) = recorded(&slice) {
            ledger.loads.set(&service, record.loads());
        }
    }
    Ok(ledger)
}

/// What was listed. A namespace that may not be read has nothing for now: what it has is found when it can be.
fn readable<K: Clone>(listed: kube::Result<ObjectList<K>>) -> kube::Result<Vec<K>> {
    match listed {
        Err(error) if is_refused(&error) => Ok(vec![]),
        listed => Ok(listed?.items),
    }
}

/// Notes which slices there are.
pub fn note_slice(ledger: &Mutex<Ledger>, event: &watcher::Event<PartialObjectMeta<EndpointSlice>>) {
    let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
    match event {
        watcher::Event::Apply(slice) | watcher::Event::InitApply(slice) => ledger.slices.seen(slice),
        watcher::Event::Delete(slice) => ledger.slices.gone(slice),
        watcher::Event::Init | watcher::Event::InitDone => {}
    }
}
