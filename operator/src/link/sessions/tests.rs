//! Scenes of shims that connect, are told things, and go.

use super::*;
use crate::{
    build::Code,
    link::content::{Artifact, Content, Share},
    reconcile::env::Env,
    wake::ServiceRef,
};
use podless_artifact::{
    Held,
    seal::{HttpWorld, Seal},
};
use podless_crds::Image;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

fn identity(pod: &str) -> Identity {
    Identity { pod_uid: pod.into(), pod_name: pod.into(), node: format!("node of {pod}"), ip: "10.0.0.1".into() }
}

pub(super) fn assigned(service: &str, generation: u64, pods: &[&str]) -> Assigned {
    let code = Code {
        sha256: format!("code of {service}"),
        size: 0,
        file: tempfile::tempfile().expect("a file"),
        note: String::new(),
        held: Held::default(),
    };
    let seal = Seal {
        component: "c".into(),
        code_sha256: code.sha256.clone(),
        code_size: 0,
        fingerprint: "f".into(),
        wasmtime: "1.2.3".into(),
        target: "t".into(),
        http: HttpWorld::P2,
        flavour: podless_engine::Flavour::P2,
        made_at: String::new(),
    };
    let artifact = Artifact { seal, sealed: "{}".into(), sealer: "k".into(), code: Arc::new(code) };
    let content = Content {
        service_generation: 1,
        image: Image { reference: "r".into(), digest: "d".into(), size: 1, ..Image::default() },
        component: "c".into(),
        artifacts: BTreeMap::from([("f".to_owned(), artifact)]),
        env: Env::default(),
        logging: false,
        outbound_http: None,
        reuse: Default::default(),
        instance_memory: 1,
        timeout_millis: 1,
        concurrency: 10,
        count_cpu: false,
    };
    Assigned {
        service: ServiceRef { uid: service.into(), namespace: "n".into(), name: service.into() },
        generation,
        port: 20_000,
        content: Arc::new(content),
        fingerprint: generation.to_string(),
        parked: false,
        hosts: vec![],
        created_at: 0,
        replicas: pods.iter().map(|pod| (format!("node of {pod}"), 2)).collect(),
        budgets: pods.iter().map(|pod| ((*pod).to_owned(), 20)).collect(),
        beside: BTreeMap::new(),
    }
}

/// Of an operator that compiles for two engines.
pub(super) fn sessions() -> Sessions {
    Sessions::new([("f".to_owned(), Target::X86_64V3), ("g".to_owned(), Target::Aarch64)])
}

pub(super) fn hello(fingerprint: &str, known: &[(&str, u64)]) -> v1::Hello {
    let known = known.iter().map(|(uid, generation)| v1::Known { service_uid: (*uid).into(), generation: *generation });
    v1::Hello { fingerprint: fingerprint.into(), known: known.collect(), ..Default::default() }
}

/// All that is to be said now, as text.
pub(super) fn drain(sessions: &mut Sessions, key: &SessionKey) -> Vec<String> {
    let said = |next| match next {
        Next::Assign(a, Share { budget, parked }, _) => {
            format!("assign {} {} {budget}{}", a.service.uid, a.generation, if parked { " parked" } else { "" })
        }
        Next::Withdraw { service, generation, at_once } => {
            format!("withdraw {service} {generation}{}", if at_once { " at once" } else { "" })
        }
        Next::Synced => "synced".to_owned(),
        Next::Probe(probe) => format!("probe {}", probe.address),
        Next::Spread(spread) => format!("spread {} {}-{}", spread.service_uid, spread.before, spread.after),
        Next::Recall(recall) => format!("recall {}", recall.component),
    };
    std::iter::from_fn(|| sessions.next(key)).map(said).collect()
}

fn loaded(sessions: &mut Sessions, key: &SessionKey, service: &str, generation: u64) {
    let outcome = Some(v1::ack::Outcome::Loaded(v1::Loaded {}));
    sessions.ack(key, v1::Ack { service_uid: service.into(), generation, outcome }, Instant::now());
}

pub(super) fn open(sessions: &mut Sessions, pod: &str, hello: v1::Hello, services: &[&str]) -> SessionKey {
    let services = services.iter().map(|s| (*s).to_owned()).collect();
    sessions.open(identity(pod), hello, services, Instant::now()).0
}

#[test]
fn only_differences_are_told_and_synced_comes_after_all_of_them() {
    let mut sessions = sessions();
    sessions.assign(assigned("a", 3, &["p"]));
    let key = open(&mut sessions, "p", hello("f", &[("a", 3), ("b", 1)]), &["a", "b", "c"]);
    assert!(drain(&mut sessions, &key).is_empty(), "it has a, and the rest is not planned yet");
    let epoch = sessions.epoch();
    sessions.assign(assigned("b", 2, &["p"]));
    sessions.settle("b", epoch);
    assert_eq!(drain(&mut sessions, &key), ["assign b 2 20"]);
    sessions.settle("a", epoch - 1);
    sessions.settle("c", epoch);
    assert!(drain(&mut sessions, &key).is_empty(), "a was planned before this shim was there");
    sessions.settle("a", epoch);
    assert_eq!(drain(&mut sessions, &key), ["synced"]);
    assert!(drain(&mut sessions, &key).is_empty(), "once");
    loaded(&mut sessions, &key, "b", 2);
    sessions.assign(assigned("b", 2, &["p"]));
    assert!(drain(&mut sessions, &key).is_empty(), "nothing has changed");
    sessions.assign(assigned("b", 3, &["q"]));
    assert!(drain(&mut sessions, &key).is_empty(), "it has moved: this shim answers for it still");
}

#[test]
fn a_shim_of_another_engine_is_told_of_deletions_only() {
    let mut sessions = sessions();
    let key = open(&mut sessions, "p", hello("old", &[("a", 3)]), &[]);
    sessions.assign(assigned("a", 4, &["p"]));
    assert!(drain(&mut sessions, &key).is_empty(), "nor does it become ready and replace one that serves");
    sessions.bury("a", Instant::now());
    assert_eq!(drain(&mut sessions, &key), ["withdraw a 4"]);
}

#[test]
fn the_dead_are_withdrawn_from_whoever_knows_them_whenever_it_comes() {
    let mut sessions = sessions();
    let (p, q) = (open(&mut sessions, "p", hello("f", &[]), &[]), open(&mut sessions, "q", hello("f", &[]), &[]));
    sessions.assign(assigned("a", 1, &["p"]));
    assert_eq!(drain(&mut sessions, &p), ["assign a 1 20", "synced"]);
    sessions.bury("a", Instant::now());
    assert_eq!(
        (drain(&mut sessions, &p), drain(&mut sessions, &q)),
        (vec!["withdraw a 1".into()], vec!["synced".into()])
    );
    let late = open(&mut sessions, "late", hello("f", &[("a", 1)]), &[]);
    assert_eq!(drain(&mut sessions, &late), ["withdraw a 1", "synced"]);
    assert!(sessions.all_known().is_empty());
}

#[test]
fn a_service_that_a_restored_api_server_has_again_is_assigned_again() {
    let mut sessions = sessions();
    let key = open(&mut sessions, "p", hello("f", &[("a", 3), ("b", 1)]), &[]);
    sessions.bury("a", Instant::now());
    sessions.bury("b", Instant::now());
    assert_eq!(drain(&mut sessions, &key), ["withdraw a 3", "withdraw b 1", "synced"]);
    assert!(!sessions.exhume(&HashSet::from(["c".into()])), "none of these was gone");
    assert!(sessions.exhume(&HashSet::from(["a".into(), "c".into()])));
    assert!(sessions.all_known().contains("a"), "a shim has it still");
    sessions.assign(assigned("a", 4, &["p"]));
    sessions.assign(assigned("b", 2, &["p"]));
    assert_eq!(drain(&mut sessions, &key), ["assign a 4 20"], "b stays dead");
}

#[test]
fn the_dead_are_forgotten_when_no_shim_knows_them() {
    let mut sessions = sessions();
    let (start, key) = (Instant::now(), open(&mut sessions, "p", hello("f", &[("a", 1)]), &[]));
    sessions.bury("a", start);
    sessions.bury("b", start);
    let later = start + REST;
    sessions.forget_buried(start + REST / 2);
    sessions.assign(assigned("b", 1, &["p"]));
    assert!(sessions.assigned("b").is_none(), "planned before its end was known");
    sessions.forget_buried(later);
    assert_eq!(sessions.buried.keys().collect::<Vec<_>>(), ["a"], "p still has it");
    assert_eq!(drain(&mut sessions, &key), ["withdraw a 1", "synced"]);
    let outcome = Some(v1::ack::Outcome::Withdrawn(v1::Withdrawn {}));
    let ack = v1::Ack { service_uid: "a".into(), generation: 1, outcome };
    assert!(!sessions.ack(&key, ack, later));
    sessions.forget_buried(later);
    assert!(sessions.buried.is_empty());
    // One that was away for all that time is told as well.
    let late = open(&mut sessions, "late", hello("f", &[("a", 1)]), &[]);
    assert!(sessions.all_known().contains("a"), "so it is looked for, and buried again");
    sessions.bury("a", later);
    assert_eq!(drain(&mut sessions, &late), ["withdraw a 1", "synced"]);
}

#[test]
fn no_shim_is_believed_a_generation_that_it_was_not_told() {
    let mut sessions = sessions();
    sessions.assign(assigned("a", 3, &["p"]));
    let key = open(&mut sessions, "p", hello("f", &[("b", 5), ("c", u64::MAX)]), &[]);
    assert_eq!(drain(&mut sessions, &key), ["assign a 3 20", "synced"]);
    let now = Instant::now();
    let loaded = || v1::ack::Outcome::Loaded(v1::Loaded {});
    let failed = || v1::ack::Outcome::Failed(v1::Failed { reason: "disk".into(), message: "full".into() });
    let mut says = |service: &str, generation, outcome| {
        let ack = v1::Ack { service_uid: service.into(), generation, outcome: Some(outcome) };
        sessions.ack(&key, ack, now)
    };
    assert!(!says("a", 3, loaded()), "as it was told");
    for (service, generation) in [("a", 4), ("a", u64::MAX), ("b", 6), ("never told", 1)] {
        assert!(says(service, generation, loaded()), "{service} {generation}");
        assert!(says(service, generation, failed()), "{service} {generation}");
    }
    let shim = &sessions.shims()["p"];
    let known = |service: &str| shim.known.get(service).copied();
    assert_eq!((known("a"), known("b"), known("never told")), (Some(3), Some(5), None));
    assert_eq!(known("c"), Some(HIGHEST_BELIEVED), "there is room above it");
    let failed: HashMap<_, _> = shim.failed.iter().map(|(uid, f)| (uid.as_str(), f.generation)).collect();
    assert_eq!(failed, HashMap::from([("a", 3), ("b", 5)]));

    // What it was told on an earlier stream, it may acknowledge on this one.
    let again = open(&mut sessions, "p", hello("f", &[]), &[]);
    let ack = v1::Ack { service_uid: "a".into(), generation: 3, outcome: Some(loaded()) };
    assert!(!sessions.ack(&again, ack, now));
    assert_eq!(sessions.shims()["p"].known["a"], 3);
}

#[test]
fn who_replaces_a_shim_waits_for_what_that_one_serves_and_not_for_ever() {
    let mut sessions = sessions();
    let (start, most) = (Instant::now(), Duration::from_secs(60));
    let joins = |sessions: &mut Sessions, pod: &str, node: &str, known: &[(&str, u64)]| {
        let identity = Identity { node: node.into(), ..identity(pod) };
        sessions.open(identity, hello("f", known), HashSet::from(["a".to_owned()]), start).0
    };
    let old = joins(&mut sessions, "old", "n1", &[("a", 1)]);
    let new = joins(&mut sessions, "new", "n1", &[]);
    let elsewhere = joins(&mut sessions, "elsewhere", "n2", &[]);
    let epoch = sessions.epoch();
    let late = joins(&mut sessions, "late", "n2", &[]);
    let nodes = BTreeSet::from(["n1".to_owned()]);
    assert_eq!(sessions.hold("a", epoch, &nodes, most, start), Some(most));
    assert_eq!(drain(&mut sessions, &old), ["synced"], "it has it");
    assert_eq!(drain(&mut sessions, &elsewhere), ["synced"], "it replaces nobody");
    assert!(drain(&mut sessions, &new).is_empty() && drain(&mut sessions, &late).is_empty());
    let half = start + most / 2;
    assert_eq!(sessions.hold("a", sessions.epoch(), &nodes, most, half), Some(most / 2));
    assert_eq!(drain(&mut sessions, &late), ["synced"], "it was not in view before");
    // When it can be made at last, it is told first.
    sessions.assign(assigned("a", 2, &["new"]));
    sessions.settle("a", sessions.epoch());
    assert_eq!(drain(&mut sessions, &new), ["assign a 2 20", "synced"]);

    let last = joins(&mut sessions, "last", "n1", &[]);
    let epoch = sessions.epoch();
    assert_eq!(sessions.hold("a", epoch, &nodes, most, half), Some(most), "counted from when it began to wait");
    assert_eq!(sessions.hold("a", epoch, &nodes, most, half + most), None);
    assert_eq!(drain(&mut sessions, &last), ["synced"]);
}

#[test]
fn who_joins_does_not_wait_for_what_is_deleted_before_it_was_planned() {
    let mut sessions = sessions();
    let joins = open(&mut sessions, "p", hello("f", &[]), &["a", "b"]);
    sessions.settle("b", sessions.epoch());
    assert!(drain(&mut sessions, &joins).is_empty());
    assert_eq!(sessions.all_known(), HashSet::from(["a".to_owned()]), "whether it is gone is looked at");
    sessions.bury("a", Instant::now());
    assert_eq!(drain(&mut sessions, &joins), ["synced"]);
}

#[test]
fn a_new_stream_takes_the_place_of_the_old_one() {
    let mut sessions = sessions();
    sessions.assign(assigned("a", 1, &["p"]));
    let old = open(&mut sessions, "p", hello("f", &[]), &[]);
    assert_eq!(drain(&mut sessions, &old), ["assign a 1 20", "synced"]);
    let new = open(&mut sessions, "p", hello("f", &[]), &[]);
    assert!(!sessions.is_current(&old) && drain(&mut sessions, &old).is_empty());
    sessions.close(&old, Instant::now());
    assert!(sessions.is_current(&new), "the end of the old one is not the end of the shim");
    assert_eq!(drain(&mut sessions, &new), ["assign a 1 20", "synced"], "what was not acknowledged is told again");
    loaded(&mut sessions, &old, "a", 1);
    assert_eq!(sessions.shims()["p"].known.get("a"), None, "nor is its word");
    sessions.close(&new, Instant::now());
    sessions.forget_pod("p");
    assert!(sessions.shims().is_empty());
    // The API server may say that the pod is gone before the stream ends.
    let last = open(&mut sessions, "p", hello("f", &[]), &[]);
    sessions.forget_pod("p");
    assert!(sessions.is_current(&last));
    sessions.close(&last, Instant::now());
    assert!(sessions.shims().is_empty());
}

#[test]
fn what_could_not_be_loaded_is_told_again_after_a_while() {
    let mut sessions = sessions();
    sessions.assign(assigned("a", 1, &["p"]));
    let key = open(&mut sessions, "p", hello("f", &[]), &[]);
    assert_eq!(drain(&mut sessions, &key), ["assign a 1 20", "synced"]);
    let (start, minute) = (Instant::now(), Duration::from_secs(60));
    let failed = v1::Failed { reason: "disk".into(), message: "full".into() };
    let outcome = Some(v1::ack::Outcome::Failed(failed));
    sessions.ack(&key, v1::Ack { service_uid: "a".into(), generation: 1, outcome }, start);
    sessions.retry_failed("a", start, minute);
    assert!(drain(&mut sessions, &key).is_empty());
    sessions.retry_failed("a", start + minute, minute);
    assert_eq!(drain(&mut sessions, &key), ["assign a 1 20"]);
}

#[test]
fn who_connects_is_ejected_no_more() {
    let mut sessions = sessions();
    assert!(sessions.eject(HashSet::from(["p".to_owned()])));
    assert!(!sessions.eject(HashSet::from(["p".to_owned()])), "no news");
    assert!(sessions.is_ejected("p"));
    open(&mut sessions, "p", hello("f", &[]), &[]);
    assert!(!sessions.is_ejected("p"));
}

#[test]
fn a_shim_that_was_left_is_told_what_is_true_now_and_keeps_nothing_resident() {
    let mut sessions = sessions();
    let (p, q) = (open(&mut sessions, "p", hello("f", &[]), &[]), open(&mut sessions, "q", hello("f", &[]), &[]));
    sessions.assign(assigned("a", 1, &["p", "q"]));
    assert_eq!(drain(&mut sessions, &q), ["assign a 1 20", "synced"]);
    sessions.assign(Assigned { beside: BTreeMap::from([("q".to_owned(), 10)]), ..assigned("a", 2, &["p"]) });
    assert_eq!(drain(&mut sessions, &p), ["assign a 2 20", "synced"]);
    assert_eq!(drain(&mut sessions, &q), ["assign a 2 10 parked"]);
    assert!(sessions.code_for("q", "code of a").is_some(), "it may have to fetch it");
}

#[test]
fn who_had_connections_is_told_that_others_get_them_too() {
    let mut sessions = sessions();
    let (p, q) = (open(&mut sessions, "p", hello("f", &[]), &[]), open(&mut sessions, "q", hello("f", &[]), &[]));
    assert_eq!((drain(&mut sessions, &p), drain(&mut sessions, &q)), (vec!["synced".into()], vec!["synced".into()]));
    let growth = |before: &[&str], after: &[&str]| {
        Growth::between(&before.iter().copied().collect(), &after.iter().copied().collect())
    };
    for (before, after) in [(&[][..], &["p", "q"][..]), (&["p"], &["q"]), (&["p", "q"], &["q"]), (&["p"], &[])] {
        assert_eq!(growth(before, after), None, "{before:?} {after:?}");
    }
    let [two, three] = [&["p", "q"][..], &["p", "q", "away"]].map(|after| growth(&["p"], after).expect("growth"));
    sessions.spread("a", &two);
    assert_eq!((drain(&mut sessions, &p), drain(&mut sessions, &q)), (vec!["spread a 1-2".into()], vec![]));
    sessions.spread("a", &Growth::away("q", 3));
    assert_eq!((drain(&mut sessions, &p), drain(&mut sessions, &q)), (vec![], vec!["spread a 1-3".into()]));
    assert!(drain(&mut sessions, &p).is_empty(), "once");
    // Two steps before the shim takes the first.
    sessions.spread("a", &two);
    sessions.spread("b", &three);
    sessions.spread("a", &growth(&["p", "q"], &["p", "q", "away"]).expect("growth"));
    assert_eq!(drain(&mut sessions, &p), ["spread a 1-3", "spread b 1-3"]);
    assert_eq!(drain(&mut sessions, &q), ["spread a 2-3"]);
    // A hint does not outlive its session.
    sessions.spread("a", &two);
    sessions.close(&p, Instant::now());
    sessions.spread("a", &two);
    let again = open(&mut sessions, "p", hello("f", &[]), &[]);
    assert_eq!(drain(&mut sessions, &again), ["synced"]);
}

#[test]
fn what_is_revoked_is_withdrawn_at_once_until_something_else_is_assigned() {
    let mut sessions = sessions();
    let key = open(&mut sessions, "p", hello("f", &[("a", 3)]), &[]);
    drain(&mut sessions, &key);
    sessions.assign(assigned("a", 4, &["p"]));
    drain(&mut sessions, &key);
    loaded(&mut sessions, &key, "a", 4);
    sessions.withdraw("a");
    assert_eq!(drain(&mut sessions, &key), ["withdraw a 4 at once"]);
    assert!(sessions.assigned("a").is_none() && sessions.code_for("p", "code of a").is_none(), "nor is it fetched");
    // Who connects later and has it is told too, whichever generation that is.
    let late = open(&mut sessions, "q", hello("f", &[("a", 2)]), &[]);
    assert_eq!(drain(&mut sessions, &late)[0], "withdraw a 4 at once");
    let withdrawn = Some(v1::ack::Outcome::Withdrawn(v1::Withdrawn {}));
    let ack = v1::Ack { service_uid: "a".into(), generation: 4, outcome: withdrawn };
    sessions.ack(&key, ack, Instant::now());
    sessions.withdraw("a");
    assert!(drain(&mut sessions, &key).is_empty(), "it has none any more");
    sessions.assign(assigned("a", 5, &["p"]));
    assert_eq!(drain(&mut sessions, &key), ["assign a 5 20"]);
}

#[test]
fn what_is_published_is_trusted_when_everyone_who_is_connected_says_so() {
    let mut sessions = sessions();
    assert!(!sessions.all_trust("new"), "nobody has been heard");
    let (p, q) = (open(&mut sessions, "p", hello("f", &[]), &[]), open(&mut sessions, "q", hello("f", &[]), &[]));
    let says = |sessions: &mut Sessions, key: &SessionKey, trust: &str| {
        sessions.report(key, v1::Report { trust: trust.into(), ..Default::default() });
    };
    says(&mut sessions, &p, "new");
    assert!(!sessions.all_trust("new"), "q has not reported");
    says(&mut sessions, &q, "old");
    assert!(!sessions.all_trust("new"));
    says(&mut sessions, &q, "new");
    assert!(sessions.all_trust("new") && !sessions.all_trust("old"));
    says(&mut sessions, &q, "old");
    sessions.close(&q, Instant::now());
    assert!(sessions.all_trust("new"), "who is away is left behind");
}
