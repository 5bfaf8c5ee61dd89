//! Many endpoints, two families, and for whom endpoints are meant.

use std::collections::BTreeSet;

use super::*;
use crate::nodes::facts::ZONE;

fn large(nodes: usize, replicas: i32) -> World {
    let names: Vec<_> = (0..nodes).map(|n| format!("n{n:03}")).collect();
    let mut world = World::new(&names.iter().map(String::as_str).collect::<Vec<_>>(), replicas);
    for (n, shim) in world.shims.iter_mut().enumerate() {
        shim.ips = vec![format!("10.0.{}.{}", n / 200, n % 200 + 1)];
    }
    world.turn().expect("planned");
    world.load();
    world
}

/// A Service of these families, as it is written.
fn service(families: &[&str]) -> Child<core::Service> {
    let service = json!({"spec": {"ipFamilies": families, "ipFamilyPolicy": "PreferDualStack"}});
    Child::Ours(serde_json::from_value(service).expect("a Service"))
}

impl World {
    /// Slices with their numbers of endpoints.
    fn sizes(&self) -> Vec<(&str, usize)> {
        let slices = self.slices.iter().filter_map(|(name, slice)| Some((name.as_str(), slice.ours()?)));
        slices.map(|(name, slice)| (name.trim_start_matches("hello-podless"), slice.endpoints.len())).collect()
    }

    /// Nodes of all endpoints.
    fn nodes_served(&self) -> Vec<String> {
        let slices = self.slices.values().filter_map(Child::ours);
        slices.flat_map(|slice| &slice.endpoints).filter_map(|endpoint| endpoint.node_name.clone()).collect()
    }

    /// Names of the slices that a reconcile would change.
    fn would_change(&self) -> Vec<String> {
        let SlicePlan { wanted, emptied } = plan(&self.observed(), &self.others, &settings()).expect("planned").slices;
        let same = |slice: &EndpointSlice| self.slices.get(&slice.name_any()).and_then(Child::ours) == Some(slice);
        wanted.iter().filter(|slice| !same(slice)).map(ResourceExt::name_any).chain(emptied).collect()
    }
}

#[test]
fn many_endpoints_are_in_several_slices_and_each_in_one() {
    let mut world = large(250, 250);
    assert_eq!(world.sizes(), [("", 100), ("-2", 100), ("-3", 50)]);
    assert_eq!(world.would_change(), Vec::<String>::new(), "nothing is written again");
    assert_eq!(world.says(Ready), "True Serving");
    let third = world.slices["hello-podless-3"].clone();
    assert!(third.ours().is_some_and(|slice| recorded(slice).is_none()), "only the first one remembers");
    let record = recorded(world.slice()).expect("a record");
    assert_eq!((record.nodes.len(), BTreeSet::from_iter(world.nodes_served()).len()), (250, 250));

    // One is away for a moment: its slice changes, and the first one not at all.
    let away = third.ours().and_then(|slice| slice.endpoints[7].node_name.clone()).expect("a node");
    (world.at(&away).connected, world.at(&away).pod_ready) = (false, false);
    assert_eq!(world.would_change(), ["hello-podless-3"]);
    (world.at(&away).connected, world.at(&away).pod_ready) = (true, true);

    // Another leader finds all of them.
    world.take_over();
    assert_eq!(world.would_change(), Vec::<String>::new());
    world.turn().expect("planned");
    assert_eq!(world.sizes(), [("", 100), ("-2", 100), ("-3", 50)]);
}

#[test]
fn what_shrinks_is_in_fewer_slices_and_nobody_is_missing() {
    let mut world = large(250, 250);
    let before = world.nodes_served();
    world.change(|s| s.spec.replicas = Some(90));
    world.turn().expect("planned");
    world.load();
    assert_eq!(world.sizes(), [("", 90)]);
    assert_eq!(world.nodes_served().len(), 90);
    assert!(world.nodes_served().iter().all(|node| before.contains(node)));
    world.change(|s| s.spec.replicas = Some(250));
    world.turn().expect("planned");
    world.load();
    assert_eq!(world.sizes(), [("", 100), ("-2", 100), ("-3", 50)]);
}

#[test]
fn a_further_slice_of_somebody_else_is_told() {
    let mut world = large(120, 120);
    world.slices.insert("hello-podless-2".into(), Child::Foreign);
    let rejection = world.turn().expect_err("rejected");
    assert_eq!(rejection.reason, Reason::ServiceConflict);
    assert!(rejection.message.contains("hello-podless-2"), "{}", rejection.message);
}

#[test]
fn what_others_have_by_a_name_that_is_not_wanted_is_no_conflict() {
    let mut world = large(120, 120);
    world.slices.insert("hello-podless-9".into(), Child::Foreign);
    world.slices.insert("hello-podless-ipv6".into(), Child::Leftover);
    assert_eq!(world.would_change(), Vec::<String>::new());
    world.turn().expect("planned");
    assert_eq!((world.sizes(), world.says(Ready)), (vec![("", 100), ("-2", 20)], "True Serving".into()));
    world.slices.insert(SLICE.into(), Child::Foreign);
    assert_eq!(world.turn().expect_err("rejected").reason, Reason::ServiceConflict);
}

#[test]
fn what_nobody_has_looked_for_is_looked_for_before_it_is_written() {
    let world = World { slices: Slices::new(), ..large(120, 120) };
    let unseen = |world: &World| {
        let plan = plan(&world.observed(), &world.others, &settings()).expect("planned");
        plan.slices.unseen(&world.slices)
    };
    assert_eq!(unseen(&world), ["hello-podless", "hello-podless-2"]);
    let missing = |name: &str| (name.to_owned(), Child::Missing);
    let world = World { slices: [missing("hello-podless"), missing("hello-podless-2")].into(), ..world };
    assert!(unseen(&world).is_empty());
}

#[test]
fn each_family_that_the_service_has_gets_a_slice() {
    let mut world = World::new(&["a", "b"], 2);
    for (n, shim) in world.shims.iter_mut().enumerate() {
        shim.ips = vec![format!("10.0.0.{n}"), format!("fd00::{n}")];
    }
    let single = json!({"spec": {"ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}});
    let single = Child::Ours(serde_json::from_value(single).expect("a Service"));
    for (before, child) in [("no Service yet", Child::Missing), ("as an older operator has made it", single)] {
        (world.child, world.slices) = (child, Slices::new());
        world.turn().expect("planned");
        assert_eq!(world.sizes(), [("", 2), ("-ipv6", 2)], "{before}: it may have two addresses in a moment");
    }
    world.child = service(&["IPv4", "IPv6"]);
    world.load();
    assert_eq!(world.sizes(), [("", 2), ("-ipv6", 2)]);
    let six = world.slices["hello-podless-ipv6"].ours().expect("a slice").clone();
    assert_eq!((six.address_type.as_str(), &six.endpoints[1].addresses[0]), ("IPv6", &"fd00::1".to_owned()));
    assert_eq!(world.endpoints(), ["a+", "b+"]);
    assert_eq!(world.condition(Ready).status, "True");
    assert_eq!(world.would_change(), Vec::<String>::new());

    // A pod has one of them only.
    world.at("b").ips.truncate(1);
    world.turn().expect("planned");
    assert_eq!(world.sizes(), [("", 2), ("-ipv6", 1)]);
    world.child = service(&["IPv4"]);
    world.turn().expect("planned");
    assert_eq!(world.sizes(), [("", 2)]);

    // The first one keeps its family, whatever the Service has: it remembers.
    world.child = service(&["IPv6"]);
    world.turn().expect("planned");
    assert_eq!(world.sizes(), [("", 0), ("-ipv6", 1)]);
    assert!(recorded(world.slice()).is_some());
}

#[test]
fn who_is_near_is_named_where_it_is_asked_for() {
    let mut world = served(&["a", "b"], 2);
    let zoned = |zone: &str| NodeFacts { labels: [(ZONE.to_owned(), zone.to_owned())].into(), ..NodeFacts::default() };
    world.nodes = [("a".to_owned(), zoned("west")), ("b".to_owned(), zoned("east"))].into();
    let hints = |world: &World| serde_json::to_value(world.slice()).expect("JSON")["endpoints"][0]["hints"].clone();
    world.turn().expect("planned");
    assert_eq!(hints(&world), json!(null));
    for (distribution, want) in [
        ("PreferClose", json!({"forZones": [{"name": "west"}]})),
        ("PreferSameNode", json!({"forZones": [{"name": "west"}], "forNodes": [{"name": "a"}]})),
    ] {
        let distribution = serde_json::from_value(json!(distribution)).expect("a distribution");
        world.change(|s| s.spec.traffic_distribution = Some(distribution));
        world.turn().expect("planned");
        assert_eq!(hints(&world), want);
        let service = plan(&world.observed(), &world.others, &settings()).expect("planned").service;
        let written = service.spec.and_then(|spec| spec.traffic_distribution);
        assert_eq!(json!(written), json!(distribution));
    }
    world.change(|s| s.spec.traffic_distribution = None);
    world.turn().expect("planned");
    assert_eq!(hints(&world), json!(null));
    world.load();
    assert_eq!(world.generation(), 4, "each generation of the object is told");
}
