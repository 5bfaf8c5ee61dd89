//! Scenes in which the engine is replaced, and in which what is recorded is older than what shims serve.

use super::*;
use crate::reconcile::plan::{Settled, settled};
use std::collections::BTreeSet;

/// A leader that compiles for a new engine, before it has compiled; shims of the old one, which it cannot give anything.
fn upgraded(mut world: World) -> World {
    let serves: Vec<_> = world.shims.iter().map(|shim| shim.serves).collect();
    world.take_over();
    for (shim, serves) in world.shims.iter_mut().zip(serves) {
        (shim.connected, shim.serves) = (true, serves);
    }
    world.turn().expect("planned");
    world
}

#[test]
fn while_the_engine_is_replaced_both_serve_and_the_service_stays_ready() {
    let mut world = upgraded(served(&["a", "b"], 2));
    assert_eq!((world.endpoints(), world.says(Ready)), (vec!["a+".into(), "b+".into()], "True Serving".into()));
    world.build = built_for("g", "one");
    world.turn().expect("planned");
    assert_eq!(world.generation(), 2, "there is something new to tell");
    assert_eq!((world.endpoints(), world.says(Ready)), (vec!["a+".into(), "b+".into()], "True Serving".into()));

    let joins = ShimView { pod_uid: "uid-new".into(), engine: "g".into(), ..shim("a") };
    world.shims.push(joins);
    world.turn().expect("planned");
    world.load();
    assert_eq!(world.endpoints(), ["a+", "a+", "b+"], "beside each other");
    let old = world.shims.iter_mut().find(|shim| shim.pod_uid == "uid-a").expect("the old one");
    old.terminating = true;
    world.turn().expect("planned");
    let mut endpoints = world.endpoints();
    endpoints.sort();
    assert_eq!((endpoints, world.says(Ready)), (vec!["a+".into(), "a~".into(), "b+".into()], "True Serving".into()));
}

#[test]
fn a_service_of_the_old_engine_only_changes_when_its_node_has_the_new_one() {
    let mut world = upgraded(served(&["a"], 1));
    world.change(|s| s.spec.revision.image = "r/hello:2".into());
    world.build = built_for("g", "two");
    world.turn().expect("planned");
    assert_eq!((world.endpoints(), world.says(Available)), (vec!["a+".into()], "True EarlierGeneration".into()));
    let joins = ShimView { pod_uid: "uid-new".into(), engine: "g".into(), ..shim("a") };
    world.shims.push(joins);
    world.turn().expect("planned");
    world.load();
    assert_eq!(world.says(Available), "True Serving");
}

#[test]
fn what_shims_serve_is_not_what_an_older_record_says() {
    let mut world = served(&["a"], 1);
    let (service, slices) = (world.service.clone(), world.slices.clone());
    world.change(|s| s.spec.revision.image = "r/hello:2".into());
    world.build = built("two");
    world.turn().expect("planned");
    world.load();
    // The API server is restored from a copy of before the change; nobody else has noticed.
    (world.service, world.slices, world.build) = (service, slices, built("one"));
    world.turn().expect("planned");
    assert_eq!((world.generation(), world.endpoints()), (3, vec!["a+".to_owned()]));
    assert_eq!(world.says(Available), "True EarlierGeneration", "another one, at any rate");
    world.load();
    assert_eq!((world.says(Available), world.says(Ready)), ("True Serving".into(), "True Serving".into()));
}

#[test]
fn what_a_shim_says_of_a_service_that_it_was_not_given_is_no_reason_to_tell_the_others_anything() {
    let mut world = served(&["a", "b"], 1);
    let before = (world.slice().clone(), world.service.status.clone());
    let has = world.slice().endpoints[0].node_name.clone().expect("a node");
    let other = if has == "a" { "b" } else { "a" };
    world.at(other).serves = Some(1000);
    world.turn().expect("planned");
    assert_eq!((world.slice().clone(), world.service.status.clone()), before);
    // When it is given the service, it is told what it does not refuse.
    world.change(|s| s.spec.replicas = Some(2));
    world.turn().expect("planned");
    assert_eq!(world.generation(), 1001);
}

/// A shim of another kind of machine.
fn arm(node: &str) -> ShimView {
    ShimView { engine: "arm".into(), target: "aarch64".into(), ..shim(node) }
}

#[test]
fn a_new_kind_of_node_gets_its_artifact_before_it_gets_placements() {
    let mut world = served(&["a"], 2);
    world.shims.push(arm("b"));
    world.nodes.insert("b".into(), NodeFacts::default());
    world.other_targets.insert(Target::Aarch64, BuildState::Pending(Phase::Compiling { seconds: None }));
    world.turn().expect("planned");
    assert_eq!((world.endpoints(), world.says(Ready)), (vec!["a+".into()], "True Serving".into()));
    assert_eq!(world.condition(Precompiled).message, "7 bytes for t, being made for aarch64");
    assert_eq!(world.generation(), 1, "nothing has changed");

    world.other_targets.insert(Target::Aarch64, built_for("arm", "one"));
    world.turn().expect("planned");
    assert_eq!(world.endpoints(), ["a+", "b-"], "it has to load it first");
    world.load();
    assert_eq!((world.endpoints(), world.says(Ready)), (vec!["a+".into(), "b+".into()], "True Serving".into()));
    let artifacts = &world.service.status.as_ref().expect("a status").artifacts;
    assert_eq!(artifacts.iter().map(|artifact| artifact.fingerprint.as_str()).collect::<Vec<_>>(), ["f", "arm"]);
}

#[test]
fn where_there_is_no_artifact_for_it_is_said() {
    let mut world = World::new(&[], 1);
    world.shims.push(arm("b"));
    world.nodes.insert("b".into(), NodeFacts::default());
    world.turn().expect("planned");
    assert_eq!(world.says(Placed), "False NoNode");
    assert_eq!(world.condition(Placed).message, "0/1 nodes fit: 1 had no artifact for aarch64 yet");
    // Of another component it is none.
    world.other_targets.insert(Target::Aarch64, built_for("arm", "two"));
    world.turn().expect("planned");
    assert_eq!(world.says(Placed), "False NoNode");
    world.other_targets.insert(Target::Aarch64, built_for("arm", "one"));
    world.turn().expect("planned");
    world.load();
    assert_eq!((world.endpoints(), world.says(Ready)), (vec!["b+".into()], "True Serving".into()));
}

#[test]
fn a_node_serves_on_what_it_has_until_the_new_one_is_made_for_it() {
    let mut world = served(&["a"], 2);
    world.shims.push(arm("b"));
    world.nodes.insert("b".into(), NodeFacts::default());
    world.other_targets.insert(Target::Aarch64, built_for("arm", "one"));
    world.turn().expect("planned");
    world.load();
    world.change(|s| s.spec.revision.image = "r/hello:2".into());
    world.build = built("two");
    world.other_targets.insert(Target::Aarch64, rejected(Reason::CompileFailed, false));
    world.turn().expect("planned");
    world.load();
    assert_eq!((world.endpoints(), world.says(Ready)), (vec!["a+".into(), "b+".into()], "Unknown Loading".into()));
    assert_eq!(world.condition(Precompiled).message, "7 bytes for t, none for aarch64: mend the image");
    world.other_targets.insert(Target::Aarch64, built_for("arm", "two"));
    world.turn().expect("planned");
    world.load();
    assert_eq!(world.says(Ready), "True Serving");
}

#[test]
fn code_that_is_compiled_once_more_is_no_news() {
    let mut world = served(&["a"], 1);
    let BuildState::Ready(before) = world.build.clone() else { panic!("built") };
    let seal = Seal { made_at: "2026-02-01T12:00:00Z".into(), ..before.seal.clone() };
    let sealed = SealKey::from_random([1; 32]).seal(&seal).expect("sealed");
    world.build = BuildState::Ready(Arc::new(Built { seal, sealed, ..(*before).clone() }));
    world.turn().expect("planned");
    assert_eq!(world.generation(), 1);
}

#[test]
fn a_shim_of_another_kind_does_not_take_a_place_before_it_has_what_serves_there() {
    let mut world = served(&["a"], 1);
    world.shims.push(ShimView { pod_uid: "uid-new".into(), ..arm("a") });
    let nodes = BTreeSet::from(["a".to_owned()]);
    for (state, want) in [
        (BuildState::Pending(Phase::Compiling { seconds: None }), Settled::Making),
        (rejected(Reason::RegistryUnreachable, true), Settled::Stuck(nodes)),
        (rejected(Reason::CompileFailed, false), Settled::Yes),
        (built_for("arm", "one"), Settled::Yes),
    ] {
        world.other_targets.insert(Target::Aarch64, state);
        let observed = world.observed();
        let plan = plan(&observed, &world.others, &settings()).expect("a plan");
        assert_eq!(settled(&observed, Ok(&plan.facts)), want);
    }
}

#[test]
fn a_new_leader_assigns_nothing_before_there_is_code_for_all_kinds_of_nodes_again() {
    let engine = podless_engine::fingerprint(Target::Aarch64);
    let mut world = served(&["a"], 2);
    world.shims.push(ShimView { engine: engine.clone(), ..arm("b") });
    world.nodes.insert("b".into(), NodeFacts::default());
    world.other_targets.insert(Target::Aarch64, built_for(&engine, "one"));
    world.turn().expect("planned");
    world.load();
    let before = (world.slice().clone(), world.service.status.clone());
    let serves: Vec<_> = world.shims.iter().map(|shim| shim.serves).collect();
    world.take_over();
    for (shim, serves) in world.shims.iter_mut().zip(serves) {
        (shim.connected, shim.matches, shim.serves) = (true, true, serves);
    }
    world.build = built("one");
    world.other_targets.insert(Target::Aarch64, BuildState::Pending(Phase::Resolving));
    world.turn().expect("planned");
    assert!(world.assigned.is_none());
    assert_eq!((world.slice().clone(), world.service.status.clone()), before);
    world.other_targets.insert(Target::Aarch64, built_for(&engine, "one"));
    world.turn().expect("planned");
    assert!(world.assigned.is_some());
    assert_eq!((world.slice().clone(), world.service.status.clone()), before, "nothing has changed");

    // A new revision waits for no kind of node, nor does anything wait for what cannot be made.
    world.take_over();
    world.build = built("two");
    world.change(|s| s.spec.revision.image = "r/hello:2".into());
    world.other_targets.insert(Target::Aarch64, BuildState::Pending(Phase::Resolving));
    assert!(matches!(world.observed().build, BuildState::Ready(_)));
}
