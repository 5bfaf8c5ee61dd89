//! What single fields of the spec do: environment, grants, replicas, placement; and what a new leader says of them.

use super::*;
use crate::{
    autoscale::{Mode, Why},
    nodes::facts::ZONE,
};
use podless_crds::Scaling;

#[test]
fn a_secret_that_changes_is_rolled_out_and_one_that_goes_stops_nothing() {
    let mut world = World::new(&["a"], 1);
    world.service.spec.revision.env = from_secret(false);
    world.turn().expect("planned");
    assert_eq!((world.says(Placed), world.says(Ready)), ("False EnvInvalid".into(), "False EnvInvalid".into()));
    assert!(world.condition(Ready).message.contains(r#"Secret "s" is not in this namespace"#));
    assert!(world.assigned.is_none());

    world.found = secret(Some("hush-1"));
    world.turn().expect("planned");
    world.load();
    assert_eq!((world.says(Ready), world.generation()), ("True Serving".into(), 1));
    world.found = secret(Some("hush-2"));
    world.turn().expect("planned");
    assert_eq!(
        (world.says(Ready), world.generation()),
        ("Unknown Loading".into(), 2),
        "without a change of the object"
    );
    world.load();
    let value = |world: &World| {
        world.assigned.clone().expect("assigned").content.env.iter().map(|(_, v)| v.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((world.says(Ready), value(&world)), ("True Serving".into(), vec!["hush-2".to_owned()]));

    world.found = secret(None);
    world.turn().expect("planned");
    assert_eq!((world.says(Ready), world.says(Available)), ("False EnvInvalid".into(), "True Serving".into()));
    assert_eq!((world.endpoints(), value(&world)), (vec!["a+".to_owned()], vec!["hush-2".to_owned()]));
    // A shim that joins gets what the others have, and another leader moves nothing.
    world.shims.push(ShimView { pod_uid: "uid-new".into(), ..shim("a") });
    world.turn().expect("planned");
    assert!(world.assigned.clone().expect("assigned").budgets.contains_key("uid-new"));
    world.shims.pop();
    world.take_over();
    world.build = built("one");
    world.turn().expect("planned");
    assert_eq!(world.endpoints(), ["a+"]);
    let told = format!("{:?} {:?} {:?}", world.service.status, world.slice(), world.observed());
    assert!(!told.contains("hush"), "{told}");

    world.found = secret(Some("hush-2"));
    let a = world.at("a");
    (a.connected, a.matches, a.serves) = (true, true, Some(2));
    world.turn().expect("planned");
    assert_eq!((world.says(Ready), world.generation()), ("True Serving".into(), 2), "it is what the shims have");
}

#[test]
fn what_is_granted_is_told() {
    let mut world = World::new(&["a"], 1);
    let granted = json!({"outboundHttp": {"allowedHosts": ["https://a.example"], "allowedCidrs": ["10.0.0.0/8"]}});
    world.service.spec.revision.capabilities = serde_json::from_value(granted).expect("capabilities");
    world.turn().expect("planned");
    let assigned = world.assigned.clone().expect("assigned");
    let told = assigned.content.assignment(&assigned.service, 1, 20_001, 1, &assigned.content.artifacts["f"]);
    let outbound = told.grants.and_then(|grants| grants.outbound_http).expect("a grant");
    assert_eq!(
        (outbound.allowed_hosts, outbound.allowed_cidrs),
        (vec!["https://a.example".into()], vec!["10.0.0.0/8".into()])
    );
}

#[test]
fn how_often_instances_are_used_is_told_and_is_a_new_generation() {
    let mut world = served(&["a"], 1);
    let told = |world: &World| {
        let assigned = world.assigned.clone().expect("assigned");
        let told = assigned.content.assignment(&assigned.service, 1, 20_001, 1, &assigned.content.artifacts["f"]);
        [told.max_invocations, told.max_concurrency, told.pool_size, told.idle_seconds]
    };
    assert_eq!(told(&world), [None; 4], "the shims' defaults");
    let before = world.generation();
    let instance = json!({"maxInvocations": 7, "maxConcurrency": 3, "poolSize": 0, "idleSeconds": 60});
    world.change(|s| s.spec.revision.instance = serde_json::from_value(instance).expect("an instance"));
    world.turn().expect("planned");
    assert_eq!(told(&world), [Some(7), Some(3), Some(0), Some(60)]);
    assert!(world.generation() > before);
}

#[test]
fn stopped_is_an_answer_and_not_a_failure() {
    let mut world = served(&["a", "b"], 2);
    world.change(|s| s.spec.replicas = Some(0));
    world.turn().expect("planned");
    assert_eq!(world.says(Ready), "Unknown Loading", "the shims must be told first");
    let assigned = world.assigned.clone().expect("assigned");
    assert_eq!(assigned.budgets.values().copied().collect::<Vec<_>>(), [0, 0]);
    world.load();
    assert_eq!(world.endpoints(), ["a+", "b+"], "who asks is answered");
    assert_eq!((world.says(Ready), world.says(Available)), ("True Stopped".into(), "False Stopped".into()));
    assert_eq!(world.says(Placed), "True Done");
    let status = world.service.status.clone().expect("a status");
    assert_eq!((status.replicas, status.ready_replicas, status.placements.len()), (0, 0, 0));
    assert_eq!(status.selector.as_deref(), Some("podless.dev/service=hello"));
    // Another leader sees the same.
    let before = (world.slice().clone(), world.service.status.clone());
    world.take_over();
    world.turn().expect("planned");
    assert_eq!((world.slice().clone(), world.service.status.clone()), before);
    world.build = built("one");
    for node in ["a", "b"] {
        let shim = world.at(node);
        (shim.connected, shim.matches, shim.serves) = (true, true, Some(2));
    }
    world.turn().expect("planned");
    assert_eq!((world.slice().clone(), world.service.status.clone()), before);

    world.change(|s| s.spec.replicas = Some(1));
    world.turn().expect("planned");
    world.load();
    assert_eq!(world.says(Ready), "True Serving");

    let mut fresh = World::new(&["a", "b", "c"], 0);
    fresh.turn().expect("planned");
    fresh.load();
    assert_eq!((fresh.endpoints().len(), fresh.says(Ready)), (1, "True Stopped".into()));
    fresh.change(|s| s.spec.revision.image = "r/hello:broken".into());
    fresh.build = rejected(Reason::CoreModule, false);
    fresh.turn().expect("planned");
    assert_eq!(fresh.says(Ready), "False CoreModule");
}

#[test]
fn what_does_not_fit_is_said_and_what_fits_is_placed() {
    let mut world = World::new(&["a", "b"], 1);
    world.nodes.insert("c".into(), NodeFacts::default());
    let selector = |key: &str| BTreeMap::from([(key.to_owned(), "yes".to_owned())]);
    world.service.spec.node_selector = selector("fast");
    world.turn().expect("planned");
    assert_eq!((world.says(Placed), world.says(Ready)), ("False NoNode".into(), "False NoNode".into()));
    let why =
        "0/3 nodes fit: 1 had no shim that is connected and runs this operator's engine, 2 didn't match nodeSelector";
    assert_eq!(world.condition(Placed).message, why);
    world.nodes.get_mut("a").expect("a").labels = selector("fast");
    world.turn().expect("planned");
    world.load();
    assert_eq!((world.endpoints(), world.says(Ready)), (vec!["a+".to_owned()], "True Serving".into()));

    // Where nothing fits any more, it goes on serving, and where something else fits, it moves.
    world.change(|s| s.spec.node_selector = selector("slow"));
    world.turn().expect("planned");
    world.load();
    assert_eq!((world.endpoints(), world.says(Ready)), (vec!["a+".to_owned()], "False NoNode".into()));
    assert_eq!(world.says(Available), "True Serving");
    world.nodes.get_mut("b").expect("b").labels = selector("slow");
    world.turn().expect("planned");
    assert_eq!(world.endpoints(), ["a+", "b-"], "make before break");
    world.load();
    assert_eq!((world.endpoints(), world.says(Ready)), (vec!["b+".to_owned()], "True Serving".into()));

    // Five of two CPUs on two nodes that have four each, of which another service takes some.
    let mut world = World::new(&["a", "b"], 5);
    for node in ["a", "b"] {
        world.nodes.get_mut(node).expect("a node").cpu_millis = Some(4000);
    }
    world.service.spec.resources = serde_json::from_value(json!({"requests": {"cpu": 2}})).expect("resources");
    world.turn().expect("planned");
    world.load();
    assert_eq!((world.says(Placed), world.says(Available)), ("False NoNode".into(), "True Serving".into()));
    assert_eq!(world.condition(Ready).message, "4 of 5 replicas placed: 0/2 nodes fit more: 2 had insufficient cpu");
    world.others.insert("b".into(), Cost { slots: 1, cpu_millis: 1, memory: 0 });
    world.turn().expect("planned");
    assert!(world.condition(Placed).message.starts_with("3 of 5 replicas placed"), "{:?}", world.condition(Placed));
    world.change(|s| s.spec.replicas = Some(3));
    world.turn().expect("planned");
    world.load();
    assert_eq!(world.says(Ready), "True Serving");
}

#[test]
fn a_service_is_kept_off_a_node_by_its_affinity_and_moves_when_that_changes() {
    let but = |node: &str| -> Option<podless_crds::Affinity> {
        let named = json!({"key": "metadata.name", "operator": "NotIn", "values": [node]});
        let terms = json!({"nodeSelectorTerms": [{"matchFields": [named]}]});
        let required = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}});
        Some(serde_json::from_value(required).expect("an affinity"))
    };
    let mut world = World::new(&["a", "b"], 1);
    world.service.spec.affinity = but("a");
    world.turn().expect("planned");
    world.load();
    assert_eq!((world.endpoints(), world.says(Ready)), (vec!["b+".to_owned()], "True Serving".into()));
    world.change(|s| s.spec.affinity = but("b"));
    world.turn().expect("planned");
    assert_eq!(world.endpoints(), ["a-", "b+"], "make before break");
    world.load();
    assert_eq!((world.endpoints(), world.says(Ready)), (vec!["a+".to_owned()], "True Serving".into()));

    // The watch does not show its Node: it stays, whatever it requires.
    world.nodes.remove("a");
    world.turn().expect("planned");
    assert_eq!((world.endpoints(), world.says(Ready)), (vec!["a+".to_owned()], "True Serving".into()));
    world.nodes = BTreeMap::from([("b".to_owned(), NodeFacts::default())]);
    world.shims.retain(|shim| shim.node == "b");
    world.turn().expect("planned");
    assert_eq!(world.condition(Placed).message, "0/1 nodes fit: 1 didn't match node affinity/selector");
}

#[test]
fn what_evens_out_the_nodes_is_a_move_like_any_other() {
    let mut world = served(&["a", "b"], 1);
    let (from, to) = match world.endpoints()[0].as_str() {
        "a+" => ("a", "b"),
        _ => ("b", "a"),
    };
    let moved = Move { service: "u".into(), from: from.into(), to: to.into() };
    let (stays, goes) = (vec![format!("{from}+")], vec![format!("{to}+")]);

    // What has come between: it fits there no more, and stays.
    world.rebalance = Some(moved.clone());
    world.service.spec.resources = serde_json::from_value(json!({"requests": {"cpu": 1}})).expect("resources");
    world.nodes.get_mut(to).expect("a node").cpu_millis = Some(500);
    let generation = world.generation();
    world.turn().expect("planned");
    assert_eq!((world.endpoints(), world.generation()), (stays.clone(), generation));

    world.nodes.get_mut(to).expect("a node").cpu_millis = None;
    world.turn().expect("planned");
    world.rebalance = None;
    let mut both = [format!("{from}+"), format!("{to}-")];
    both.sort();
    assert_eq!(world.endpoints(), both, "make before break");
    world.load();
    assert_eq!((world.endpoints(), world.says(Ready)), (goes.clone(), "True Serving".to_owned()));
    world.turn().expect("planned");
    assert_eq!(world.endpoints(), goes, "it stays there");
}

#[test]
fn a_new_leader_repeats_nothing_of_what_is_broken() {
    let mut broken = World::new(&["a"], 1);
    broken.build = rejected(Reason::CoreModule, false);
    broken.turn().expect("planned");
    let mut unplaced = World::new(&["a"], 1);
    unplaced.service.spec.node_selector = BTreeMap::from([("fast".to_owned(), "yes".to_owned())]);
    unplaced.turn().expect("planned");
    for (mut world, build) in [(broken, rejected(Reason::CoreModule, false)), (unplaced, built("one"))] {
        let before = world.service.status.clone();
        world.take_over();
        world.patience = Duration::from_secs(20);
        world.turn().expect("planned");
        assert_eq!(world.service.status, before, "nothing is known yet");
        world.build = build;
        world.turn().expect("planned");
        assert_eq!(world.service.status, before, "no shim has connected yet");
        let a = world.at("a");
        (a.connected, a.matches) = (true, true);
        world.patience = Duration::ZERO;
        world.turn().expect("planned");
        assert_eq!(world.service.status, before);
    }
}

fn scaled_to(world: &mut World, desired: u32) {
    let why = if desired == 0 { Why::Idle } else { Why::Load };
    let mode = if desired == 0 { Mode::Parked } else { Mode::Stable };
    world.decided = Some(Decision { desired, mode, current: 300.4, target: 70.0, why });
    world.turn().expect("planned");
}

fn ready(world: &World) -> Vec<String> {
    world.endpoints().into_iter().filter(|endpoint| endpoint.ends_with('+')).collect()
}

#[test]
fn what_is_scaled_to_zero_waits_on_its_nodes_and_is_ready() {
    let mut world = World::new(&["a", "b", "c"], 0);
    world.service.spec.replicas = None;
    scaled_to(&mut world, 0);
    world.load();
    let assigned = world.assigned.clone().expect("assigned");
    assert!(assigned.parked);
    assert_eq!(assigned.budgets.values().collect::<Vec<_>>(), [&2000, &2000], "as much as 20 replicas take");
    let waiting = ready(&world);
    assert_eq!(waiting.len(), 2, "{waiting:?}");
    assert_eq!(
        [Placed, Available, Ready].map(|kind| world.says(kind)),
        ["True Done", "True Parked", "True Parked"].map(String::from)
    );
    let status = world.service.status.clone().expect("a status");
    assert_eq!((status.replicas, status.desired_replicas, status.placements.len()), (0, Some(0), 2));
    assert!(world.takes.values().all(|cost| *cost == Cost::default()), "it takes nothing of them");

    // A request has come: who has it serves on while others load it.
    scaled_to(&mut world, 3);
    assert_eq!((ready(&world), world.says(Ready)), (waiting.clone(), "True Serving".to_owned()));
    assert!(!world.assigned.clone().expect("assigned").parked);
    world.load();
    assert_eq!((ready(&world).len(), world.says(Ready)), (3, "True Serving".to_owned()));
    let status = world.service.status.clone().expect("a status");
    let scaling = status.scaling.clone().expect("a decision");
    assert_eq!((status.replicas, &*scaling.current, &*scaling.target), (3, "300", "70"));
    assert!(scaling.reason.contains("300 requests in flight"), "{}", scaling.reason);
    assert!(scaling.last_scale_time.is_some());

    // Figures move all the time: only a decision is written.
    let generation = world.generation();
    world.decided.as_mut().expect("decided").current = 123.0;
    world.turn().expect("planned");
    assert_eq!((world.service.status.clone(), world.generation()), (Some(status), generation));

    // And back: those that wait have it already.
    scaled_to(&mut world, 0);
    assert_eq!((ready(&world), world.says(Ready)), (waiting.clone(), "True Parked".to_owned()));
    world.load();

    // Another image: it is Ready when all who wait have it.
    world.change(|s| s.spec.revision.image = "r/hello:2".into());
    world.build = built("two");
    world.turn().expect("planned");
    assert_eq!(world.says(Ready), "Unknown Loading");
    world.load();
    assert_eq!(world.says(Ready), "True Parked");
    assert_eq!((ready(&world), world.says(Ready)), (waiting.clone(), "True Parked".to_owned()));

    // A new leader that has heard of no shim moves nothing and says nothing else.
    let (generation, status) = (world.generation(), world.service.status.clone());
    world.take_over();
    world.patience = GRACE;
    world.turn().expect("planned");
    world.build = built("two");
    world.turn().expect("planned");
    assert_eq!((ready(&world), world.generation(), world.service.status.clone()), (waiting, generation, status));
}

#[test]
fn what_is_parked_says_where_it_fits_nowhere() {
    let mut world = World::new(&["a", "b"], 0);
    world.service.spec.replicas = None;
    world.service.spec.node_selector = BTreeMap::from([("disk".to_owned(), "fast".to_owned())]);
    scaled_to(&mut world, 0);
    assert_eq!((world.says(Placed), world.says(Ready)), ("False NoNode".to_owned(), "False NoNode".to_owned()));
    let message = world.condition(Ready).message;
    assert_eq!(message, "0/2 nodes fit: 2 didn't match nodeSelector");
}

#[test]
fn endpoints_name_the_zone_of_their_node() {
    let mut world = World::new(&["a", "b"], 2);
    let zoned = NodeFacts { labels: BTreeMap::from([(ZONE.to_owned(), "west".to_owned())]), ..NodeFacts::default() };
    world.nodes.insert("a".into(), zoned);
    world.turn().expect("planned");
    let zones: Vec<_> = world.slice().endpoints.iter().map(|endpoint| endpoint.zone.as_deref()).collect();
    assert_eq!(zones, [Some("west"), None]);
}

#[test]
fn a_load_that_wants_more_than_there_is_makes_nothing_unready() {
    let mut world = World::new(&["a", "b"], 0);
    world.service.spec.replicas = None;
    for node in ["a", "b"] {
        world.at(node).slots = Some(200);
    }
    scaled_to(&mut world, 4);
    world.load();
    assert_eq!(world.says(Ready), "True Serving");
    scaled_to(&mut world, 5);
    world.load();
    assert_eq!((world.says(Placed), world.says(Ready)), ("False NoNode".to_owned(), "True Serving".to_owned()));
    let budgets =
        |world: &World| world.assigned.clone().expect("assigned").budgets.values().copied().collect::<Vec<_>>();
    assert_eq!(budgets(&world), [2000, 2000], "however many there are, no node takes less");
    world.service.spec.scaling = Some(Scaling { min_replicas: 5, ..Scaling::default() });
    scaled_to(&mut world, 5);
    world.load();
    assert_eq!(world.says(Ready), "False NoNode", "so many there must be");
}

#[test]
fn who_is_left_is_told_what_is_true_now() {
    let mut world = served(&["a", "b", "c"], 3);
    world.change(|s| s.spec.replicas = Some(2));
    world.turn().expect("planned");
    assert!(world.assigned.clone().expect("assigned").beside.is_empty() == (world.endpoints().len() == 3));
    world.load();
    let assigned = world.assigned.clone().expect("assigned");
    assert_eq!((assigned.budgets.len(), assigned.beside.values().copied().collect::<Vec<_>>()), (2, vec![100]));
    let (left, generation) = (assigned.beside.keys().next().expect("one").clone(), assigned.generation);
    assert!(assigned.share(&left).is_some_and(|share| share.parked));
    // Who only says that it has it is told nothing.
    world.shims.push(ShimView { serves: Some(1), ..shim("liar") });
    world.turn().expect("planned");
    let assigned = world.assigned.clone().expect("assigned");
    assert_eq!((assigned.beside.keys().collect::<Vec<_>>(), assigned.share("uid-liar")), (vec![&left], None));
    world.shims.pop();
    // Nothing new is said when it has heard it; a change of what is served is.
    world.turn().expect("planned");
    assert_eq!(world.generation(), generation);
    world.change(|s| s.spec.revision.image = "r/hello:2".into());
    world.build = built("two");
    world.turn().expect("planned");
    let assigned = world.assigned.clone().expect("assigned");
    assert_eq!(
        (assigned.beside.keys().collect::<Vec<_>>(), assigned.content.image.digest.as_str()),
        (vec![&left], "sha256:two")
    );
    world.change(|s| s.spec.replicas = Some(0));
    world.turn().expect("planned");
    assert!(world.assigned.clone().expect("assigned").beside.values().all(|budget| *budget == 0), "stopped there too");
}
