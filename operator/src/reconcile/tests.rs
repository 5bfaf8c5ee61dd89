//! Scenes of a service's life, played without a cluster: each turn plans, pretends to apply, and writes the status.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::discovery::v1::EndpointSlice,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use podless_artifact::seal::{HttpWorld, Seal, SealKey};
use podless_crds::{ConditionType, Reason, WasmService};
use proptest::prelude::*;
use serde_json::json;

use super::{
    apply::Applied,
    children::{Child, recorded},
    measured::Measured,
    observe::Observed,
    plan::{GRACE, Plan, Rejected, Settings, plan},
    status_of::{Outcome, status_of},
    views::ShimView,
};
use crate::{
    build::{BuildState, Built, Code, Phase, Rejection},
    link::{content::Assigned, sessions::Failure},
    wake::ServiceRef,
};

pub(crate) fn built(component: &str) -> BuildState {
    let code = Code { sha256: format!("code of {component}"), size: 7, file: tempfile::tempfile().expect("a file") };
    let seal = Seal {
        component: component.to_owned(),
        code_sha256: code.sha256.clone(),
        code_size: 7,
        fingerprint: "f".into(),
        target: "t".into(),
        http: HttpWorld::P2,
    };
    let sealed = SealKey::from_random([1; 32]).seal(&seal).expect("sealed");
    BuildState::Ready(Arc::new(Built {
        digest: format!("sha256:{component}"),
        component_size: 5,
        imports: vec![],
        seal,
        sealed,
        compile_millis: 3,
        code: Arc::new(code),
    }))
}

fn rejected(reason: Reason, transient: bool) -> BuildState {
    BuildState::Rejected(Rejection { reason, message: "mend the image".into(), transient })
}

struct World {
    service: WasmService,
    build: BuildState,
    slice: Child<EndpointSlice>,
    assigned: Option<Arc<Assigned>>,
    shims: Vec<ShimView>,
    foreign: bool,
    port: Option<u16>,
    patience: Duration,
}

fn settings() -> Settings {
    Settings { namespace: "podless".into(), cluster_domain: "cluster.local".into(), address_type: "IPv4" }
}

fn shim(node: &str) -> ShimView {
    ShimView {
        pod_uid: format!("uid-{node}"),
        pod_name: format!("shim-{node}"),
        node: node.to_owned(),
        ip: "10.0.0.1".into(),
        pod_ready: true,
        terminating: false,
        connected: true,
        matches: true,
        silent: Duration::ZERO,
        serves: None,
        failed: None,
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
            build: built("one"),
            slice: Child::Missing,
            assigned: None,
            shims: nodes.iter().map(|node| shim(node)).collect(),
            foreign: false,
            port: Some(20_001),
            patience: Duration::ZERO,
        }
    }

    fn observed(&self) -> Observed {
        Observed {
            service: Arc::new(self.service.clone()),
            id: ServiceRef { uid: "u".into(), namespace: "n".into(), name: "hello".into() },
            child: if self.foreign { Child::Foreign } else { Child::Missing },
            slice: self.slice.clone(),
            build: self.build.clone(),
            assigned: self.assigned.clone(),
            port: self.port,
            shims: self.shims.clone(),
            loads: BTreeMap::new(),
            measured: Measured::default(),
            patience: self.patience,
            epoch: 0,
        }
    }

    /// One reconcile.
    fn turn(&mut self) -> Result<(), Rejected> {
        let observed = self.observed();
        let planned = plan(&observed, &settings());
        let (applied, result) = match planned {
            Ok(Plan { service: _, slice, assigned, facts }) => {
                self.slice = Child::Ours(slice);
                if let Some(assigned) = assigned {
                    self.assigned = Some(Arc::new(assigned));
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
            if assigned.budgets.contains_key(&shim.pod_uid) {
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
        self.slice.ours().expect("a slice")
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

#[test]
fn from_nothing_to_serving() {
    let mut world = World::new(&["a", "b"], 3);
    world.build = BuildState::Pending(Phase::Resolving);
    world.turn().expect("planned");
    assert!(world.endpoints().is_empty() && world.assigned.is_none());
    assert_eq!((world.says(Resolved), world.says(Ready)), ("Unknown Resolving".into(), "Unknown Resolving".into()));
    assert_eq!((world.says(Placed), world.says(Available)), ("Unknown Waiting".into(), "False NothingServes".into()));
    world.build = BuildState::Pending(Phase::Pulling(40));
    world.turn().expect("planned");
    assert!(world.condition(Ready).message.contains("40%"));

    world.build = built("one");
    world.turn().expect("planned");
    assert_eq!(world.endpoints(), ["a-", "b-"], "not before they have loaded it");
    assert_eq!((world.says(Placed), world.says(Ready)), ("True Done".into(), "Unknown Loading".into()));
    let assigned = world.assigned.clone().expect("assigned");
    assert_eq!((assigned.generation, assigned.port), (1, 20_001));
    let mut budgets: Vec<_> = assigned.budgets.values().copied().collect();
    budgets.sort();
    assert_eq!(budgets, [100, 200], "3 replicas of 100 on two nodes");

    world.at("a").serves = Some(1);
    world.turn().expect("planned");
    assert_eq!(world.endpoints(), ["a+", "b-"]);
    assert_eq!((world.says(Available), world.says(Ready)), ("True Serving".into(), "Unknown Loading".into()));
    world.load();
    assert_eq!(world.endpoints(), ["a+", "b+"]);
    for kind in ConditionType::ALL {
        assert!(world.says(kind).starts_with("True"), "{kind:?}");
    }
    let status = world.service.status.clone().expect("a status");
    assert_eq!((status.replicas, status.ready_replicas), (3, 3));
    assert_eq!(status.url.as_deref(), Some("http://hello.n.svc.cluster.local"));
    assert_eq!(status.image.expect("an image").digest, "sha256:one");

    let observed = world.observed();
    let again = plan(&observed, &settings()).expect("planned");
    assert_eq!(again.assigned.expect("assigned").generation, 1, "nothing changes, so nothing is told");
    let applied = Applied::pretend(again.facts);
    let now = Time(Timestamp::MAX);
    assert_eq!(status_of(&observed, &Outcome::Applied(&applied), &settings(), &now), None, "nor written");
}

#[test]
fn a_new_leader_gives_shims_time_before_it_says_that_there_are_none() {
    let mut world = World::new(&[], 1);
    world.patience = Duration::from_secs(1);
    world.turn().expect("planned");
    assert_eq!((world.says(Placed), world.says(Ready)), ("Unknown Waiting".into(), "Unknown Waiting".into()));
    world.patience = Duration::ZERO;
    world.turn().expect("planned");
    assert_eq!((world.says(Placed), world.says(Ready)), ("False NoNode".into(), "False NoNode".into()));
}

#[test]
fn who_serves_while_it_ends_serves() {
    let mut world = served(&["a"], 1);
    world.at("a").terminating = true;
    world.turn().expect("planned");
    assert_eq!(world.endpoints(), ["a~"]);
    assert_eq!((world.says(Available), world.says(Ready)), ("True Serving".into(), "False NoNode".into()));
    // Its replacement is there and has loaded nothing yet.
    world.shims.push(ShimView { pod_uid: "uid-new".into(), ..shim("a") });
    world.turn().expect("planned");
    assert_eq!((world.says(Available), world.says(Ready)), ("True Serving".into(), "Unknown Loading".into()));
    // The old one is gone.
    world.shims.retain(|s| !s.terminating);
    world.turn().expect("planned");
    assert_eq!(world.says(Available), "False NothingServes");
}

#[test]
fn an_update_is_one_generation_more_and_the_old_one_serves_until_it_is_loaded() {
    let mut world = served(&["a", "b"], 2);
    world.change(|s| s.spec.revision.image = "r/hello:2".into());
    world.build = BuildState::Pending(Phase::Compiling);
    world.turn().expect("planned");
    assert_eq!((world.generation(), world.endpoints()), (1, vec!["a+".to_owned(), "b+".to_owned()]));
    assert_eq!(
        (world.says(Available), world.says(Ready)),
        ("True EarlierGeneration".into(), "Unknown Compiling".into())
    );
    world.build = built("two");
    world.turn().expect("planned");
    assert_eq!((world.generation(), world.endpoints()), (2, vec!["a+".to_owned(), "b+".to_owned()]));
    assert_eq!(world.says(Ready), "Unknown Loading");
    world.load();
    assert_eq!(world.says(Ready), "True Serving");
}

#[test]
fn a_broken_image_leaves_the_old_one_serving_even_to_a_new_shim() {
    let mut world = served(&["a", "b"], 2);
    world.change(|s| s.spec.revision.image = "r/hello:broken".into());
    world.build = rejected(Reason::CoreModule, false);
    world.turn().expect("planned");
    assert_eq!(world.endpoints(), ["a+", "b+"]);
    assert_eq!((world.says(Resolved), world.says(Audited)), ("True Done".into(), "False CoreModule".into()));
    assert_eq!(world.says(Precompiled), "Unknown Waiting");
    assert_eq!(
        (world.says(Available), world.says(Ready)),
        ("True EarlierGeneration".into(), "False CoreModule".into())
    );
    let image = world.service.status.clone().expect("a status").image.expect("an image");
    assert_eq!((image.reference.as_str(), image.digest.as_str()), ("r/hello:1", "sha256:one"), "the one that serves");

    let mut replacement = shim("a");
    replacement.pod_uid = "uid-new".into();
    world.shims.push(replacement);
    world.turn().expect("planned");
    let assigned = world.assigned.clone().expect("assigned");
    assert!(assigned.budgets.contains_key("uid-new") && assigned.content.image.digest == "sha256:one");
    assert_eq!(assigned.generation, 1, "who has it already is not told again");

    world.change(|s| s.spec.replicas = Some(1));
    world.turn().expect("planned");
    assert_eq!(world.assigned.clone().expect("assigned").replicas.len(), 1, "scaling does not wait for the image");
}

#[test]
fn the_steps_that_a_rejection_ends() {
    for (reason, kind, before) in [
        (Reason::InvalidReference, Resolved, None),
        (Reason::ImageNotFound, Resolved, None),
        (Reason::PullSecretInvalid, Resolved, None),
        (Reason::RegistryUnreachable, Resolved, None),
        (Reason::UnsupportedLayer, Resolved, None),
        (Reason::PrecompiledLayer, Audited, Some(Resolved)),
        (Reason::NotWebAssembly, Audited, Some(Resolved)),
        (Reason::NoHttpExport, Audited, Some(Resolved)),
        (Reason::ImportDenied, Audited, Some(Resolved)),
        (Reason::CompileLimit, Precompiled, Some(Audited)),
    ] {
        let mut world = World::new(&["a"], 1);
        world.build = rejected(reason, false);
        world.turn().expect("planned");
        let says = format!("False {}", reason.as_str());
        assert_eq!((world.says(kind), world.says(Ready)), (says.clone(), says));
        assert_eq!(world.condition(Ready).message, "mend the image");
        assert_eq!(world.says(Available), "False NothingServes");
        if let Some(before) = before {
            assert_eq!(world.says(before), "True Done", "{reason:?}");
        }
    }
}

#[test]
fn a_takeover_disturbs_nothing() {
    let mut world = served(&["a", "b", "c"], 5);
    let before = (world.slice().clone(), world.service.status.clone());
    world.take_over();
    world.turn().expect("planned");
    assert_eq!((world.slice().clone(), world.service.status.clone()), before, "no shim heard of, nothing built");
    // The registry is away, too.
    world.build = rejected(Reason::RegistryUnreachable, true);
    world.turn().expect("planned");
    assert_eq!((world.slice().clone(), world.service.status.clone()), before);
    // Shims come back one by one.
    for node in ["a", "b", "c"] {
        let shim = world.at(node);
        (shim.connected, shim.matches, shim.serves) = (true, true, Some(1));
        world.turn().expect("planned");
        assert_eq!((world.slice().clone(), world.service.status.clone()), before, "{node}");
    }
    world.build = built("one");
    world.turn().expect("planned");
    assert_eq!((world.slice().clone(), world.service.status.clone()), before);
    assert_eq!(world.assigned.clone().expect("assigned").generation, 1, "built again, it is the same");
}

#[test]
fn a_restored_api_server_cannot_wedge_the_shims() {
    let mut world = served(&["a"], 1);
    world.at("a").serves = Some(9);
    world.turn().expect("planned");
    assert_eq!(world.assigned.clone().expect("assigned").generation, 10);
    assert_eq!(world.says(Ready), "Unknown Loading");
    world.load();
    assert_eq!(world.says(Ready), "True Serving");
}

#[test]
fn a_killed_shim_keeps_its_place_for_the_grace_and_is_moved_after_it() {
    let mut world = served(&["a"], 1);
    world.shims.push(shim("b"));
    let lost = |world: &mut World, silent| {
        let a = world.at("a");
        (a.connected, a.pod_ready, a.silent) = (false, false, silent);
        world.turn().expect("planned");
    };
    lost(&mut world, Duration::from_secs(1));
    assert_eq!(world.endpoints(), ["a+"], "the only one stays an endpoint");
    assert!(!world.assigned.clone().expect("assigned").replicas.contains_key("b"));
    lost(&mut world, GRACE);
    assert_eq!(world.endpoints(), ["a+", "b-"], "until somebody has taken over");
    world.load();
    assert_eq!(world.endpoints(), ["b+"]);
    assert_eq!(world.says(Ready), "True Serving");
    // It comes back, and nothing moves again.
    (world.at("a").connected, world.at("a").pod_ready) = (true, true);
    world.turn().expect("planned");
    assert_eq!(world.endpoints(), ["b+"]);
}

#[test]
fn a_shim_that_is_down_gets_no_new_connections_when_others_can_take_them() {
    let mut world = served(&["a", "b"], 2);
    let a = world.at("a");
    (a.connected, a.pod_ready, a.silent) = (false, false, Duration::from_secs(1));
    world.turn().expect("planned");
    assert_eq!(world.endpoints(), ["a-", "b+"]);
}

#[test]
fn a_lost_link_alone_ejects_nobody() {
    let mut world = served(&["a", "b"], 2);
    for shim in &mut world.shims {
        (shim.connected, shim.silent) = (false, GRACE * 100);
    }
    world.turn().expect("planned");
    assert_eq!(world.endpoints(), ["a+", "b+"], "their pods are Ready");
    for shim in &mut world.shims {
        shim.pod_ready = false;
    }
    world.turn().expect("planned");
    assert_eq!(world.endpoints(), ["a+", "b+"], "who has lost sight of all moves none");
}

#[test]
fn one_shim_replaces_another_on_its_node() {
    let mut world = served(&["a"], 1);
    let mut new = shim("a");
    (new.pod_uid, new.pod_ready) = ("uid-new".into(), false);
    world.shims.push(new);
    world.turn().expect("planned");
    assert_eq!(world.endpoints(), ["a+", "a-"]);
    world.load();
    assert_eq!(world.endpoints(), ["a+", "a+"]);
    world.shims[0].terminating = true;
    world.turn().expect("planned");
    let mut endpoints = world.endpoints();
    endpoints.sort();
    assert_eq!(endpoints, ["a+", "a~"]);
    world.shims.remove(0);
    world.turn().expect("planned");
    assert_eq!((world.endpoints(), world.generation()), (vec!["a+".to_owned()], 1));
}

#[test]
fn a_shim_of_another_engine_serves_what_it_has_and_gets_nothing() {
    let mut world = served(&["a"], 1);
    world.at("a").matches = false;
    world.change(|s| s.spec.revision.image = "r/hello:2".into());
    world.build = built("two");
    world.turn().expect("planned");
    assert_eq!((world.endpoints(), world.says(Available)), (vec!["a+".into()], "True EarlierGeneration".into()));
    let mut fresh = World::new(&["a"], 1);
    fresh.at("a").matches = false;
    fresh.turn().expect("planned");
    assert_eq!((fresh.says(Placed), fresh.says(Ready)), ("False NoNode".into(), "False NoNode".into()));
}

#[test]
fn moving_is_make_before_break() {
    let mut world = served(&["a", "b"], 2);
    let gone = world.assigned.clone().expect("assigned").replicas.keys().next().cloned().expect("a node");
    world.shims.push(shim("c"));
    world.at(&gone).terminating = true;
    world.turn().expect("planned");
    let other = if gone == "a" { "b" } else { "a" };
    let mut expected = [format!("{gone}~"), format!("{other}+"), "c-".to_owned()];
    expected.sort();
    assert_eq!(world.endpoints(), expected);
    world.load();
    assert!(world.endpoints().contains(&"c+".to_owned()));
}

#[test]
fn a_load_that_failed_is_told() {
    let mut world = served(&["a", "b"], 2);
    world.change(|s| s.spec.revision.timeout_seconds = 5);
    world.turn().expect("planned");
    let failure =
        Failure { generation: 2, reason: "disk".into(), message: "the disk is full".into(), at: Instant::now() };
    world.at("b").failed = Some(failure);
    world.at("a").serves = Some(2);
    world.turn().expect("planned");
    assert_eq!((world.says(Available), world.says(Ready)), ("True Serving".into(), "False LoadFailed".into()));
    assert_eq!(world.condition(Ready).message, "node b: the disk is full");
    assert_eq!(world.endpoints(), ["a+", "b+"], "b serves the earlier generation");
}

#[test]
fn what_is_not_ours_is_not_touched() {
    let mut world = World::new(&["a"], 1);
    world.foreign = true;
    let rejection = world.turn().expect_err("rejected");
    assert!(rejection.again < Duration::from_secs(60), "nobody tells us when it goes");
    assert_eq!(
        (world.says(Ready), world.says(Placed)),
        ("False ServiceConflict".into(), "False ServiceConflict".into())
    );
    assert!(world.assigned.is_none());
    world.foreign = false;
    world.turn().expect("planned");
    world.slice = Child::Leftover;
    assert_eq!(world.turn().expect_err("rejected").reason, Reason::Waiting);
    world.slice = Child::Missing;
    world.port = None;
    world.turn().expect_err("rejected");
    assert_eq!(world.says(Ready), "False NoPort");
    world.port = Some(20_001);
    world.service.spec.revision.instance.memory.0 = "much".into();
    world.turn().expect_err("rejected");
    assert_eq!((world.says(Resolved), world.says(Ready)), ("False InvalidSpec".into(), "False InvalidSpec".into()));
}

/// Things that happen.
#[derive(Clone, Debug)]
enum Happening {
    Connect(usize),
    Disconnect(usize, u64),
    Pod(usize, bool),
    Load(usize),
    Scale(i32),
    Build(u8),
    TakeOver,
}

fn happening() -> impl Strategy<Value = Happening> {
    let shim = 0..3usize;
    prop_oneof![
        shim.clone().prop_map(Happening::Connect),
        (shim.clone(), 0..30u64).prop_map(|(s, t)| Happening::Disconnect(s, t)),
        (shim.clone(), any::<bool>()).prop_map(|(s, r)| Happening::Pod(s, r)),
        shim.prop_map(Happening::Load),
        (1..6i32).prop_map(Happening::Scale),
        (0..4u8).prop_map(Happening::Build),
        Just(Happening::TakeOver),
    ]
}

proptest! {
    #[test]
    fn whatever_happens(happenings in proptest::collection::vec(happening(), 1..60)) {
        let mut world = World::new(&["a", "b", "c"], 2);
        // What each shim really has: an operator that takes over learns it from Hello.
        let mut has: [Option<u64>; 3] = [None; 3];
        let mut highest = 0;
        for happening in happenings {
            match happening {
                Happening::Connect(i) => {
                    let shim = &mut world.shims[i];
                    (shim.connected, shim.matches, shim.silent, shim.serves) = (true, true, Duration::ZERO, has[i]);
                }
                Happening::Disconnect(i, seconds) => {
                    let shim = &mut world.shims[i];
                    (shim.connected, shim.silent) = (false, Duration::from_secs(seconds));
                }
                Happening::Pod(i, ready) => world.shims[i].pod_ready = ready,
                Happening::Load(i) => {
                    let shim = &mut world.shims[i];
                    let told = world.assigned.as_ref().filter(|a| a.budgets.contains_key(&shim.pod_uid));
                    if let Some(told) = told.filter(|_| shim.connected) {
                        prop_assert!(Some(told.generation) >= has[i], "an older generation would be refused");
                        has[i] = Some(told.generation);
                        shim.serves = has[i];
                    }
                }
                Happening::Scale(replicas) => world.change(|s| s.spec.replicas = Some(replicas)),
                Happening::Build(0) => world.build = rejected(Reason::ImportDenied, false),
                Happening::Build(1) => world.build = BuildState::Pending(Phase::Compiling),
                Happening::Build(n) => world.build = built(&n.to_string()),
                Happening::TakeOver => world.take_over(),
            }
            let served = world.slice.ours().is_some_and(|_| world.endpoints().iter().any(|e| e.ends_with('+')));
            world.turn().expect("planned");
            if let Some(record) = recorded(world.slice()) {
                prop_assert!(record.generation >= highest);
                highest = record.generation;
                let total: u32 = record.nodes.values().map(|n| n.replicas).sum();
                prop_assert!(total > 0);
                prop_assert!(record.nodes.values().all(|n| n.budget == n.replicas * 100));
            }
            for (shim, has) in world.shims.iter().zip(has) {
                let sign = world.endpoints().iter().find_map(|e| e.strip_prefix(&shim.node).map(str::to_owned));
                prop_assert!(sign.as_deref() != Some("+") || has.is_some(), "{shim:?} has nothing to serve");
            }
            // Fail static: no pod has gone in this world, so what serves is never taken off line.
            prop_assert!(!served || world.endpoints().iter().any(|e| e.ends_with('+')), "{:?}", world.endpoints());
        }
    }
}
