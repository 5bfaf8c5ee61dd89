//! The shared port: each request's host and path say whose it is, on whatever connection it comes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use http::Request;
use http_body_util::Full;
use podless_link::v1::{self, Assignment, EnvVar, ack::Outcome};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    client::{Answer, Connection, Failure, get, get_http2},
    operator::{HELLO, Operator, PATIENCE, PROBE},
    process::{Shim, free_port},
};

fn hosts(all: &[(&str, &str)]) -> Vec<v1::Host> {
    all.iter().map(|(name, path)| v1::Host { name: (*name).to_owned(), path: (*path).to_owned() }).collect()
}

/// A service that answers with its uid.
fn hello(operator: &Operator, uid: &str, created_at: i64, has: &[(&str, &str)]) -> Assignment {
    Assignment {
        env: vec![EnvVar { name: "GREETING".to_owned(), value: uid.to_owned() }],
        hosts: hosts(has),
        created_at,
        ..operator.assignment(HELLO, uid, free_port())
    }
}

fn start(operator: &Operator) -> (Shim, u16) {
    let port = free_port();
    (Shim::start(operator, &["--shared-port", &port.to_string()]), port)
}

async fn ask(connection: &mut Connection, host: &str, path: &str) -> Result<Answer, Failure> {
    let request = Request::get(path).header("host", host).body(Full::<Bytes>::default()).expect("a request");
    connection.send(request).await
}

/// The status, and of an answer the line.
async fn of(port: u16, host: &str, path: &str) -> (u16, String) {
    let mut connection = Connection::open(port).await.expect("connected");
    let answer = ask(&mut connection, host, path).await.expect("answered");
    (answer.status, answer.body.trim_end().to_owned())
}

fn line(uid: &str) -> (u16, String) {
    (200, uid.to_owned())
}

/// What comes back for these bytes, until the shim has closed the connection.
async fn raw(port: u16, bytes: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connected");
    stream.write_all(bytes.as_bytes()).await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    answer
}

#[tokio::test]
async fn host_and_path_say_whose_a_request_is() {
    let operator = Operator::start().await;
    let (shim, port) = start(&operator);
    operator.serve(&hello(&operator, "a", 1, &[("a.test", ""), ("*.w.test", ""), ("test", "")])).await;
    operator.serve(&hello(&operator, "b", 2, &[("a.test", "/api"), ("x.w.test", "")])).await;
    // Nothing of it is resident until somebody asks.
    let parked = hello(&operator, "parked", 3, &[("parked.test", "")]);
    let own = u16::try_from(parked.port).expect("a port");
    operator.serve(&Assignment { parked: true, ..parked }).await;
    operator.serve(&Assignment { budget: 0, ..hello(&operator, "stopped", 4, &[("stopped.test", "")]) }).await;

    let mut kept = Connection::open(port).await.expect("connected");
    for (host, path, want) in [
        ("a.test", "/", "a"),
        ("a.test", "/api", "b"),
        ("a.test", "/api/x?y", "b"),
        ("a.test", "/apis", "a"),
        ("A.Test.:8000", "/", "a"),
        ("deep.y.w.test", "/", "a"),
        ("x.w.test", "/", "b"),
        ("parked.test", "/", "parked"),
    ] {
        let answer = ask(&mut kept, host, path).await.expect("answered");
        assert_eq!((answer.status, answer.body.trim_end()), (200, want), "{host} {path}, on one connection");
    }
    for (host, status) in [("w.test", 404), ("c.test", 404), ("127.0.0.1", 404), ("stopped.test", 503)] {
        assert_eq!(ask(&mut kept, host, "/").await.expect("answered").status, status, "{host}");
    }
    assert_eq!(get_http2(port, "/").await.body, "a\n", "by its :authority");
    assert_eq!(get(own, "/").await.body, "parked\n", "its own port answers as before");

    for (head, want) in [
        ("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", " 400 "),
        ("GET / HTTP/1.1\r\nHost: a.test\r\nHost: a.test\r\nConnection: close\r\n\r\n", " 400 "),
        ("GET / HTTP/1.0\r\n\r\n", " 400 "),
        ("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n", " 200 "),
        ("GET http://a.test/api HTTP/1.1\r\nHost: c.test\r\nConnection: close\r\n\r\n", "b\n"),
        // Whoever it is for, the connection ends where it is in doubt where the request does.
        ("POST / HTTP/1.1\r\nHost: c.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", " 501 "),
        ("POST / HTTP/1.1\r\nHost: stopped.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", " 501 "),
        ("CONNECT c.test:443 HTTP/1.1\r\nHost: c.test:443\r\n\r\n", " 405 "),
    ] {
        let answer = raw(port, head).await;
        assert!(answer.contains(want), "{head:?}: {answer:?}");
    }
    // They are counted where they belong.
    let line = "podless_shim_requests_in_flight{namespace=\"tests\",service=\"service-b\"} 0\n";
    shim.until_admin("/metrics", |_, text| text.contains(line)).await;
    let requests = operator.until("b's requests", |said| {
        let service = said.reports.last()?.services.iter().find(|service| service.service_uid == "b")?;
        (service.requests == 4).then_some(())
    });
    requests.await;
}

#[tokio::test]
async fn a_host_that_no_request_can_mean_is_refused() {
    let operator = Operator::start().await;
    let (_shim, _) = start(&operator);
    operator.assign(&hello(&operator, "a", 1, &[("A.test", "")]));
    // What cannot be read has no service that the answer could be about.
    let refused = operator.until("the refusal", |said| {
        said.acks.iter().find_map(|ack| match &ack.outcome {
            Some(Outcome::Failed(failed)) => Some(failed.reason.clone()),
            _ => None,
        })
    });
    assert_eq!(refused.await, "assignment-invalid");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_changes_hands_under_load_and_nothing_is_lost() {
    let operator = Operator::start().await;
    let (_shim, port) = start(&operator);
    let old = hello(&operator, "old", 1, &[("moves.test", ""), ("stays.test", "")]);
    let young = hello(&operator, "young", 2, &[("moves.test", "")]);
    operator.serve(&old).await;
    operator
        .serve(&Assignment { hosts: hosts(&[("by.test", "")]), ..operator.assignment(PROBE, "by", free_port()) })
        .await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = ["moves.test", "stays.test", "by.test"]
        .into_iter()
        .map(|host| {
            let stop = stop.clone();
            tokio::spawn(async move {
                let (mut answered, mut kept) = (0, Connection::open(port).await.expect("connected"));
                while !stop.load(Relaxed) {
                    let mut fresh = Connection::open(port).await.expect("connected");
                    for connection in [&mut kept, &mut fresh] {
                        let answer = ask(connection, host, "/").await.expect("answered");
                        assert_eq!(answer.status, 200, "{host}: {answer:?}");
                        answered += 1;
                    }
                }
                answered
            })
        })
        .collect();
    for round in 0..10 {
        // Both say that they have it: the older one does.
        operator.serve(&Assignment { generation: 2 * round + 1, ..young.clone() }).await;
        assert_eq!(of(port, "moves.test", "/").await, line("old"));
        let without = Assignment { generation: 2 * round + 2, hosts: hosts(&[("stays.test", "")]), ..old.clone() };
        operator.serve(&without).await;
        assert_eq!(of(port, "moves.test", "/").await, line("young"));
        operator.serve(&Assignment { generation: 2 * round + 3, ..old.clone() }).await;
        assert_eq!(of(port, "moves.test", "/").await, line("old"));
        let none = Assignment { generation: 2 * round + 2, hosts: vec![], ..young.clone() };
        operator.serve(&none).await;
    }
    // The older one goes: it answers until another has the host.
    operator.withdraw("old", 21, PATIENCE);
    assert_eq!(of(port, "moves.test", "/").await, line("old"));
    operator.serve(&Assignment { generation: 30, ..young }).await;
    assert_eq!(of(port, "moves.test", "/").await, line("young"));
    assert_eq!(of(port, "stays.test", "/").await, line("old"), "nobody else has that");
    stop.store(true, Relaxed);
    for client in join_all(clients).await {
        assert!(client.expect("nothing was lost") > 10);
    }
}

#[tokio::test]
async fn a_host_is_given_up_though_the_update_fails() {
    let operator = Operator::start().await;
    let (_shim, port) = start(&operator);
    let old = hello(&operator, "old", 1, &[("moves.test", ""), ("stays.test", "")]);
    operator.serve(&old).await;
    operator.serve(&hello(&operator, "young", 2, &[("moves.test", "")])).await;
    assert_eq!(of(port, "moves.test", "/").await, line("old"));
    // Its stack alone needs more.
    let small = Assignment {
        instance_memory: 1 << 20,
        generation: old.generation + 1,
        hosts: hosts(&[("stays.test", "")]),
        ..old
    };
    operator.assign(&small);
    assert!(matches!(operator.acked("old", small.generation).await, Outcome::Failed(_)));
    assert_eq!(of(port, "moves.test", "/").await, line("young"));
    assert_eq!(of(port, "stays.test", "/").await, line("old"), "what is left to it is answered by what serves");
    operator.withdraw("old", small.generation, Duration::ZERO);
    let gone = operator.until("it is gone", |said| {
        let mut acks = said.acks.iter();
        acks.any(|ack| matches!(ack.outcome, Some(Outcome::Withdrawn(_)))).then_some(())
    });
    gone.await;
    assert_eq!(of(port, "stays.test", "/").await.0, 404);
}

#[tokio::test]
async fn who_is_gone_has_no_host_any_more() {
    let operator = Operator::start().await;
    let (_shim, port) = start(&operator);
    operator.serve(&hello(&operator, "a", 1, &[("a.test", "")])).await;
    assert_eq!(of(port, "a.test", "/").await, line("a"));
    operator.withdraw("a", 1, Duration::ZERO);
    operator
        .until("it is gone", |said| {
            let mut acks = said.acks.iter();
            acks.any(|ack| matches!(ack.outcome, Some(Outcome::Withdrawn(_)))).then_some(())
        })
        .await;
    assert_eq!(of(port, "a.test", "/").await.0, 404);
}

#[tokio::test]
async fn asked_to_stop_it_answers_who_is_there_and_refuses_who_comes() {
    let (operator, port) = (Operator::start().await, free_port());
    let shim = Shim::start(&operator, &["--shared-port", &port.to_string(), "--drain-seconds", "0"]);
    let probe = operator.assignment(PROBE, "a", free_port());
    operator.serve(&Assignment { hosts: hosts(&[("a.test", "")]), ..probe }).await;
    let long = tokio::spawn(async move { of(port, "a.test", "/slow?ms=4000").await });
    let line = "podless_shim_requests_in_flight{namespace=\"tests\",service=\"service-a\"} 1\n";
    shim.until_admin("/metrics", |_, text| text.contains(line)).await;
    shim.terminate();
    let refused = async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("the port closes");
    assert!(!long.is_finished(), "the supervisor holds it no longer than it is served");
    assert_eq!(long.await.expect("joined"), (200, "4000 ms".to_owned()));
    assert!(shim.ended().await.success());
}

#[tokio::test]
async fn after_a_crash_hosts_are_as_before_and_whoever_comes_meanwhile_waits() {
    let operator = Operator::start().await;
    let (shim, port) = start(&operator);
    operator.serve(&hello(&operator, "a", 1, &[("a.test", "")])).await;
    for _ in 0..3 {
        shim.kill_serving().await;
        assert_eq!(of(port, "a.test", "/").await, line("a"), "not a moment of 404");
    }
}
