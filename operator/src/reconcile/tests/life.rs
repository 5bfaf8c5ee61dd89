//! From nothing to serving, updates and what is broken, shims that come and go, leaders that change.

use super::*;
use crate::trust::Signing;

#[test]
fn from_nothing_to_serving() {
    let mut world = World::new(&["a", "b"], 3);
    world.build = BuildState::Pending(Phase::Resolving);
    world.turn().expect("planned");
    assert!(world.endpoints().is_empty() && world.assigned.is_none());
    assert_eq!((world.says(Resolved), world.says(Ready)), ("Unknown Resolving".into(), "Unknown Resolving".into()));
    assert_eq!((world.says(Placed), world.says(Available)), ("Unknown Waiting".into(), "False NothingServes".into()));
    world.build = BuildState::Pending(Phase::Pulling { done: 3_200_000, total: 17_600_000, seconds: None });
    world.turn().expect("planned");
    assert_eq!(world.condition(Ready).message, "pulling 3 of 18 MB");
    world.build = BuildState::Pending(Phase::Waiting);
    world.turn().expect("planned");
    assert_eq!((world.says(Resolved), world.says(Precompiled)), ("True Done".into(), "Unknown Waiting".into()));
    world.build = BuildState::Pending(Phase::Compiling { seconds: Some(12) });
    world.turn().expect("planned");
    assert_eq!(world.condition(Precompiled).message, "compiling for 12 s");

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
    let again = plan(&observed, &world.others, &settings()).expect("planned");
    assert_eq!(again.assigned.expect("assigned").generation, 1, "nothing changes, so nothing is told");
    let applied = Applied::pretend(again.facts);
    let now = Time(Timestamp::MAX);
    assert_eq!(status_of(&observed, &Outcome::Applied(&applied), &settings(), &now), None, "nor written");
}

#[test]
fn who_had_its_connections_hears_of_each_new_endpoint_once() {
    let growth = |before: &[&str], after: &[&str]| {
        Growth::between(&before.iter().copied().collect(), &after.iter().copied().collect()).expect("growth")
    };
    let mut world = served(&["a", "b", "c"], 1);
    let first = world.endpoints()[0].trim_end_matches('+').to_owned();
    assert_eq!(world.growth, [], "the first endpoint has no connections to share");
    world.change(|s| s.spec.replicas = Some(3));
    world.turn().expect("planned");
    assert_eq!(world.growth, [], "nobody else has loaded it yet");
    world.load();
    assert_eq!(world.endpoints(), ["a+", "b+", "c+"]);
    assert_eq!(world.growth, [growth(&[&format!("uid-{first}")], &["uid-a", "uid-b", "uid-c"])]);
    world.turn().expect("planned");
    assert_eq!(world.growth, [], "once");
    // One is lost, and comes back.
    (world.at("b").connected, world.at("b").pod_ready) = (false, false);
    world.turn().expect("planned");
    assert_eq!((world.endpoints(), &world.growth), (vec!["a+".into(), "b-".into(), "c+".into()], &vec![]));
    world.at("b").connected = true;
    world.turn().expect("planned");
    assert_eq!(world.growth, [growth(&["uid-a", "uid-c"], &["uid-a", "uid-b", "uid-c"])]);
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
fn a_new_leader_spreads_what_is_nowhere_yet_over_the_shims_that_are_about_to_connect() {
    let all = BTreeMap::from(["a", "b", "c"].map(|node| (node.to_owned(), 1)));
    for (silent, patience, pod_ready, waits) in [
        (Duration::ZERO, PATIENCE, true, true),
        (GRACE, PATIENCE - GRACE, true, false),
        (Duration::ZERO, Duration::ZERO, true, false),
        (Duration::ZERO, PATIENCE, false, false),
    ] {
        let mut world = World::new(&["a", "b", "c"], 3);
        world.patience = patience;
        let c = world.at("c");
        (c.connected, c.pod_ready, c.silent) = (false, pod_ready, silent);
        world.turn().expect("planned");
        assert_eq!(world.assigned.is_none(), waits, "silent {silent:?}, patience {patience:?}, Ready {pod_ready}");
        if waits {
            assert_eq!(world.says(Placed), "Unknown Waiting");
            world.at("c").connected = true;
            world.turn().expect("planned");
            assert_eq!(world.assigned.as_ref().expect("assigned").replicas, all);
        }
        // What has its places waits for nobody.
        world.at("c").connected = false;
        world.change(|s| s.spec.revision.image = "r/hello:2".into());
        let before = world.generation();
        world.build = built("two");
        world.turn().expect("planned");
        assert!(world.generation() > before);
    }
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
    world.build = BuildState::Pending(Phase::Compiling { seconds: None });
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
fn what_serves_on_is_told_anew_when_the_seal_key_has_changed() {
    let mut world = served(&["a", "b"], 2);
    world.change(|s| s.spec.revision.image = "r/hello:broken".into());
    world.build = rejected(Reason::CoreModule, false);
    world.turn().expect("planned");
    let content = world.assigned.as_ref().expect("assigned").content.clone();
    let signing = Signing::new(SealKey::from_random([1; 32]));
    assert!(Arc::ptr_eq(&signing.refresh(&content).expect("sealed"), &content), "sealed by this key already");
    assert!(!signing.change(SealKey::from_random([1; 32])), "the same key");
    assert!(signing.change(SealKey::from_random([2; 32])));
    let resealed = signing.refresh(&content).expect("sealed");
    assert_eq!(resealed.artifacts["f"].seal, content.artifacts["f"].seal);
    world.kept = Some(resealed.clone());
    world.turn().expect("planned");
    let assigned = world.assigned.clone().expect("assigned");
    assert_eq!((assigned.generation, assigned.content.made()), (2, resealed.made()));
    assert_ne!(resealed.artifacts["f"].sealed, content.artifacts["f"].sealed);
}

#[test]
fn a_service_whose_nodes_are_all_away_keeps_its_place_there() {
    let mut world = served(&["a"], 2);
    let takes = world.takes.clone();
    assert!(takes.contains_key("a"), "{takes:?}");
    world.at("a").ejected = true;
    world.turn().expect("planned");
    assert_eq!(world.takes, takes);
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
    let BuildState::Ready(again) = built("one") else { panic!("built") };
    world.build = BuildState::Ready(Arc::new(Built { compile_millis: 4711, ..(*again).clone() }));
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
    world.slices.insert(SLICE.into(), Child::Leftover);
    assert_eq!(world.turn().expect_err("rejected").reason, Reason::Waiting);
    world.slices.clear();
    world.port = None;
    world.turn().expect_err("rejected");
    assert_eq!(world.says(Ready), "False NoPort");
    world.port = Some(20_001);
    world.service.spec.revision.instance.memory.0 = "much".into();
    world.turn().expect_err("rejected");
    assert_eq!((world.says(Resolved), world.says(Ready)), ("False InvalidSpec".into(), "False InvalidSpec".into()));
}
