//! Scenes of a service's life, played without a cluster: each turn plans, pretends to apply, and writes the status.
//! `life` are those of a service and its shims, `outages` what is out of sight or cannot be made, `fields` those of
//! single fields of the spec, `hosts` those of the shared port, `anything` is what holds whatever happens.

mod anything;
mod engine;
mod fields;
mod hosts;
mod life;
mod outages;
mod policies;
mod sick;
mod slices;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::{core::v1 as core, discovery::v1::EndpointSlice},
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use kube::ResourceExt;
use podless_artifact::{
    Held,
    seal::{HttpWorld, Seal, SealKey},
};
use podless_crds::{ConditionType, EnvVar, Reason, WasmService};
use podless_engine::{Flavour, Target};
use serde_json::json;

use super::{
    apply::Applied,
    children::{Child, recorded},
    demand::Demand,
    env::{self, Found, Kind, Source},
    measured::Measured,
    observe::Observed,
    pin::pin,
    plan::{GRACE, PATIENCE, Plan, Rejected, Settings, plan},
    slices::{Family, SlicePlan, Slices},
    status_of::{Outcome, status_of},
    targets::made_again,
    views::ShimView,
};
use crate::{
    autoscale::Decision,
    build::{BuildState, Built, Code, Origin, Phase, Rejection},
    hosts::Hosts,
    link::{
        content::{Assigned, Content},
        sessions::{Failure, Growth},
    },
    nodes::facts::{NodeFacts, Taint},
    policy::{Judgement, permitted},
    schedule::{Cost, Move},
    wake::ServiceRef,
};

/// Name of the first slice.
const SLICE: &str = "hello-podless";

pub(crate) fn built(component: &str) -> BuildState {
    built_for("f", component)
}

fn built_for(engine: &str, component: &str) -> BuildState {
    let code = Code {
        sha256: format!("code of {component}"),
        size: 7,
        file: tempfile::tempfile().expect("a file"),
        note: String::new(),
        held: Held::default(),
    };
    let seal = Seal {
        component: component.to_owned(),
        code_sha256: code.sha256.clone(),
        code_size: 7,
        fingerprint: engine.into(),
        wasmtime: "1.2.3".into(),
        target: "t".into(),
        http: HttpWorld::P2,
        flavour: Flavour::P2,
        made_at: "2026-01-31T12:00:00Z".into(),
    };
    let sealed = SealKey::from_random([1; 32]).seal(&seal).expect("sealed");
    BuildState::Ready(Arc::new(Built {
        digest: format!("sha256:{component}"),
        manifest: Some(format!("sha256:in {component}")),
        component_size: 5,
        imports: vec![],
        seal,
        sealed,
        compile_millis: 3,
        origin: Origin::Compiled,
        unverified: None,
        unsure: None,
        code: Arc::new(code),
    }))
}

fn rejected(reason: Reason, transient: bool) -> BuildState {
    BuildState::Rejected(Rejection { transient, ..Rejection::mistake(reason, "mend the image") })
}

struct World {
    service: WasmService,
    /// What it has of the hosts that it asks for.
    hosts: Hosts,
    /// What policies say.
    judgement: Judgement,
    build: BuildState,
    /// The same for other targets.
    other_targets: BTreeMap<Target, BuildState>,
    slices: Slices,
    /// The Service, where it matters what it is like.
    child: Child<core::Service>,
    assigned: Option<Arc<Assigned>>,
    /// Sealed anew, when it is.
    kept: Option<Arc<Content>>,
    shims: Vec<ShimView>,
    foreign: bool,
    port: Option<u16>,
    patience: Duration,
    nodes: BTreeMap<String, NodeFacts>,
    found: Found,
    /// What the load has decided; `None` where the spec says it.
    decided: Option<Decision>,
    /// A move that evens out what nodes are given.
    rebalance: Option<Move>,
    /// What other services take.
    others: BTreeMap<String, Cost>,
    /// What this one takes, as planned last.
    takes: BTreeMap<String, Cost>,
    /// What was grown last.
    growth: Vec<Growth>,
}

fn settings() -> Settings {
    Settings {
        namespace: "podless".into(),
        cluster_domain: "cluster.local".into(),
        family: Family::V4,
        activation_nodes: 2,
        salt: b"salt".to_vec(),
    }
}

fn shim(node: &str) -> ShimView {
    ShimView {
        pod_uid: format!("uid-{node}"),
        pod_name: format!("shim-{node}"),
        node: node.to_owned(),
        ips: vec!["10.0.0.1".into()],
        pod_ready: true,
        connected: true,
        matches: true,
        engine: "f".into(),
        target: "t".into(),
        ..ShimView::default()
    }
}

impl World {
    fn new(nodes: &[&str], replicas: i32) -> Self {
        let spec = json!({"image": "r/hello:1", "replicas": replicas});
        let mut service = WasmService::new("hello", serde_json::from_value(spec).expect("a spec"));
        service.metadata.namespace = Some("n".into());
        service.metadata.uid = Some("u".into());
        service.metadata.generation = Some(1);
        Self {
            service,
            hosts: Hosts::default(),
            judgement: Judgement::default(),
            build: built("one"),
            other_targets: BTreeMap::new(),
            slices: Slices::new(),
            child: Child::Missing,
            assigned: None,
            kept: None,
            shims: nodes.iter().map(|node| shim(node)).collect(),
            foreign: false,
            port: Some(20_001),
            patience: Duration::ZERO,
            nodes: nodes.iter().map(|node| ((*node).to_owned(), NodeFacts::default())).collect(),
            found: Found::new(),
            decided: None,
            rebalance: None,
            others: BTreeMap::new(),
            takes: BTreeMap::new(),
            growth: vec![],
        }
    }

    fn observed(&self) -> Observed {
        let record = self.slices.get(SLICE).and_then(Child::ours).and_then(recorded);
        let build = self.judgement.gate(self.permitted().as_deref(), || self.build.clone());
        let build = match self.assigned {
            None => made_again(build, &self.other_targets, &self.service, record.as_ref()),
            Some(_) => build,
        };
        Observed {
            service: Arc::new(self.service.clone()),
            id: ServiceRef { uid: "u".into(), namespace: "n".into(), name: "hello".into() },
            child: if self.foreign { Child::Foreign } else { self.child.clone() },
            slices: self.slices.clone(),
            withdrawn: record.as_ref().map_or(0, |record| record.withdrawn),
            record,
            hosts: self.hosts.clone(),
            judgement: self.judgement.clone(),
            build,
            other_targets: self.other_targets.clone(),
            assigned: self.assigned.clone(),
            kept: self.kept.clone().or_else(|| self.assigned.as_ref().map(|a| a.content.clone())),
            port: self.port,
            shims: self.shims.clone(),
            nodes: Arc::new(self.nodes.clone()),
            env: env::resolve(&self.service.spec.revision.env, &self.found),
            measured: Measured::default(),
            demand: Demand::of(&self.judgement.capped(&self.service.spec), self.decided.clone()),
            rebalance: self.rebalance.clone(),
            patience: self.patience,
            epoch: 0,
        }
    }

    /// The digest that policies have let pass.
    fn permitted(&self) -> Option<String> {
        permitted(&self.service, pin(&self.service).as_ref())
    }

    /// One reconcile.
    fn turn(&mut self) -> Result<(), Rejected> {
        let observed = self.observed();
        let planned = plan(&observed, &self.others, &settings());
        let (applied, result) = match planned {
            Ok(Plan { service: _, slices, assigned, growth, loads, facts }) => {
                (self.takes, self.growth) = (loads, growth);
                let SlicePlan { wanted, emptied } = slices;
                self.slices.extend(wanted.into_iter().map(|slice| (slice.name_any(), Child::Ours(slice))));
                self.slices.retain(|name, _| !emptied.contains(name));
                if let Some(assigned) = assigned {
                    self.assigned = Some(Arc::new(assigned));
                }
                if facts.revoked.is_some() {
                    self.assigned = None;
                }
                (Some(Applied::pretend(facts)), Ok(()))
            }
            Err(rejected) => (None, Err(rejected)),
        };
        let outcome = match (&applied, &result) {
            (Some(applied), _) => Outcome::Applied(applied),
            (None, Err(rejected)) => Outcome::Rejected(rejected),
            (None, Ok(())) => unreachable!(),
        };
        let now = Time(Timestamp::UNIX_EPOCH);
        if let Some(status) = status_of(&observed, &outcome, &settings(), &now) {
            self.service.status = Some(status);
        }
        result
    }

    /// Every assigned shim that is connected loads what it was told; then a reconcile.
    fn load(&mut self) {
        let assigned = self.assigned.clone().expect("assigned");
        for shim in self.shims.iter_mut().filter(|s| s.connected && s.matches) {
            if assigned.budgets.contains_key(&shim.pod_uid) && assigned.content.runs_on(&shim.engine) {
                shim.serves = Some(assigned.generation);
            }
        }
        self.turn().expect("planned");
    }

    /// A change of the spec.
    fn change(&mut self, change: impl FnOnce(&mut WasmService)) {
        change(&mut self.service);
        *self.service.metadata.generation.as_mut().expect("a generation") += 1;
    }

    /// Another replica of the operator takes over: it has heard of no shim, and built nothing.
    fn take_over(&mut self) {
        self.assigned = None;
        self.build = BuildState::Pending(Phase::Resolving);
        for shim in &mut self.shims {
            (shim.connected, shim.matches, shim.serves, shim.failed) = (false, false, None, None);
        }
    }

    fn at(&mut self, node: &str) -> &mut ShimView {
        self.shims.iter_mut().find(|s| s.node == node).expect("a shim")
    }

    fn slice(&self) -> &EndpointSlice {
        self.slices[SLICE].ours().expect("a slice")
    }

    /// `node+` ready, `node-` not, `node~` serving while it ends.
    fn endpoints(&self) -> Vec<String> {
        let endpoint = |e: &k8s_openapi::api::discovery::v1::Endpoint| {
            let c = e.conditions.clone().expect("conditions");
            let sign = match (c.ready, c.terminating) {
                (Some(true), _) => '+',
                (_, Some(true)) => '~',
                _ => '-',
            };
            format!("{}{sign}", e.node_name.as_deref().expect("a node"))
        };
        self.slice().endpoints.iter().map(endpoint).collect()
    }

    fn condition(&self, kind: ConditionType) -> Condition {
        let status = self.service.status.as_ref().expect("a status");
        status.conditions.iter().find(|c| c.type_ == kind.as_str()).cloned().expect("the condition")
    }

    /// The condition as `True Reason`.
    fn says(&self, kind: ConditionType) -> String {
        let condition = self.condition(kind);
        assert_eq!(condition.observed_generation, self.service.metadata.generation);
        format!("{} {}", condition.status, condition.reason)
    }

    fn generation(&self) -> u64 {
        recorded(self.slice()).expect("a record").generation
    }
}

use ConditionType::{Audited, Available, Placed, Precompiled, Ready, Resolved};

fn served(nodes: &[&str], replicas: i32) -> World {
    let mut world = World::new(nodes, replicas);
    world.turn().expect("planned");
    world.load();
    assert_eq!(world.says(Ready), "True Serving");
    world
}

fn from_secret(optional: bool) -> Vec<EnvVar> {
    let key = json!({"name": "s", "key": "k", "optional": optional});
    serde_json::from_value(json!([{"name": "V", "valueFrom": {"secretKeyRef": key}}])).expect("variables")
}

fn secret(value: Option<&str>) -> Found {
    let source = Source { kind: Kind::Secret, name: "s".into() };
    let data = value.map(|value| BTreeMap::from([("k".to_owned(), value.as_bytes().to_vec())]));
    Found::from([(source, data)])
}
