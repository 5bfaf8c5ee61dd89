//! Who is told of a service that has hosts: every shim that may serve it, while it has some and until all know that it has
//! none any more.

use super::*;
use crate::nodes::facts::UNSCHEDULABLE;

/// It asks for this, and has it.
fn has(world: &mut World, hosts: &[&str]) {
    let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
    world.change(|s| s.spec.hosts.clone_from(&hosts));
    world.hosts.accepted = hosts;
    world.turn().expect("planned");
}

/// Every shim that is told loads what it was told; then a reconcile.
fn all_load(world: &mut World) {
    let assigned = world.assigned.clone().expect("assigned");
    for shim in world.shims.iter_mut().filter(|shim| shim.connected && assigned.share(&shim.pod_uid).is_some()) {
        shim.serves = Some(assigned.generation);
    }
    world.turn().expect("planned");
}

fn told(world: &World) -> Vec<(&str, u32, bool)> {
    let assigned = world.assigned.as_ref().expect("assigned");
    let share = |shim: &'_ ShimView| assigned.share(&shim.pod_uid);
    let each = world.shims.iter().filter_map(|shim| share(shim).map(|s| (shim.node.as_str(), s.budget, s.parked)));
    each.collect()
}

fn nodes_told(world: &World) -> Vec<&str> {
    told(world).into_iter().map(|(node, ..)| node).collect()
}

fn hosts_of(world: &World) -> Vec<String> {
    world.assigned.as_ref().expect("assigned").hosts.clone()
}

fn recorded_hosted(world: &World) -> bool {
    recorded(world.slice()).expect("a record").hosted
}

#[test]
fn every_shim_answers_for_hosts_and_keeps_nothing_in_memory_for_it() {
    let mut world = served(&["a", "b", "c"], 1);
    let (endpoints, generation) = (world.endpoints(), world.generation());
    assert_eq!(told(&world).len(), 1);
    has(&mut world, &["a.test"]);
    assert!(world.generation() > generation);
    let everywhere = told(&world);
    assert_eq!(
        (everywhere.len(), everywhere.iter().filter(|(_, budget, parked)| *parked && *budget == 100).count()),
        (3, 2)
    );
    all_load(&mut world);
    assert_eq!((world.endpoints(), world.says(Ready)), (endpoints, "True Serving".to_owned()), "no endpoint more");
    assert_eq!(world.says(ConditionType::HostsAccepted), "True Done");
    assert_eq!(world.service.status.as_ref().expect("a status").hosts, ["a.test"]);
    // A shim that comes is told too, and nobody else anything new.
    let generation = world.generation();
    world.shims.push(shim("d"));
    world.turn().expect("planned");
    assert_eq!((told(&world).len(), world.generation()), (4, generation));
    // Stopped it answers that it is.
    world.change(|s| s.spec.replicas = Some(0));
    world.turn().expect("planned");
    assert!(told(&world).iter().all(|(_, budget, _)| *budget == 0));
}

#[test]
fn who_has_no_hosts_any_more_is_told_so_everywhere() {
    let mut world = served(&["a", "b", "c"], 1);
    has(&mut world, &["a.test"]);
    all_load(&mut world);
    assert!(recorded_hosted(&world));
    // Another leader, which has told nobody anything, finds it taken away.
    world.assigned = None;
    has(&mut world, &[]);
    assert_eq!((told(&world).len(), hosts_of(&world)), (3, vec![]));
    assert!(recorded_hosted(&world), "two have not heard of it yet");
    all_load(&mut world);
    assert!(!recorded_hosted(&world));
    assert_eq!(world.says(ConditionType::HostsAccepted), "True Done");
    // From now on who says that it has it is told nothing again.
    world.assigned = None;
    world.shims.push(ShimView { serves: Some(1), ..shim("liar") });
    world.turn().expect("planned");
    assert!(!told(&world).iter().any(|(node, ..)| *node == "liar"));
}

#[test]
fn a_node_that_it_may_not_be_on_is_told_nothing_and_that_is_said() {
    let mut world = World::new(&["a", "b"], 1);
    let taint = Taint { key: "own".into(), value: String::new(), effect: "NoSchedule".into() };
    world.nodes.get_mut("b").expect("a node").taints.push(taint);
    has(&mut world, &["a.test"]);
    all_load(&mut world);
    assert_eq!(nodes_told(&world), ["a"]);
    assert_eq!(world.says(ConditionType::HostsAccepted), "False NoNode");
    assert_eq!(world.says(Ready), "True Serving", "it serves at its own address");
    world.at("b").connected = false;
    world.turn().expect("planned");
    assert_eq!(world.says(ConditionType::HostsAccepted), "False NoNode", "it is away for a moment only");
    // Its shim was taken over: another leader has told nobody anything, and it says that it knows the service.
    (world.at("b").connected, world.at("b").serves, world.assigned) = (true, Some(1), None);
    world.turn().expect("planned");
    assert_eq!(nodes_told(&world), ["a"]);
    has(&mut world, &[]);
    assert_eq!(nodes_told(&world), ["a"]);
    all_load(&mut world);
    assert!(!recorded_hosted(&world), "nobody waits for it");
}

#[test]
fn a_node_that_is_cordoned_answers_for_hosts_still() {
    let mut world = served(&["a", "b"], 1);
    has(&mut world, &["a.test"]);
    all_load(&mut world);
    for node in ["a", "b"] {
        let cordon = Taint { key: UNSCHEDULABLE.into(), value: String::new(), effect: "NoSchedule".into() };
        world.nodes.get_mut(node).expect("a node").taints.push(cordon);
        world.turn().expect("planned");
        all_load(&mut world);
        assert_eq!(nodes_told(&world), ["a", "b"], "{node} is cordoned: its shim is sent connections as before");
        assert_eq!(world.says(ConditionType::HostsAccepted), "True Done");
    }
}

#[test]
fn a_broken_update_takes_no_host_and_hosts_make_no_revision() {
    let mut world = served(&["a", "b"], 1);
    has(&mut world, &["a.test"]);
    all_load(&mut world);
    world.change(|s| s.spec.revision.image = "r/hello:2".into());
    world.build = rejected(Reason::CoreModule, false);
    world.turn().expect("planned");
    assert_eq!(hosts_of(&world), ["a.test"]);
    // What it asks for beside that it gets all the same.
    has(&mut world, &["a.test", "b.test"]);
    assert_eq!(hosts_of(&world), ["a.test", "b.test"]);
    assert_eq!(world.assigned.as_ref().expect("assigned").content.image.digest, "sha256:one");
}
