//! What is. In: a WasmService; out: everything that its plan depends on. IO, reading only.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::{core::v1 as core, discovery::v1::EndpointSlice};
use kube::Api;
use podless_artifact::Grants;
use podless_crds::WasmService;
use podless_engine::Target;

use super::{
    Context,
    children::{Child, Recorded, recorded, recorded_port, slice_name},
    demand::Demand,
    env::{self, Env, EnvError},
    measured::{Measured, measure},
    pin::{pin, resolved_for},
    plan::PATIENCE,
    slices::Slices,
    targets::{made_again, targets},
    views::{ShimView, views},
};
use crate::{
    build::{BuildState, Wanted, compiler_options},
    hosts::Hosts,
    link::content::{Assigned, Content},
    nodes::facts::AllNodes,
    policy::{Judgement, permitted},
    schedule::Move,
    shims::shim_pods,
    wake::ServiceRef,
};

/// Slices that are looked for at once.
const AT_ONCE: usize = 8;

/// Everything that a plan depends on.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The object, as the watch showed it.
    pub service: Arc<WasmService>,
    /// The same, by name and uid.
    pub id: ServiceRef,
    /// The Service of its name.
    pub child: Child<core::Service>,
    /// Its slices: the first one, and those that it may have beside it.
    pub slices: Slices,
    /// What the first one remembers, if it is ours.
    pub record: Option<Recorded>,
    /// The highest generation that was taken away because it is revoked; 0 when there is none.
    pub withdrawn: u64,
    /// What it has of the hosts that it asks for.
    pub hosts: Hosts,
    /// What policies say of it.
    pub judgement: Judgement,
    /// What has become of its artifact.
    pub build: BuildState,
    /// What has become of the same component for other targets, where its nodes have several; nothing before there is the one.
    pub other_targets: BTreeMap<Target, BuildState>,
    /// What this leader has assigned.
    pub assigned: Option<Arc<Assigned>>,
    /// The content of that, sealed by the present key: what is served on while there is nothing newer.
    pub kept: Option<Arc<Content>>,
    /// Its port; `None` when they have run out.
    pub port: Option<u16>,
    /// Every shim.
    pub shims: Vec<ShimView>,
    /// Every Node of the cluster.
    pub nodes: AllNodes,
    /// Its environment, or what is missing of it.
    pub env: Result<Env, EnvError>,
    /// What the shims have measured.
    pub measured: Measured,
    /// How many replicas there should be.
    pub demand: Demand,
    /// It is to leave one node for another, because its node is given far more.
    pub rebalance: Option<Move>,
    /// How much longer shims may take to connect to a new leader.
    pub patience: Duration,
    /// Which shims were in view; see `Sessions::settle`.
    pub epoch: u64,
}

/// Looks at one service.
pub async fn observe(service: Arc<WasmService>, id: &ServiceRef, context: &Context) -> Result<Observed, kube::Error> {
    let children = Api::<core::Service>::namespaced(context.client.clone(), &id.namespace);
    let mut names = context.ledger().slices.of(id);
    names.insert(slice_name(&id.name));
    let sources = env::read(&context.client, &id.namespace, env::sources(&service));
    let (child, slices, found) = tokio::try_join!(children.get_opt(&id.name), look_for(names, id, context), sources)?;

    let judgement = context.policies.judge(&id.namespace, &service.spec);
    let permitted = permitted(&service, pin(&service).as_ref());
    let patience = PATIENCE.saturating_sub(context.leading_since.elapsed());
    let (may_miss, nodes) = (!patience.is_zero(), context.nodes.all());
    let targets = targets(&service, &id.uid, context.hub.sessions().targets(), may_miss, &nodes);
    let target = context.builds.first(&id.uid, &service.spec.revision.image, &targets);
    context.builds.keep_only(&id.uid, |other| other == target || targets.contains(&other));
    let wanted = wanted(&service, id, target, &judgement, permitted.is_some());
    let build = judgement.gate(permitted.as_deref(), || context.builds.ask(wanted.clone()));
    let other_targets = match &build {
        BuildState::Ready(built) => {
            let others = targets.into_iter().filter(|other| *other != target);
            others.map(|other| (other, context.builds.ask(wanted.clone().beside(built, other)))).collect()
        }
        BuildState::Pending(_) | BuildState::Rejected(_) => BTreeMap::new(),
    };
    let spec = judgement.capped(&service.spec);
    let first = slices.get(&slice_name(&id.name)).and_then(Child::ours);
    let port = context.ledger().ports.keep(&id.uid, first.and_then(recorded_port));
    let pods = shim_pods(&context.pods);
    let sessions = context.hub.sessions();
    let assigned = sessions.assigned(&id.uid);
    // A new leader goes on from what is placed.
    let record = first.and_then(recorded);
    let build = match assigned {
        None => made_again(build, &other_targets, &service, record.as_ref()),
        Some(_) => build,
    };
    let withdrawn = record.as_ref().map_or(0, |record| record.withdrawn).max(sessions.withdrawn(&id.uid));
    let shims = views(&sessions, &pods, &id.uid, withdrawn, context.leading_since, Instant::now());
    let nodes = record.as_ref().map(|record| &record.nodes);
    let placed = nodes.into_iter().flatten().fold(0u32, |sum, (_, node)| sum.saturating_add(node.replicas));
    // Of what this leader has not assigned yet it believes nobody a word.
    let unheard =
        placed > 0 && assigned.is_none() || nodes.into_iter().flatten().any(|(node, _)| is_unheard(node, &shims));
    let decided = context.hub.autoscale.desired(&id.uid, &spec, placed, unheard, Instant::now());
    // A key that was read can always seal; if not, what is assigned stays as it is.
    let refreshed = |a: &Arc<Assigned>| context.hub.signing.refresh(&a.content).unwrap_or_else(|_| a.content.clone());
    Ok(Observed {
        child: Child::of(child, id),
        slices,
        record,
        withdrawn,
        hosts: Hosts::of(&service, context.hosts.verdict(&id.uid).as_deref()),
        judgement,
        build,
        other_targets,
        kept: assigned.as_ref().map(refreshed),
        assigned,
        port,
        shims,
        nodes: context.nodes.all(),
        env: env::resolve(&service.spec.revision.env, &found),
        demand: Demand::of(&spec, decided),
        rebalance: context.next_move.of(&id.uid),
        measured: sessions.reports_of(&id.uid).map(|reports| measure(&reports)).unwrap_or_default(),
        patience,
        epoch: sessions.epoch(),
        id: id.clone(),
        service,
    })
}

/// Looks for slices of a service by their names.
pub async fn look_for(
    names: impl IntoIterator<Item = String>,
    id: &ServiceRef,
    context: &Context,
) -> Result<Slices, kube::Error> {
    let api = Api::<EndpointSlice>::namespaced(context.client.clone(), &id.namespace);
    let found = stream::iter(names).map(async |name| {
        let found = Child::of(api.get_opt(&name).await?, id);
        // Where the plan wants that name, it is looked for again.
        if found.ours().is_none() {
            context.ledger().slices.remove(id, &name);
        }
        Ok((name, found))
    });
    found.buffer_unordered(AT_ONCE).try_collect().await
}

/// A node may serve, and none of its shims tells this leader how much.
fn is_unheard(node: &str, shims: &[ShimView]) -> bool {
    let mut here = shims.iter().filter(|shim| shim.node == node && shim.held()).peekable();
    here.peek().is_some() && here.all(|shim| !shim.connected)
}

/// What the service wants built.
pub(super) fn wanted(
    service: &WasmService,
    id: &ServiceRef,
    target: Target,
    judgement: &Judgement,
    permitted: bool,
) -> Wanted {
    let spec = &service.spec;
    Wanted {
        service: id.clone(),
        image: spec.revision.image.clone(),
        revision: resolved_for(service),
        pinned: pin(service),
        // What the tag means by now would not be permitted.
        resolve_every: spec.resolve_every().filter(|_| judgement.violations.is_empty()),
        pull_secrets: spec.image_pull_secrets.iter().map(|secret| secret.name.clone()).collect(),
        grants: Grants {
            strict: spec.revision.capabilities.strict,
            logging: spec.revision.capabilities.logging.is_some(),
            outbound_http: spec.revision.capabilities.outbound_http.is_some(),
        },
        target,
        compiler: compiler_options(spec.revision.compiler),
        signatures: judgement.signatures.clone(),
        permitted,
        revoked: judgement.revoked.clone(),
    }
}
