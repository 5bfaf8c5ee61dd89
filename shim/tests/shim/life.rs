//! The life of services and of the shim: what is taken and what is not, updates, withdrawals, restarts, the end.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::{
    client::{Connection, get, try_get},
    operator::{HELLO, HELLO_P3, LOGGER, Operator, PROBE, Said},
    process::{Shim, free_port},
};
use podless_artifact::seal::HttpWorld;
use podless_link::v1::{self, Assignment, EnvVar, ack::Outcome, to_shim};

fn greeting(text: &str) -> Vec<EnvVar> {
    vec![EnvVar { name: "GREETING".to_owned(), value: text.to_owned() }]
}

fn reason(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Failed(failed) => &failed.reason,
        Outcome::Loaded(_) => "loaded",
        Outcome::Withdrawn(_) => "withdrawn",
    }
}

#[tokio::test]
async fn only_sealed_and_signed_code_is_served() {
    let operator = Operator::start().await;
    let shim = Shim::start(&operator, &[]);
    shim.ready().await;
    // The right signature over other bytes.
    let mut forged = operator.sign(&operator.assignment(HELLO, "forged", free_port()));
    forged.assignment.extend([0x28, 5]);
    operator.send(to_shim::Body::Assign(forged));
    assert_eq!(reason(&operator.acked("forged", 1).await), "signature-invalid");
    // A seal that somebody else made.
    let stranger = Operator::start().await;
    let mut foreign = operator.assignment(HELLO, "foreign", free_port());
    foreign.sealed = stranger.assignment(HELLO, "foreign", 20_000).sealed;
    let mut text = String::from_utf8(foreign.sealed).expect("JSON");
    text = text.replacen("sha256:00", "sha256:99", 1);
    foreign.sealed = text.into_bytes();
    operator.assign(&foreign);
    assert_eq!(reason(&operator.acked("foreign", 1).await), "seal-invalid");
    // Sealed, and no machine code of ours.
    operator.assign(&operator.assignment_of(b"\x7fELF nonsense".to_vec(), HttpWorld::P2, "nonsense", free_port()));
    assert_eq!(reason(&operator.acked("nonsense", 1).await), "load-failed");
    // An import that was not granted.
    operator.assign(&operator.assignment(LOGGER, "ungranted", free_port()));
    assert_eq!(reason(&operator.acked("ungranted", 1).await), "link-failed");
    // Other bytes than were sealed.
    let damaged = operator.assignment(HELLO_P3, "damaged", free_port());
    operator.damage_artifacts();
    operator.assign(&damaged);
    assert_eq!(reason(&operator.acked("damaged", 1).await), "artifact-mismatch");
    let hash = |a: &Assignment| String::from_utf8_lossy(&a.sealed).contains("codeSha256");
    assert!(hash(&damaged));
    assert!(fs::read_dir(&shim.state_dir).expect("listed").next().is_none(), "nothing is kept of them");
}

#[tokio::test]
async fn an_update_takes_over_and_a_broken_one_does_not() {
    let (operator, port) = (Operator::start().await, free_port());
    let _shim = Shim::start(&operator, &[]);
    let first = Assignment { env: greeting("one"), ..operator.assignment(HELLO, "a", port) };
    operator.serve(&first).await;
    let mut kept = Connection::open(port).await.expect("connected");
    assert_eq!(kept.get("/").await.expect("answered").body, "one\n");

    let second = Assignment { generation: 2, env: greeting("two"), ..first.clone() };
    operator.serve(&second).await;
    assert_eq!(kept.get("/").await.expect("answered").body, "two\n", "on the same connection");

    let code = b"not machine code".to_vec();
    let broken = Assignment { generation: 3, ..operator.assignment_of(code, HttpWorld::P2, "a", port) };
    operator.assign(&broken);
    assert_eq!(reason(&operator.acked("a", 3).await), "load-failed");
    assert_eq!(kept.get("/").await.expect("answered").body, "two\n", "what served goes on");

    operator.send(to_shim::Body::Assign(operator.sign(&first)));
    assert_eq!(
        reason(
            &operator
                .until("the refusal", |said| {
                    let ack = said.acks.iter().rfind(|ack| ack.generation == 1)?;
                    ack.outcome.clone().filter(|outcome| reason(outcome) != "loaded")
                })
                .await
        ),
        "generation-lowered"
    );
    assert_eq!(kept.get("/").await.expect("answered").body, "two\n");

    let moved = Assignment { generation: 4, port: free_port().into(), ..second };
    operator.serve(&moved).await;
    let new_port = u16::try_from(moved.port).expect("a port");
    assert_eq!(get(new_port, "/").await.body, "two\n");
    assert_eq!(kept.get("/").await.expect("answered").body, "two\n", "the old port lingers");
}

#[tokio::test]
async fn requests_in_flight_keep_their_generation() {
    let (operator, port) = (Operator::start().await, free_port());
    let shim = Shim::start(&operator, &[]);
    let first = operator.assignment(PROBE, "a", port);
    operator.serve(&first).await;
    let slow = tokio::spawn(async move { get(port, "/slow?ms=1500").await });
    let in_flight = r#"podless_shim_requests_in_flight{namespace="tests",service="service-a"} 1"#;
    shim.until_admin("/metrics", |_, text| text.contains(in_flight)).await;
    let second = Assignment { generation: 2, ..operator.assignment(HELLO, "a", port) };
    operator.serve(&second).await;
    assert_eq!(get(port, "/").await.body, "Hello from Podless\n");
    assert!(!slow.is_finished(), "the old one was still being answered");
    assert_eq!(slow.await.expect("joined").body, "1500 ms\n");
}

#[tokio::test]
async fn a_withdrawn_service_lingers_drains_and_is_forgotten() {
    let (operator, port) = (Operator::start().await, free_port());
    let shim = Shim::start(&operator, &[]);
    operator.serve(&operator.assignment(PROBE, "a", port)).await;
    operator.withdraw("a", 1, Duration::from_millis(700));
    let slow = tokio::spawn(async move { get(port, "/slow?ms=1500").await });
    assert_eq!(get(port, "/").await.status, 200, "it lingers");
    assert_eq!(
        reason(
            &operator
                .until("it is gone", |said| {
                    let ack = said.acks.iter().find(|ack| matches!(ack.outcome, Some(Outcome::Withdrawn(_))))?;
                    ack.outcome.clone()
                })
                .await
        ),
        "withdrawn"
    );
    assert_eq!(slow.await.expect("joined").body, "1500 ms\n", "what was in flight ended first");
    assert!(try_get(port, "/").await.is_err(), "the port is closed");
    assert!(fs::read_dir(&shim.state_dir).expect("listed").next().is_none());
    let no_artifact = || fs::read_dir(shim.data_dir.join("artifacts")).expect("listed").next().is_none();
    shim.until_admin("/healthz", |_, _| no_artifact()).await;
    // The port is free for another, and the old generation does not come back.
    operator.serve(&operator.assignment(HELLO, "b", port)).await;
    assert_eq!(get(port, "/").await.body, "Hello from Podless\n");
    operator.send(to_shim::Body::Withdraw(v1::Withdraw { service_uid: "b".into(), generation: 0, linger_millis: 0 }));
    operator.send(to_shim::Body::Withdraw(v1::Withdraw { service_uid: "c".into(), generation: 9, linger_millis: 0 }));
    assert_eq!(reason(&operator.acked("c", 9).await), "withdrawn", "what is not known is gone already");
    assert_eq!(get(port, "/").await.status, 200, "an old withdrawal is not followed");
}

#[tokio::test]
async fn what_is_gone_comes_back_with_an_older_generation() {
    let (operator, port) = (Operator::start().await, free_port());
    let shim = Shim::start(&operator, &[]);
    let first = operator.assignment(HELLO, "a", port);
    operator.serve(&first).await;
    operator.withdraw("a", 7, Duration::ZERO);
    assert_eq!(reason(&operator.acked("a", 7).await), "withdrawn");
    assert!(try_get(port, "/").await.is_err(), "the port is closed");
    operator.assign(&first);
    let served = || fs::read_dir(&shim.state_dir).expect("listed").next().is_some();
    shim.until_admin("/healthz", |_, _| served()).await;
    assert_eq!(get(port, "/").await.body, "Hello from Podless\n");
}

#[tokio::test]
async fn what_came_back_and_was_withdrawn_again_is_gone_with_the_last_withdrawal() {
    let (operator, port) = (Operator::start().await, free_port());
    let _shim = Shim::start(&operator, &[]);
    let first = operator.assignment(HELLO, "a", port);
    operator.serve(&first).await;
    operator.withdraw("a", 1, Duration::from_millis(500));
    let again = Assignment { generation: 2, port: free_port().into(), ..first };
    operator.serve(&again).await;
    operator.withdraw("a", 2, Duration::from_millis(1500));
    let gone = |said: &Said| {
        let acks = said.acks.iter().filter(|ack| matches!(ack.outcome, Some(Outcome::Withdrawn(_))));
        let generations: Vec<_> = acks.map(|ack| ack.generation).collect();
        generations.contains(&2).then_some(generations)
    };
    let gone = operator.until("it is gone", gone).await;
    assert_eq!(gone, [2], "while the second lingered it was not gone");
}

#[tokio::test]
async fn a_port_is_handed_on_while_its_last_owner_lingers() {
    let (operator, port) = (Operator::start().await, free_port());
    let _shim = Shim::start(&operator, &[]);
    operator.serve(&operator.assignment(PROBE, "a", port)).await;
    operator.assign(&operator.assignment(HELLO, "thief", port));
    assert_eq!(reason(&operator.acked("thief", 1).await), "port-unavailable");
    operator.withdraw("a", 1, Duration::from_secs(60));
    operator
        .until("the other has the port", |said| {
            said.acks
                .iter()
                .find(|a| a.service_uid == "thief" && matches!(a.outcome, Some(Outcome::Loaded(_))))
                .map(drop)
        })
        .await;
    assert_eq!(get(port, "/").await.body, "Hello from Podless\n");
}

#[tokio::test]
async fn killed_and_without_an_operator_it_serves_again() {
    let mut operator = Operator::start().await;
    let mut shim = Shim::start(&operator, &[]);
    let mut ports = vec![];
    for (n, guest) in [HELLO, HELLO_P3, PROBE].into_iter().enumerate() {
        let port = free_port();
        operator.serve(&operator.assignment(guest, &format!("uid-{n}"), port)).await;
        ports.push(port);
    }
    operator.stop().await;
    assert_eq!(get(ports[0], "/").await.status, 200, "traffic does not need the operator");
    shim.kill();
    let started = Instant::now();
    shim.restart();
    shim.ready().await;
    for port in &ports {
        assert_eq!(get(*port, "/").await.status, 200);
    }
    assert!(started.elapsed() < Duration::from_secs(2), "it took {:?}", started.elapsed());
    // Back again, the operator hears what is served and sends nothing twice.
    operator.listen().await;
    let known = operator.until("the second hello", |said| said.hellos.get(1).map(|hello| hello.known.len())).await;
    assert_eq!(known, 3);
    assert_eq!(operator.until("fetches", |said| Some(said.fetches)).await, 3);
}

#[tokio::test]
async fn what_lingers_keeps_its_artifact_for_the_next_and_for_a_restart() {
    let mut operator = Operator::start().await;
    let mut shim = Shim::start(&operator, &[]);
    let next = free_port();
    operator.serve(&operator.assignment(HELLO, "lingers", free_port())).await;
    operator.withdraw("lingers", 1, Duration::from_secs(60));
    operator.serve(&operator.assignment(PROBE, "goes", free_port())).await;
    operator.withdraw("goes", 1, Duration::ZERO);
    let hash = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(PROBE.code()));
    let swept = || !shim.data_dir.join("artifacts").join(format!("{hash}.cwasm")).exists();
    shim.until_admin("/healthz", |_, _| swept()).await;
    operator.serve(&operator.assignment(HELLO, "next", next)).await;
    operator.stop().await;
    shim.kill();
    shim.restart();
    shim.ready().await;
    assert_eq!(get(next, "/").await.status, 200);
}

#[tokio::test]
async fn what_was_damaged_while_it_was_down_is_not_served() {
    let mut operator = Operator::start().await;
    let mut shim = Shim::start(&operator, &[]);
    let (good, bad, forged) = (free_port(), free_port(), free_port());
    for (uid, guest, port) in [("good", HELLO, good), ("bad", HELLO_P3, bad), ("forged", PROBE, forged)] {
        operator.serve(&operator.assignment(guest, uid, port)).await;
    }
    operator.stop().await;
    shim.kill();
    let bad_hash = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(HELLO_P3.code()));
    let artifact = shim.data_dir.join("artifacts").join(format!("{bad_hash}.cwasm"));
    let mut bytes = fs::read(&artifact).expect("it lies there");
    bytes[1000] ^= 1;
    fs::remove_file(&artifact).and_then(|()| fs::write(&artifact, bytes)).expect("damaged");
    let assignment = shim.state_dir.join("forged.assignment");
    let mut bytes = fs::read(&assignment).expect("it is kept");
    bytes[20] ^= 1;
    fs::write(&assignment, bytes).expect("damaged");
    shim.restart();
    shim.ready().await;
    assert_eq!(get(good, "/").await.status, 200);
    assert!(try_get(bad, "/").await.is_err() && try_get(forged, "/").await.is_err());
    // The operator mends both.
    operator.listen().await;
    for port in [bad, forged] {
        let answered = async {
            while try_get(port, "/").await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(crate::operator::PATIENCE, answered).await.expect("it serves again");
    }
}

#[tokio::test]
async fn what_cannot_start_is_not_called_loaded_and_leaves_the_old_one_serving() {
    let operator = Operator::start().await;
    let _shim = Shim::start(&operator, &[]);
    let port = free_port();
    let good = operator.assignment(HELLO, "a", port);
    operator.serve(&good).await;
    // Its stack alone needs more.
    let small = Assignment { instance_memory: 1 << 20, generation: good.generation + 1, ..good };
    operator.send(to_shim::Body::Assign(operator.sign(&small)));
    match operator.acked("a", small.generation).await {
        Outcome::Failed(failed) => {
            assert_eq!(failed.reason, "start-failed");
            assert!(failed.message.contains("spec.instance.memory"), "{}", failed.message);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(get(port, "/").await.status, 200);
}

#[tokio::test]
async fn a_new_shim_is_ready_when_the_operator_has_said_everything() {
    let mut operator = Operator::start().await;
    operator.stop().await;
    let shim = Shim::start(&operator, &[]);
    shim.until_admin("/healthz", |status, _| status == 200).await;
    shim.until_admin("/readyz", |status, body| status == 503 && body.contains("waiting")).await;
    let port = free_port();
    let assignment = operator.assignment(HELLO, "a", port);
    operator.assign(&assignment);
    operator.listen().await;
    shim.ready().await;
    assert_eq!(get(port, "/").await.status, 200, "ready means that what was assigned is served");
    shim.until_admin("/metrics", |_, text| {
        text.contains("podless_shim_link_connected 1")
            && text.contains(r#"podless_shim_requests_total{namespace="tests",service="service-a",code="2xx"} 1"#)
    })
    .await;
}

#[tokio::test]
async fn asked_to_stop_it_serves_on_then_ends_what_is_in_flight() {
    let (operator, port) = (Operator::start().await, free_port());
    let shim = Shim::start(&operator, &["--drain-seconds", "1"]);
    operator.serve(&operator.assignment(PROBE, "a", port)).await;
    let mut kept = Connection::open(port).await.expect("connected");
    assert!(!kept.get("/").await.expect("answered").headers.contains_key("connection"));
    shim.terminate();
    shim.until_admin("/readyz", |status, body| status == 503 && body.contains("going away")).await;
    let answer = kept.get("/").await.expect("answered");
    assert_eq!((answer.status, answer.headers["connection"].as_bytes()), (200, &b"close"[..]));
    let slow = tokio::spawn(async move { get(port, "/slow?ms=2500").await });
    assert_eq!(get(port, "/").await.status, 200, "new connections are taken while it lingers");
    assert!(shim.ended().await.success());
    assert_eq!(slow.await.expect("joined").body, "2500 ms\n");
    assert!(try_get(port, "/").await.is_err());
}

#[tokio::test]
async fn resident_memory_is_what_proc_says() {
    let operator = Operator::start().await;
    let shim = Shim::start(&operator, &[]);
    let port = free_port();
    operator.serve(&operator.assignment(PROBE, "a", port)).await;
    for _ in 0..20 {
        assert_eq!(get(port, "/").await.status, 200);
    }
    let before = operator.until("reports", |said| Some(said.reports.len())).await;
    let report = operator.until("another report", |said| said.reports.get(before + 1).cloned()).await;
    let (memory, service) = (report.memory.expect("memory"), report.services[0].clone());
    let proc = shim.resident().await as f64;
    assert!((memory.resident_bytes as f64 / proc - 1.0).abs() < 0.1, "{memory:?}, /proc says {proc}");
    assert_eq!(memory.resident_bytes, memory.unattributed_bytes + service.resident_bytes);
    assert!(service.resident_bytes > 100_000 && service.resident_bytes < 20_000_000, "{service:?}");
    assert!(service.bytes_per_instance > 4096 && service.bytes_per_instance < 4_000_000, "{service:?}");
}
