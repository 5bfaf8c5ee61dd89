//! Shims that are down, out of sight, ejected or slow, and who serves in their stead.

use super::*;

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
fn an_ejected_shim_loses_its_places_and_gets_them_back() {
    let mut world = served(&["a", "b", "c"], 3);
    let a = world.at("a");
    // Kubernetes has not noticed yet: its pod is Ready.
    (a.connected, a.silent, a.ejected) = (false, Duration::from_secs(2), true);
    world.turn().expect("planned");
    assert_eq!(world.endpoints(), ["b+", "c+"]);
    world.load();
    assert_eq!(world.endpoints(), ["b+", "c+"]);
    assert_eq!(world.says(Ready), "True Serving");
    let a = world.at("a");
    (a.connected, a.ejected) = (true, false);
    world.turn().expect("planned");
    world.load();
    assert_eq!(world.endpoints(), ["a+", "b+", "c+"]);
}

#[test]
fn a_slow_shim_gets_no_new_connections_while_others_can_take_them() {
    let mut world = served(&["a", "b", "c"], 3);
    let (places, generation) = (world.assigned.clone().expect("assigned").replicas.clone(), world.generation());
    world.at("a").slow = true;
    world.turn().expect("planned");
    assert_eq!(world.endpoints(), ["a-", "b+", "c+"]);
    assert_eq!(world.says(Ready), "True Serving");
    let assigned = world.assigned.clone().expect("assigned");
    assert_eq!((&assigned.replicas, assigned.generation), (&places, generation), "it keeps its place");
    world.at("b").slow = true;
    world.turn().expect("planned");
    assert_eq!(world.endpoints(), ["a+", "b+", "c+"], "one cannot take what three did");
    world.at("a").slow = false;
    (world.at("c").connected, world.at("c").pod_ready) = (false, false);
    world.turn().expect("planned");
    assert_eq!(world.endpoints(), ["a+", "b-", "c-"]);
    (world.at("a").connected, world.at("a").pod_ready) = (false, false);
    world.turn().expect("planned");
    assert_eq!(world.endpoints(), ["a-", "b+", "c-"], "slow is better than nobody");

    let mut world = served(&["a"], 1);
    world.at("a").slow = true;
    world.turn().expect("planned");
    assert_eq!(world.endpoints(), ["a+"]);
}

#[test]
fn kept_connections_leave_a_slow_shim_and_are_not_sent_back_to_it() {
    let mut world = served(&["a", "b", "c"], 3);
    world.at("a").slow = true;
    world.turn().expect("planned");
    assert_eq!(world.growth, [Growth::away("uid-a", 3)]);
    world.turn().expect("planned");
    assert_eq!(world.growth, [], "once");
    (world.at("a").slow, world.at("a").pardoned) = (false, true);
    world.turn().expect("planned");
    assert_eq!((world.endpoints(), &world.growth), (vec!["a+".into(), "b+".into(), "c+".into()], &vec![]));
    // Beside it, the service grows.
    (world.at("a").slow, world.at("a").pardoned) = (true, false);
    world.turn().expect("planned");
    world.shims.push(shim("d"));
    world.nodes.insert("d".into(), NodeFacts::default());
    world.change(|s| s.spec.replicas = Some(4));
    world.turn().expect("planned");
    (world.at("a").slow, world.at("a").pardoned) = (false, true);
    world.load();
    let all = ["uid-a", "uid-b", "uid-c", "uid-d"];
    let grown = Growth::between(&all[..3].iter().copied().collect(), &all.into());
    assert_eq!((world.endpoints().len(), &world.growth), (4, &Vec::from_iter(grown)));
}
