//! What policies do to a service: refused before it serves, told while it serves, taken away when it is revoked.

use podless_artifact::SignatureRequirement;

use super::*;
use crate::{
    policy::{Cap, RevokedBy},
    reconcile::observe::wanted,
};

const PERMITTED: ConditionType = ConditionType::Permitted;

fn allowed() -> Judgement {
    Judgement { policies: vec!["p".into()], ..Judgement::default() }
}

fn violated() -> Judgement {
    Judgement { violations: vec!["WasmPolicy \"p\" does not allow logging".into()], ..allowed() }
}

fn revoked(digest: &str) -> Judgement {
    let digests = Arc::new([digest.to_owned()].into());
    Judgement { revoked: vec![RevokedBy { policy: "p".into(), digests }], ..allowed() }
}

/// Shims that were told to let go have done so.
fn let_go(world: &mut World) {
    for shim in &mut world.shims {
        shim.serves = None;
    }
    world.turn().expect("planned");
}

fn has(world: &World, kind: ConditionType) -> bool {
    world.service.status.iter().flat_map(|s| &s.conditions).any(|c| c.type_ == kind.as_str())
}

#[test]
fn where_no_policy_selects_nothing_is_said_until_something_was() {
    let mut world = served(&["a"], 1);
    assert!(!has(&world, PERMITTED));
    world.judgement = allowed();
    world.turn().expect("planned");
    assert_eq!((world.says(PERMITTED), world.says(Ready)), ("True Done".into(), "True Serving".into()));
    world.judgement = Judgement::default();
    world.turn().expect("planned");
    assert_eq!(world.condition(PERMITTED).message, "no WasmPolicy selects the namespace");
}

#[test]
fn what_is_not_allowed_is_never_placed_and_the_condition_says_why() {
    let mut world = World::new(&["a"], 1);
    world.judgement = violated();
    world.turn().expect("planned");
    assert_eq!(world.says(PERMITTED), "False PolicyViolation");
    assert_eq!(world.says(Ready), "False PolicyViolation");
    assert_eq!((world.says(Resolved), world.says(Precompiled)), ("Unknown Waiting".into(), "Unknown Waiting".into()));
    assert!(world.assigned.is_none() && world.endpoints().is_empty());
    // The policy is changed, or the service: it is as if nothing had been.
    world.judgement = allowed();
    world.turn().expect("planned");
    world.load();
    assert_eq!((world.says(PERMITTED), world.says(Ready)), ("True Done".into(), "True Serving".into()));
}

#[test]
fn what_serves_goes_on_and_says_so_even_under_another_leader_and_a_new_revision_is_refused() {
    let mut world = served(&["a", "b"], 1);
    world.judgement = violated();
    world.turn().expect("planned");
    assert_eq!((world.says(PERMITTED), world.says(Ready)), ("False PolicyViolation".into(), "True Serving".into()));
    // Scaling is no new revision.
    world.change(|s| s.spec.replicas = Some(2));
    world.turn().expect("planned");
    world.load();
    assert_eq!((world.endpoints(), world.says(Ready)), (vec!["a+".into(), "b+".into()], "True Serving".into()));
    // Nor is another leader, which makes the artifact anew.
    world.take_over();
    world.turn().expect("planned");
    world.build = built("one");
    for node in ["a", "b"] {
        let shim = world.at(node);
        (shim.connected, shim.matches) = (true, true);
    }
    world.turn().expect("planned");
    assert!(world.assigned.is_some());
    world.load();
    assert_eq!((world.says(PERMITTED), world.says(Ready)), ("False PolicyViolation".into(), "True Serving".into()));

    world.change(|s| s.spec.revision.timeout_seconds = 7);
    world.turn().expect("planned");
    assert_eq!(
        (world.says(PERMITTED), world.says(Ready)),
        ("False PolicyViolation".into(), "False PolicyViolation".into())
    );
    assert_eq!(world.endpoints(), ["a+", "b+"], "what served goes on");
    assert_eq!(world.assigned.clone().expect("assigned").content.timeout_millis, 30_000, "with what it had");
}

#[test]
fn an_image_that_lacks_a_signature_says_so_and_serves_on() {
    let mut world = served(&["a"], 1);
    world.judgement = allowed();
    let BuildState::Ready(ready) = &world.build else { panic!("built") };
    let BuildState::Rejected(missing) = rejected(Reason::SignatureMissing, true) else { panic!("rejected") };
    world.build = BuildState::Ready(Arc::new(Built { unverified: Some(missing), ..Built::clone(ready) }));
    world.turn().expect("planned");
    assert_eq!((world.says(PERMITTED), world.says(Ready)), ("False SignatureMissing".into(), "True Serving".into()));

    let mut world = World::new(&["a"], 1);
    world.judgement = allowed();
    world.build = rejected(Reason::SignatureInvalid, true);
    world.turn().expect("planned");
    assert_eq!(
        (world.says(PERMITTED), world.says(Ready)),
        ("False SignatureInvalid".into(), "False SignatureInvalid".into())
    );
}

#[test]
fn more_replicas_than_the_ceiling_are_not_placed_and_that_is_told() {
    let mut world = World::new(&["a", "b", "c"], 3);
    world.judgement = Judgement { cap: Some(Cap { replicas: 2, policy: "p".into() }), ..allowed() };
    world.turn().expect("planned");
    world.load();
    assert_eq!(world.endpoints().len(), 2);
    assert_eq!(
        (world.says(Placed), world.says(Ready)),
        ("False PolicyViolation".into(), "False PolicyViolation".into())
    );
    assert_eq!((world.says(Available), world.says(PERMITTED)), ("True Serving".into(), "True Done".into()));
    assert!(world.condition(Placed).message.contains("spec.replicas"), "{}", world.condition(Placed).message);
}

#[test]
fn what_is_revoked_is_taken_off_all_nodes_and_comes_back_when_it_is_allowed_again() {
    for digest in ["sha256:one", "sha256:in one", "one"] {
        let mut world = served(&["a", "b"], 2);
        let before = world.generation();
        world.judgement = revoked(digest);
        world.turn().expect("planned");
        assert!(world.assigned.is_none() && world.endpoints().is_empty(), "{digest}: at once");
        assert!(world.takes.is_empty(), "others may have its room");
        for kind in [PERMITTED, Placed, Ready] {
            assert_eq!(world.says(kind), "False Revoked");
        }
        let_go(&mut world);
        assert!(world.assigned.is_none() && world.endpoints().is_empty(), "nor is it assigned anew");
        assert_eq!((world.says(Ready), world.says(Available)), ("False Revoked".into(), "False NothingServes".into()));
        // A new leader that has not built anything does not bring it back either.
        world.take_over();
        world.turn().expect("planned");
        assert!(world.assigned.is_none() && world.endpoints().is_empty());

        world.judgement = allowed();
        world.build = built("one");
        for node in ["a", "b"] {
            let shim = world.at(node);
            (shim.connected, shim.matches) = (true, true);
        }
        world.turn().expect("planned");
        world.load();
        assert_eq!(world.says(Ready), "True Serving");
        assert!(world.generation() > before, "a shim that has missed the end must not take it for what it has");
    }
}

#[test]
fn a_new_leader_takes_away_what_was_revoked_while_nobody_led() {
    let image = served(&["a"], 1).service.status.and_then(|status| status.image).expect("an image");
    for digest in [Some(image.digest), image.manifest, image.component] {
        let mut world = served(&["a"], 1);
        world.take_over();
        let shim = world.at("a");
        (shim.connected, shim.matches, shim.serves) = (true, true, Some(1));
        world.judgement = revoked(&digest.expect("a digest"));
        assert!(world.observed().revoked().is_some(), "before anything is built");
        world.turn().expect("planned");
        assert!(world.endpoints().is_empty());
        assert_eq!(world.says(Ready), "False Revoked");
    }
}

#[test]
fn an_update_away_from_what_is_revoked_waits_until_that_is_gone() {
    let mut world = served(&["a"], 1);
    world.judgement = revoked("sha256:one");
    world.change(|s| s.spec.revision.image = "r/hello:2".into());
    world.build = built("two");
    world.turn().expect("planned");
    assert!(world.assigned.is_none() && world.endpoints().is_empty(), "a node that cannot load it must not serve on");
    let_go(&mut world);
    world.load();
    assert_eq!((world.says(PERMITTED), world.says(Ready)), ("True Done".into(), "True Serving".into()));
    // Whoever leads next knows what must not come back, and nothing of it is assigned again.
    let record = recorded(world.slice()).expect("a record");
    assert_eq!((record.withdrawn, record.generation), (1, 2));
}

#[test]
fn nothing_is_assigned_by_a_generation_that_was_taken_away() {
    let mut world = served(&["a"], 1);
    world.judgement = revoked("sha256:one");
    world.turn().expect("planned");
    world.judgement = allowed();
    let mut observed = world.observed();
    // A shim that is away by now had more of it than was recorded.
    observed.withdrawn = 7;
    for shim in &mut observed.shims {
        (shim.serves, shim.lets_go) = (None, true);
    }
    let plan = plan(&observed, &world.others, &settings()).expect("a plan");
    assert_eq!(plan.assigned.expect("assigned").generation, 8);
    assert_eq!(plan.facts.endpoints, 0, "who has to let go serves nothing");
}

#[test]
fn an_update_to_what_is_revoked_is_refused_and_what_served_goes_on() {
    let mut world = served(&["a"], 1);
    world.judgement = revoked("two");
    world.change(|s| s.spec.revision.image = "r/hello:2".into());
    world.build = built("two");
    world.turn().expect("planned");
    assert_eq!((world.says(PERMITTED), world.says(Ready)), ("False Revoked".into(), "False Revoked".into()));
    assert_eq!(world.endpoints(), ["a+"]);
}

#[test]
fn a_tag_that_means_another_image_by_now_does_not_pass_what_forbids_it() {
    let mut world = served(&["a"], 1);
    let every = serde_json::from_value(json!({"policy": "Interval", "interval": "10m"})).expect("a resolution");
    world.change(|s| s.spec.image_resolution = every);
    let looks = |world: &World| {
        let o = world.observed();
        wanted(&o.service, &o.id, Target::default(), &o.judgement, true).resolve_every.is_some()
    };
    assert!(looks(&world));
    world.judgement = violated();
    assert!(!looks(&world), "it is not looked up any more");
    // Just before that it was.
    world.build = built("two");
    world.turn().expect("planned");
    world.load();
    assert_eq!(
        (world.says(PERMITTED), world.says(Ready)),
        ("False PolicyViolation".into(), "False PolicyViolation".into())
    );
    let serves = |world: &World| world.assigned.as_ref().expect("assigned").content.component.clone();
    assert_eq!((serves(&world), world.endpoints()), ("one".into(), vec!["a+".into()]), "what served goes on");

    // What means nothing yet for its secrets would be looked up, too.
    let mut world = served(&["a"], 1);
    world.judgement = violated();
    let secret = serde_json::from_value(json!({"name": "other"})).expect("a secret");
    world.change(|s| s.spec.image_pull_secrets.push(secret));
    world.build = built("two");
    assert!(matches!(world.observed().build, BuildState::Rejected(_)), "nothing is asked for");
    world.turn().expect("planned");
    assert_eq!((serves(&world), world.says(Ready)), ("one".into(), "False PolicyViolation".into()));

    // A digest can mean nothing else.
    let digest = format!("r/hello@sha256:{}", "0".repeat(64));
    let mut world = World::new(&["a"], 1);
    world.service.spec.revision.image = digest.clone();
    assert_eq!(world.permitted(), None);
    world.judgement = allowed();
    world.turn().expect("planned");
    world.change(|s| s.spec.image_pull_secrets.push(serde_json::from_value(json!({"name": "r"})).expect("a secret")));
    assert_eq!(world.permitted().as_deref(), digest.split_once('@').map(|(_, digest)| digest));
}

#[test]
fn nothing_is_allowed_before_its_signatures_were_looked_at() {
    let key = SignatureRequirement::parse("p", &[crate::policy::tests::KEY], None).expect("a key");
    let signed = || Judgement { signatures: vec![key.clone()], ..allowed() };
    for (build, want) in [
        (BuildState::Pending(Phase::Resolving), "Unknown Waiting"),
        (rejected(Reason::RegistryUnreachable, true), "Unknown Waiting"),
        (rejected(Reason::ImageNotFound, true), "Unknown Waiting"),
        // What is audited was verified.
        (rejected(Reason::ImportDenied, false), "True Done"),
        (built("one"), "True Done"),
    ] {
        let mut world = World::new(&["a"], 1);
        (world.judgement, world.build) = (signed(), build);
        world.turn().expect("planned");
        assert_eq!(world.says(PERMITTED), want, "{:?}", world.build);
        world.build = rejected(Reason::RegistryUnreachable, true);
        world.turn().expect("planned");
        assert_eq!(world.says(PERMITTED), want, "what was said of this generation holds");
        world.judgement = Judgement { policies: vec!["p".into(), "q".into()], ..signed() };
        world.turn().expect("planned");
        assert_eq!(world.says(PERMITTED), "Unknown Waiting", "another policy has not said it");
    }
}

#[test]
fn what_could_not_be_verified_is_not_said_to_be_allowed_and_serves_on() {
    let mut world = served(&["a"], 1);
    world.change(|s| s.spec.revision.timeout_seconds = 7);
    let key = SignatureRequirement::parse("p", &[crate::policy::tests::KEY], None).expect("a key");
    world.judgement = Judgement { signatures: vec![key], ..allowed() };
    let BuildState::Rejected(away) = rejected(Reason::RegistryUnreachable, true) else { unreachable!("rejected") };
    let BuildState::Ready(ready) = built("one") else { unreachable!("built") };
    world.build = BuildState::Ready(Arc::new(Built { unverified: Some(away), ..Built::clone(&ready) }));
    let before = world.permitted();
    world.turn().expect("planned");
    world.load();
    assert_eq!(
        (world.says(PERMITTED), world.says(Ready)),
        ("Unknown RegistryUnreachable".into(), "True Serving".into())
    );
    assert_eq!((before, world.permitted()), (None, None), "nor is it recorded");
    world.build = BuildState::Ready(ready);
    world.turn().expect("planned");
    assert_eq!(world.says(PERMITTED), "True Done");
    assert!(world.permitted().is_some());
}
