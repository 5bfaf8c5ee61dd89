//! One service, made true: `observe` (IO) → `plan` (pure) → `apply` (IO) → `status_of` (pure) → the write.
//!
//! `reconcile` never asks why it was called: it looks at everything anew.

pub mod apply;
pub mod children;
pub mod conditions;
pub mod demand;
pub mod env;
pub mod events;
pub mod failures;
mod hosted;
pub mod imports;
pub mod lanes;
pub mod measured;
pub mod observe;
mod permitted;
mod pin;
pub mod plan;
pub mod quantity;
pub mod refused;
pub mod slices;
pub mod status_of;
mod targets;
pub mod views;

#[cfg(test)]
pub(crate) mod tests;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{controller::Action, events::Recorder, reflector::Store},
};
use podless_crds::{FIELD_MANAGER, WasmService, WasmServiceStatus};
use serde_json::json;

use crate::{
    build::{Builds, LAST_RETRY},
    hosts::HostStore,
    ledger::Ledger,
    link::Hub,
    metrics::Metrics,
    moves::NextMove,
    nodes::facts::NodeStore,
    policy::PolicyStore,
    said,
    wake::ServiceRef,
};
use apply::Applied;
use failures::Failures;
use lanes::Lanes;
use observe::Observed;
use plan::{Facts, Plan, Rejected, Settings, Settled, plan, resealed, settled};
use refused::refused;
use status_of::{Outcome, status_of};

/// A full pass over everything repairs what no watch has told.
const REPAIR: Duration = Duration::from_secs(600);
/// A shim that could not load a service is asked again after this.
const RELOAD: Duration = Duration::from_secs(60);
/// Nobody tells when the last shim has let go what is revoked.
const DRAIN: Duration = Duration::from_secs(1);
/// Nobody tells when other services have made room.
const ROOM: Duration = Duration::from_secs(15);
/// How long a joining shim waits for what the shim that it replaces serves and cannot be made for now. In this time what
/// may pass by itself has been tried again twice at least. Waiting loses nothing, for the other serves on; but one broken
/// service must not stop a rollout for good.
const HOLD: Duration = LAST_RETRY.saturating_mul(2);

/// What every reconcile needs.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The shims.
    pub hub: Arc<Hub>,
    /// Their pods.
    pub pods: Store<Pod>,
    /// Artifacts.
    pub builds: Arc<Builds>,
    /// The cluster's Nodes.
    pub nodes: NodeStore,
    /// What services may be.
    pub policies: PolicyStore,
    /// What hosts services have.
    pub hosts: HostStore,
    /// What each service has been given.
    pub ledger: Arc<Mutex<Ledger>>,
    /// The service that is to move next, to even out what nodes are given.
    pub next_move: Arc<NextMove>,
    /// What is the same for all services.
    pub settings: Settings,
    /// When this replica became the leader.
    pub leading_since: Instant,
    /// Publishes Events.
    pub recorder: Recorder,
    /// Counts.
    pub metrics: Metrics,
    /// Whose turn it is.
    pub lanes: Lanes,
    /// How often each service has failed in a row.
    pub failures: Arc<Failures>,
}

/// Why a reconcile has to be tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server refused, or was away.
    #[error("the API server: {}", said::api(.0))]
    Api(#[from] kube::Error),
    /// It came without uid or namespace, which the API server never does.
    #[error("an object without uid or namespace")]
    Incomplete,
}

impl ReconcileError {
    /// Somebody was faster: look again, there is nothing wrong.
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Api(kube::Error::Api(status)) if status.code == 409)
    }
}

/// Reconciles one service, and counts it.
pub async fn reconcile(service: Arc<WasmService>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let has_artifact = service.metadata.uid.as_deref().is_some_and(|uid| context.builds.has_artifact(uid));
    let _turn = context.lanes.turn(has_artifact).await;
    let start = Instant::now();
    context.metrics.reconcile_began();
    let result = one(service, &context).await;
    let label = match &result {
        Ok((_, label)) => label,
        Err(error) if error.is_conflict() => "conflict",
        Err(_) => "error",
    };
    context.metrics.reconcile_ended(label, start.elapsed());
    result.map(|(action, _)| action)
}

/// What to do after an error.
pub fn on_error(service: Arc<WasmService>, error: &ReconcileError, context: Arc<Context>) -> Action {
    if !error.is_conflict() {
        tracing::warn!(%error, namespace = service.namespace(), service = service.name_any(), "will be reconciled again");
    }
    Action::requeue(context.failures.next_wait(&service.uid().unwrap_or_default()))
}

impl Context {
    /// What each service has been given. Not to be held over an await.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn one(service: Arc<WasmService>, context: &Context) -> Result<(Action, &'static str), ReconcileError> {
    let id = service_ref(&service).ok_or(ReconcileError::Incomplete)?;
    if service.metadata.deletion_timestamp.is_some() {
        return Ok((Action::await_change(), "deleting"));
    }
    context.hub.sessions().retry_failed(&id.uid, Instant::now(), RELOAD);
    let mut observed = observe::observe(service, &id, context).await?;
    context.hub.sessions().keep_withdrawn(&id.uid, observed.withdrawn);
    if observed.revoked().is_some() {
        // Before its endpoints, and whatever comes of the plan: it answers nobody any more.
        context.hub.sessions().withdraw(&id.uid);
    }
    let planned = loop {
        let planned = planned(&observed, context);
        let unseen = planned.as_ref().map(|plan| plan.slices.unseen(&observed.slices)).unwrap_or_default();
        if unseen.is_empty() {
            break planned;
        }
        observed.slices.extend(observe::look_for(unseen, &id, context).await?);
    };
    let (applied, failed) = match planned {
        Ok(plan) => match apply::apply(plan, &observed, context).await {
            Ok(applied) => (Ok(applied), false),
            Err(error) if namespace_ends(&error) => return Ok((Action::await_change(), "deleting")),
            Err(error) => (Err(refused(&error, || context.failures.next_wait(&id.uid)).ok_or(error)?), true),
        },
        Err(rejected) => {
            if let Some(assigned) = resealed(&observed) {
                context.hub.sessions().assign(assigned);
            }
            (Err(rejected), false)
        }
    };
    let (outcome, mut again, label) = match &applied {
        Ok(applied) => {
            let facts = applied.facts();
            let again = match facts {
                // Then it can be said that there is none.
                Facts { usable_shims: 0, patience, .. } | Facts { short: Some(_), patience, .. }
                    if !patience.is_zero() =>
                {
                    *patience
                }
                Facts { revoked: Some(_), .. } => DRAIN,
                Facts { short: Some(_), .. } => ROOM,
                Facts { failures, .. } if failures.is_empty() => REPAIR,
                _ => RELOAD,
            };
            (Outcome::Applied(applied), again, "done")
        }
        Err(rejected) => (Outcome::Rejected(rejected), rejected.again, "rejected"),
    };
    match settled(&observed, applied.as_ref().map(Applied::facts)) {
        Settled::Yes => context.hub.sessions().settle(&id.uid, observed.epoch),
        Settled::Making => {}
        Settled::Stuck(nodes) => {
            let left = context.hub.sessions().hold(&id.uid, observed.epoch, &nodes, HOLD, Instant::now());
            if let Some(left) = left {
                let (namespace, service) = (&id.namespace, &id.name);
                tracing::warn!(namespace, service, ?left, "cannot be made for now: shims that join wait for it");
                again = again.min(left);
            }
        }
    }
    if let Some(status) = status_of(&observed, &outcome, &context.settings, &Time(Timestamp::now())) {
        write_status(&observed.service, status, context).await?;
    }
    if !failed {
        context.failures.succeeded(&id.uid);
    }
    Ok((Action::requeue(again), label))
}

/// Plans, and takes what was planned in the same step: of two services that are reconciled at once, one comes first.
fn planned(observed: &Observed, context: &Context) -> Result<Plan, Rejected> {
    let uid = &observed.id.uid;
    let mut ledger = context.ledger();
    let plan = plan(observed, &ledger.loads.without(uid), &context.settings)?;
    ledger.loads.set(uid, plan.loads.clone());
    Ok(plan)
}

/// The namespace is being deleted, and this object with it.
fn namespace_ends(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403 && causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// Writes status, unless the object has changed since it was observed; then tells the user what has turned.
async fn write_status(service: &WasmService, status: WasmServiceStatus, context: &Context) -> Result<(), kube::Error> {
    let name = service.name_any();
    let namespace = service.namespace().unwrap_or_default();
    let body = json!({
        "apiVersion": WasmService::api_version(&()),
        "kind": WasmService::kind(&()),
        "metadata": { "name": name, "uid": service.uid(), "resourceVersion": service.resource_version() },
        "status": status,
    });
    let api = Api::<WasmService>::namespaced(context.client.clone(), &namespace);
    api.patch_status(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&body)).await?;
    context.metrics.status_written();
    let old = service.status.as_ref();
    let turned = events::notices(old.map(|s| s.conditions.as_slice()).unwrap_or_default(), &status.conditions);
    let changed = imports::changed(old, &status);
    let notices = events::scaled(old, &status).into_iter().chain(changed).chain(turned).collect();
    events::publish(&context.recorder, &service.object_ref(&()), notices).await;
    Ok(())
}

/// Name and uid of a service.
pub fn service_ref(service: &WasmService) -> Option<ServiceRef> {
    Some(ServiceRef { uid: service.uid()?, namespace: service.namespace()?, name: service.name_any() })
}
