//! Scenes of what shims say of themselves and of each other: what of it is believed, and whom it reaches.

use super::tests::{assigned, drain, hello, open, sessions};
use super::*;

#[test]
fn half_a_measurement_is_none_and_made_up_buckets_are_dropped() {
    let mut sessions = sessions();
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
    let mut sessions = sessions();
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
fn a_shim_is_believed_what_it_may_speak_of_and_no_more_than_it_can_have() {
    let mut sessions = sessions();
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
    sessions.assign(Assigned { beside: [("p".into(), 2)].into(), ..assigned("moved", 3, &["q"]) });
    assert_eq!(believed(&sessions, &again, 9), both(9, 4 * 2), "it answers for its hosts, as is known without telling");
    sessions.close(&again, Instant::now());
    assert!(believed(&sessions, &again, 3).is_empty());
}

#[test]
fn answers_are_looked_at_of_what_a_shim_is_to_serve_and_has_loaded() {
    let (mut sessions, start) = (sessions(), Instant::now());
    for service in ["served", "new", "left"] {
        sessions.assign(assigned(service, 1, &["p"]));
    }
    let key = open(&mut sessions, "p", hello("f", &[("served", 1), ("left", 1)]), &[]);
    sessions.assign(Assigned { beside: BTreeMap::from([("p".to_owned(), 10)]), ..assigned("left", 1, &["q"]) });
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
