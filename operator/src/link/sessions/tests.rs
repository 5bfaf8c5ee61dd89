//! Scenes of shims that connect, are told things, and go.

use super::*;
use crate::{
    build::Code,
    link::content::{Content, Share},
    reconcile::env::Env,
    wake::ServiceRef,
};
use podless_artifact::seal::{HttpWorld, Seal};
use podless_crds::Image;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

fn identity(pod: &str) -> Identity {
    Identity { pod_uid: pod.into(), pod_name: pod.into(), node: format!("node of {pod}"), ip: "10.0.0.1".into() }
}

fn assigned(service: &str, generation: u64, pods: &[&str]) -> Assigned {
    let code = Code { sha256: format!("code of {service}"), size: 0, file: tempfile::tempfile().expect("a file") };
    let content = Content {
        service_generation: 1,
        image: Image { reference: "r".into(), digest: "d".into(), size: 1 },
        seal: Seal {
            component: "c".into(),
            code_sha256: code.sha256.clone(),
            code_size: 0,
            fingerprint: "f".into(),
            target: "t".into(),
            http: HttpWorld::P2,
        },
        sealed: "{}".into(),
        code: Arc::new(code),
        env: Env::default(),
        logging: false,
        outbound_http: None,
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
        replicas: pods.iter().map(|pod| (format!("node of {pod}"), 2)).collect(),
        budgets: pods.iter().map(|pod| ((*pod).to_owned(), 20)).collect(),
        left: BTreeMap::new(),
    }
}

fn hello(fingerprint: &str, known: &[(&str, u64)]) -> v1::Hello {
    let known = known.iter().map(|(uid, generation)| v1::Known { service_uid: (*uid).into(), generation: *generation });
    v1::Hello { fingerprint: fingerprint.into(), known: known.collect(), ..Default::default() }
}

/// All that is to be said now, as text.
fn drain(sessions: &mut Sessions, key: &SessionKey) -> Vec<String> {
    let said = |next| match next {
        Next::Assign(a, Share { budget, parked }) => {
            format!("assign {} {} {budget}{}", a.service.uid, a.generation, if parked { " parked" } else { "" })
        }
        Next::Withdraw { service, generation } => format!("withdraw {service} {generation}"),
        Next::Synced => "synced".to_owned(),
        Next::Probe(probe) => format!("probe {}", probe.address),
        Next::Spread(spread) => format!("spread {} {}-{}", spread.service_uid, spread.before, spread.after),
    };
    std::iter::from_fn(|| sessions.next(key)).map(said).collect()
}

fn loaded(sessions: &mut Sessions, key: &SessionKey, service: &str, generation: u64) {
    let outcome = Some(v1::ack::Outcome::Loaded(v1::Loaded {}));
    sessions.ack(key, v1::Ack { service_uid: service.into(), generation, outcome }, Instant::now());
}

fn open(sessions: &mut Sessions, pod: &str, hello: v1::Hello, services: &[&str]) -> SessionKey {
    let services = services.iter().map(|s| (*s).to_owned()).collect();
    sessions.open(identity(pod), hello, services, Instant::now()).0
}

#[test]
fn only_differences_are_told_and_synced_comes_after_all_of_them() {
    let mut sessions = Sessions::new("f".into());
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
    let mut sessions = Sessions::new("f".into());
    let key = open(&mut sessions, "p", hello("old", &[("a", 3)]), &[]);
    sessions.assign(assigned("a", 4, &["p"]));
    assert!(drain(&mut sessions, &key).is_empty(), "nor does it become ready and replace one that serves");
    sessions.bury("a", Instant::now());
    assert_eq!(drain(&mut sessions, &key), ["withdraw a 4"]);
}

#[test]
fn the_dead_are_withdrawn_from_whoever_knows_them_whenever_it_comes() {
    let mut sessions = Sessions::new("f".into());
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
    let mut sessions = Sessions::new("f".into());
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
    let mut sessions = Sessions::new("f".into());
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
    let mut sessions = Sessions::new("f".into());
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
    let mut sessions = Sessions::new("f".into());
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
fn a_new_stream_takes_the_place_of_the_old_one() {
    let mut sessions = Sessions::new("f".into());
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
    let mut sessions = Sessions::new("f".into());
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
fn code_is_for_those_who_are_to_have_it() {
    let mut sessions = Sessions::new("f".into());
    sessions.assign(assigned("a", 1, &["p"]));
    assert!(sessions.code_for("p", "code of a").is_some());
    assert!(sessions.code_for("q", "code of a").is_none());
    assert!(sessions.code_for("p", "code of b").is_none());
}

#[test]
fn half_a_measurement_is_none_and_made_up_buckets_are_dropped() {
    let mut sessions = Sessions::new("f".into());
    let p = open(&mut sessions, "p", hello("f", &[("a", 1)]), &[]);
    let q = open(&mut sessions, "q", hello("f", &[("a", 1)]), &[]);
    let counts = HashMap::from([(3, 1), (u32::MAX, 1)]);
    let phases = v1::Phases { fetch: Some(v1::Histogram { counts }), ..Default::default() };
    let service = v1::ServiceReport { service_uid: "a".into(), phases: Some(phases), ..Default::default() };
    let report = v1::Report { services: vec![service], ..Default::default() };
    sessions.report(&p, report.clone());
    assert!(sessions.reports_of("a").is_none(), "q has not said anything yet");
    sessions.report(&q, report);
    let reports = sessions.reports_of("a").expect("both have");
    let fetch = reports[0].phases.as_ref().and_then(|p| p.fetch.as_ref()).expect("a histogram");
    assert_eq!((reports.len(), fetch.counts.len()), (2, 1));
}

#[test]
fn a_peer_is_asked_and_its_answer_reaches_who_asked() {
    let mut sessions = Sessions::new("f".into());
    let key = open(&mut sessions, "p", hello("f", &[]), &[]);
    assert!(sessions.ask("nobody", "10.0.0.9:8081", Duration::from_secs(1)).is_none());
    let mut asked = sessions.ask("p", "10.0.0.9:8081", Duration::from_secs(1)).expect("connected");
    assert_eq!(drain(&mut sessions, &key), ["probe 10.0.0.9:8081", "synced"]);
    sessions.answered(&key, v1::ProbeResult { id: 77, reachable: true });
    assert!(asked.try_recv().is_err(), "an answer that nobody asked for");
    sessions.answered(&key, v1::ProbeResult { id: 1, reachable: true });
    assert_eq!(asked.try_recv(), Ok(true));
    let mut unanswered = sessions.ask("p", "10.0.0.9:8081", Duration::from_secs(1)).expect("connected");
    sessions.close(&key, Instant::now());
    assert_eq!(unanswered.try_recv(), Err(tokio::sync::oneshot::error::TryRecvError::Closed));
}

#[test]
fn who_connects_is_ejected_no_more() {
    let mut sessions = Sessions::new("f".into());
    assert!(sessions.eject(HashSet::from(["p".to_owned()])));
    assert!(!sessions.eject(HashSet::from(["p".to_owned()])), "no news");
    assert!(sessions.is_ejected("p"));
    open(&mut sessions, "p", hello("f", &[]), &[]);
    assert!(!sessions.is_ejected("p"));
}

#[test]
fn a_shim_that_was_left_is_told_what_is_true_now_and_keeps_nothing_resident() {
    let mut sessions = Sessions::new("f".into());
    let (p, q) = (open(&mut sessions, "p", hello("f", &[]), &[]), open(&mut sessions, "q", hello("f", &[]), &[]));
    sessions.assign(assigned("a", 1, &["p", "q"]));
    assert_eq!(drain(&mut sessions, &q), ["assign a 1 20", "synced"]);
    sessions.assign(Assigned { left: BTreeMap::from([("q".to_owned(), 10)]), ..assigned("a", 2, &["p"]) });
    assert_eq!(drain(&mut sessions, &p), ["assign a 2 20", "synced"]);
    assert_eq!(drain(&mut sessions, &q), ["assign a 2 10 parked"]);
    assert!(sessions.code_for("q", "code of a").is_some(), "it may have to fetch it");
}

#[test]
fn a_shim_is_believed_what_it_may_speak_of_and_no_more_than_it_can_have() {
    let mut sessions = Sessions::new("f".into());
    sessions.assign(assigned("its own", 1, &["p"]));
    sessions.assign(assigned("moved", 1, &["p"]));
    sessions.assign(assigned("dead", 1, &["p"]));
    let key = open(&mut sessions, "p", hello("f", &[("claimed", 1)]), &[]);
    drain(&mut sessions, &key);
    sessions.assign(Assigned { budgets: [("q".into(), 5), ("r".into(), 7)].into(), ..assigned("moved", 2, &[]) });
    sessions.assign(assigned("claimed", 1, &["q"]));
    sessions.bury("dead", Instant::now());
    let believed = |sessions: &Sessions, key: &SessionKey, in_flight: u32| {
        let said =
            |uid: &str| v1::ServiceLoad { service_uid: uid.into(), in_flight, requests: 9, ..Default::default() };
        let services = ["its own", "moved", "claimed", "dead", "never heard of"].map(said);
        let mut load = v1::Load { services: services.into() };
        sessions.believe(key, &mut load);
        assert!(load.services.iter().all(|s| s.requests == 9));
        load.services.into_iter().map(|s| (s.service_uid, s.in_flight)).collect::<Vec<_>>()
    };
    let both = |own: u32, moved: u32| [("its own".to_owned(), own), ("moved".to_owned(), moved)];
    assert_eq!(believed(&sessions, &key, 3), both(3, 3));
    assert_eq!(believed(&sessions, &key, u32::MAX), both(4 * 20, 4 * 7), "its budget, and the largest there is");

    let again = open(&mut sessions, "p", hello("f", &[("its own", 1), ("moved", 1), ("claimed", 1)]), &[]);
    assert!(believed(&sessions, &key, 3).is_empty(), "the stream is not the shim's one any more");
    assert_eq!(believed(&sessions, &again, 3), [("its own".to_owned(), 3)], "of the rest it was not told on this one");
    sessions.close(&again, Instant::now());
    assert!(believed(&sessions, &again, 3).is_empty());
}

#[test]
fn who_had_connections_is_told_that_others_get_them_too() {
    let mut sessions = Sessions::new("f".into());
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
fn answers_are_looked_at_of_what_a_shim_is_to_serve_and_has_loaded() {
    let (mut sessions, start) = (Sessions::new("f".into()), Instant::now());
    for service in ["served", "new", "left"] {
        sessions.assign(assigned(service, 1, &["p"]));
    }
    let key = open(&mut sessions, "p", hello("f", &[("served", 1), ("left", 1)]), &[]);
    sessions.assign(Assigned { left: BTreeMap::from([("p".to_owned(), 10)]), ..assigned("left", 1, &["q"]) });
    let tell = |sessions: &mut Sessions, key: &SessionKey, seconds: u64| {
        let pace = Some(v1::Pace { waiting: 0, answered: seconds * 20, weights: seconds * 20 * 12_000 });
        let said = |uid: &str| v1::ServiceLoad { service_uid: uid.into(), pace, ..Default::default() };
        let load = v1::Load { services: ["served", "new", "left", "never heard of"].map(said).into() };
        sessions.paced(key, &load, start + Duration::from_secs(seconds));
    };
    let measured = |sessions: &mut Sessions, seconds: u64| {
        let all = sessions.measured(start + Duration::from_secs(seconds)).into_iter();
        all.map(|shim| (shim.pod_uid, shim.windows.into_keys().collect::<Vec<_>>())).collect::<Vec<_>>()
    };
    tell(&mut sessions, &key, 0);
    tell(&mut sessions, &key, 5);
    assert_eq!(measured(&mut sessions, 5), [("p".to_owned(), vec!["served".to_owned()])]);
    assert_eq!(sessions.serving(), HashSet::from(["p".to_owned(), "q".to_owned()]));

    let again = open(&mut sessions, "p", hello("f", &[("served", 1)]), &[]);
    tell(&mut sessions, &key, 6);
    tell(&mut sessions, &again, 10);
    assert_eq!(measured(&mut sessions, 10), [("p".to_owned(), vec![])], "it may be another process");
    sessions.close(&again, start);
    assert!(measured(&mut sessions, 10).is_empty());

    let slow = HashMap::from([("p".to_owned(), Slow::example())]);
    assert!(sessions.slow_down(slow.clone()) && !sessions.slow_down(slow), "no news");
    open(&mut sessions, "p", hello("f", &[]), &[]);
    assert!(sessions.slow("p").is_some(), "to come back is no cure");
    assert!(sessions.slow_down(HashMap::new()) && sessions.slow("p").is_none());
    assert!(sessions.shims()["p"].pardoned);
    open(&mut sessions, "p", hello("f", &[]), &[]);
    assert!(!sessions.shims()["p"].pardoned, "what it had before is lost");
}
