//! What is. In: a WasmService; out: everything that its plan depends on. IO, reading only.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::{core::v1 as core, discovery::v1::EndpointSlice};
use kube::Api;
use podless_crds::WasmService;

use super::{
    Context,
    children::{Child, slice_name},
    measured::{Measured, measure},
    plan::PATIENCE,
    views::{ShimView, views},
};
use crate::{
    build::{BuildState, Wanted},
    link::content::Assigned,
    shims::shim_pods,
    wake::ServiceRef,
};

/// Everything that a plan depends on.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The object, as the watch showed it.
    pub service: Arc<WasmService>,
    /// The same, by name and uid.
    pub id: ServiceRef,
    /// The Service of its name.
    pub child: Child<core::Service>,
    /// The slice of its name.
    pub slice: Child<EndpointSlice>,
    /// What has become of its artifact.
    pub build: BuildState,
    /// What this leader has assigned.
    pub assigned: Option<Arc<Assigned>>,
    /// Its port; `None` when they have run out.
    pub port: Option<u16>,
    /// Every shim.
    pub shims: Vec<ShimView>,
    /// Requests in flight that other services may put on each node.
    pub loads: BTreeMap<String, u64>,
    /// What the shims have measured.
    pub measured: Measured,
    /// How much longer shims may take to connect to a new leader.
    pub patience: Duration,
    /// Which shims were in view; see `Sessions::settle`.
    pub epoch: u64,
}

/// Looks at one service.
pub async fn observe(service: Arc<WasmService>, id: &ServiceRef, context: &Context) -> Result<Observed, kube::Error> {
    let children = Api::<core::Service>::namespaced(context.client.clone(), &id.namespace);
    let slices = Api::<EndpointSlice>::namespaced(context.client.clone(), &id.namespace);
    let slice = slice_name(&id.name);
    let (child, slice) = tokio::try_join!(children.get_opt(&id.name), slices.get_opt(&slice))?;

    let build = context.builds.ask(wanted(&service, id));
    let port = context.ports.lock().unwrap_or_else(PoisonError::into_inner).port_of(&id.uid);
    let pods = shim_pods(&context.pods);
    let sessions = context.hub.sessions();
    Ok(Observed {
        child: Child::of(child, id),
        slice: Child::of(slice, id),
        build,
        assigned: sessions.assigned(&id.uid),
        port,
        shims: views(&sessions, &pods, &id.uid, context.leading_since, Instant::now()),
        loads: sessions.loads_without(&id.uid),
        measured: sessions.reports_of(&id.uid).map(|reports| measure(&reports)).unwrap_or_default(),
        patience: PATIENCE.saturating_sub(context.leading_since.elapsed()),
        epoch: sessions.epoch(),
        id: id.clone(),
        service,
    })
}

/// What the service wants built. A digest that status has pinned for this very generation and reference is kept.
fn wanted(service: &WasmService, id: &ServiceRef) -> Wanted {
    let spec = &service.spec;
    let status = service.status.as_ref();
    let generation = service.metadata.generation.unwrap_or(0);
    let resolved = status
        .iter()
        .flat_map(|s| &s.conditions)
        .any(|c| c.type_ == "Resolved" && c.status == "True" && c.observed_generation == service.metadata.generation);
    let pinned = status.and_then(|s| s.image.as_ref()).filter(|i| resolved && i.reference == spec.revision.image);
    Wanted {
        service: id.clone(),
        image: spec.revision.image.clone(),
        generation,
        pinned: pinned.map(|image| image.digest.clone()),
        pull_secrets: spec.image_pull_secrets.iter().map(|secret| secret.name.clone()).collect(),
        logging: spec.revision.capabilities.logging.is_some(),
    }
}
