//! Scenes in which the engine is replaced, and in which what is recorded is older than what shims serve.

use super::*;

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

    let joins = ShimView { pod_uid: "uid-new".into(), ..shim("a") };
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
    let joins = ShimView { pod_uid: "uid-new".into(), ..shim("a") };
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
