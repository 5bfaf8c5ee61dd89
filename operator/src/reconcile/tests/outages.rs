//! What is out of sight or cannot be made for a while: nothing moves because of it, and no shim takes another's place.

use std::collections::BTreeSet;

use super::*;
use crate::{
    reconcile::plan::{Settled, resealed, settled},
    trust::Signing,
};

fn nodes_of(world: &World) -> BTreeMap<String, u32> {
    world.assigned.as_ref().expect("assigned").replicas.clone()
}

#[test]
fn when_nothing_is_heard_of_most_nodes_nothing_moves() {
    let mut world = served(&["a", "b", "c"], 3);
    let before = nodes_of(&world);
    // The API server was away: Nodes are NotReady, and shims have yet to find the leader.
    for node in ["b", "c"] {
        let shim = world.at(node);
        (shim.connected, shim.pod_ready, shim.silent) = (false, false, GRACE * 2);
    }
    world.turn().expect("planned");
    assert_eq!(nodes_of(&world), before);
    assert_eq!(world.endpoints(), ["a+", "b-", "c-"], "new connections go where somebody is heard of");
    // Somebody has looked for one of them in vain: so many nodes are lost indeed.
    world.at("c").ejected = true;
    world.turn().expect("planned");
    assert_eq!(nodes_of(&world), BTreeMap::from([("a".to_owned(), 3)]));
}

#[test]
fn where_a_shim_is_connected_a_node_that_vanished_keeps_what_it_has() {
    let selector = BTreeMap::from([("fast".to_owned(), "yes".to_owned())]);
    let mut world = World::new(&["a", "b"], 2);
    world.service.spec.node_selector = selector.clone();
    for node in ["a", "b"] {
        world.nodes.get_mut(node).expect("a node").labels = selector.clone();
    }
    world.turn().expect("planned");
    world.load();
    let before = nodes_of(&world);
    world.nodes.remove("a");
    world.turn().expect("planned");
    assert_eq!(nodes_of(&world), before);
    world.nodes.clear();
    world.turn().expect("planned");
    assert_eq!(nodes_of(&world), before);
    // Whether it has the labels is not known: it gets nothing that asks for them.
    world.take_over();
    (world.slices, world.build) = (Slices::new(), built("one"));
    for node in ["a", "b"] {
        (world.at(node).connected, world.at(node).matches) = (true, true);
    }
    world.turn().expect("planned");
    assert_eq!((world.says(Placed), world.assigned.is_none()), ("False NoNode".into(), true));
}

/// What a joining shim is to do.
fn asks_of_a_joining_shim(world: &World) -> Settled {
    let observed = world.observed();
    match plan(&observed, &world.others, &settings()) {
        Ok(plan) => settled(&observed, Ok(&plan.facts)),
        Err(rejected) => settled(&observed, Err(&rejected)),
    }
}

#[test]
fn who_takes_a_shims_place_waits_for_what_that_one_serves() {
    let mut fresh = World::new(&["a"], 1);
    for build in [BuildState::Pending(Phase::Resolving), rejected(Reason::RegistryUnreachable, true), built("one")] {
        fresh.build = build;
        assert_eq!(asks_of_a_joining_shim(&fresh), Settled::Yes, "nobody serves it");
    }

    let stuck = Settled::Stuck(BTreeSet::from(["a".to_owned()]));
    let mut world = served(&["a"], 1);
    assert_eq!(asks_of_a_joining_shim(&world), Settled::Yes, "it is told");
    world.take_over();
    world.shims.push(ShimView { pod_uid: "uid-new".into(), ..shim("a") });
    for heard_of in [false, true] {
        if heard_of {
            let old = &mut world.shims[0];
            (old.connected, old.matches, old.serves) = (true, true, Some(1));
        }
        for (build, env, want) in [
            (BuildState::Pending(Phase::Compiling { seconds: None }), false, Settled::Making),
            (rejected(Reason::RegistryUnreachable, true), false, stuck.clone()),
            (rejected(Reason::CoreModule, false), false, Settled::Yes),
            (built("one"), true, stuck.clone()),
            (built("one"), false, Settled::Yes),
        ] {
            world.service.spec.revision.env = if env { from_secret(false) } else { vec![] };
            world.build = build;
            assert_eq!(asks_of_a_joining_shim(&world), want, "{:?}, env missing: {env}", world.build);
        }
        world.foreign = true;
        assert_eq!(asks_of_a_joining_shim(&world), stuck, "somebody may delete what is in the way");
        world.foreign = false;
    }
    world.build = rejected(Reason::RegistryUnreachable, true);
    world.shims[0].terminating = true;
    assert_eq!(asks_of_a_joining_shim(&world), Settled::Yes, "it ends whatever the other does");
}

#[test]
fn what_cannot_be_planned_is_sealed_anew_all_the_same() {
    let mut world = served(&["a"], 1);
    world.foreign = true;
    assert_eq!(world.turn().expect_err("rejected").reason, Reason::ServiceConflict);
    assert!(resealed(&world.observed()).is_none(), "the key is the same");
    let before = world.assigned.clone().expect("assigned");
    let content = Signing::new(SealKey::from_random([2; 32])).refresh(&before.content).expect("sealed");
    world.kept = Some(content.clone());
    let again = resealed(&world.observed()).expect("sealed anew");
    assert_eq!((again.generation, again.content.made()), (before.generation + 1, content.made()));
    assert_eq!((&again.replicas, &again.budgets), (&before.replicas, &before.budgets));
    world.at("a").serves = Some(again.generation);
    world.assigned = Some(Arc::new(again));
    assert!(resealed(&world.observed()).is_none(), "once");
    // When it can be planned again, shims take it as something newer; but it is the same, and stays ready.
    (world.foreign, world.build) = (false, rejected(Reason::RegistryUnreachable, true));
    world.turn().expect("planned");
    assert_eq!(recorded(world.slice()).expect("a record").since, before.generation);
    assert_eq!(world.says(Available), "True Serving");
    let planned = world.assigned.clone().expect("assigned");
    assert!(planned.generation > before.generation && planned.content.made() == content.made());
}

#[test]
fn a_node_that_comes_back_gets_connections_when_its_shim_has_connected() {
    let mut world = served(&["a", "b", "c"], 3);
    let c = world.at("c");
    (c.connected, c.silent) = (false, GRACE * 2);
    world.turn().expect("planned");
    assert_eq!(world.endpoints(), ["a+", "b+", "c+"], "its pod is Ready: it may have lost its link alone");
    world.at("c").pod_ready = false;
    world.turn().expect("planned");
    assert!(!world.endpoints().contains(&"c+".to_owned()));
    world.at("c").pod_ready = true;
    world.turn().expect("planned");
    assert!(!world.endpoints().contains(&"c+".to_owned()), "{:?}", world.endpoints());
    world.at("c").connected = true;
    world.turn().expect("planned");
    world.load();
    assert_eq!(world.endpoints(), ["a+", "b+", "c+"]);
}
