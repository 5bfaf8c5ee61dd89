//! Requests to the real shim: every kind of guest, every limit. Real machine code, real TLS, loopback.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use crate::{
    client::{Connection, get, get_http2, try_get},
    operator::{HELLO, HELLO_P3, LOGGER, Operator, PROBE},
    process::{Shim, free_port},
};
use bytes::Bytes;
use futures::future::join_all;
use http::Request;
use http_body_util::Full;
use podless_link::v1::{Assignment, EnvVar, Grants};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A shim that serves one guest.
async fn serving(assignment: impl FnOnce(&Operator, u16) -> Assignment) -> (Operator, Shim, u16) {
    let (operator, port) = (Operator::start().await, free_port());
    let shim = Shim::start(&operator, &[]);
    operator.serve(&assignment(&operator, port)).await;
    (operator, shim, port)
}

#[tokio::test]
async fn hello_by_wasi_02_and_03_http_1_and_2() {
    let (operator, _shim, p2) = serving(|operator, port| {
        let env = vec![EnvVar { name: "GREETING".to_owned(), value: "hi by 0.2".to_owned() }];
        Assignment { env, ..operator.assignment(HELLO, "p2", port) }
    })
    .await;
    let p3 = free_port();
    operator.serve(&operator.assignment(HELLO_P3, "p3", p3)).await;
    for (port, want) in [(p2, "hi by 0.2\n"), (p3, "Hello from Podless\n")] {
        for answer in [get(port, "/").await, get_http2(port, "/").await] {
            assert_eq!((answer.status, answer.body.as_str()), (200, want));
        }
    }
}

#[tokio::test]
async fn each_request_has_an_instance_of_its_own() {
    let (operator, _shim, port) = serving(|operator, port| operator.assignment(PROBE, "a", port)).await;
    let mut connection = Connection::open(port).await.expect("connected");
    for _ in 0..5 {
        assert_eq!(connection.get("/fresh").await.expect("answered").body, "1\n");
    }
    let answers = join_all((0..50).map(|_| get(port, "/fresh"))).await;
    assert!(answers.iter().all(|answer| answer.body == "1\n"), "{answers:?}");
    let report = operator
        .until("a report with all requests", |said| {
            let service = said.reports.last()?.services.first()?.clone();
            (service.requests >= 55).then_some(service)
        })
        .await;
    assert_eq!((report.cold_starts, report.requests, report.live_instances), (55, 55, 0));
    assert!(report.peak_instances >= 1, "{report:?}");
    let phases = report.phases.expect("phases");
    for (phase, count) in
        [(phases.fetch, 1), (phases.load, 1), (phases.link, 1), (phases.instantiate, 55), (phases.first_byte, 55)]
    {
        assert_eq!(phase.expect("a phase").counts.values().sum::<u64>(), count);
    }
}

#[tokio::test]
async fn a_guest_finds_nothing_but_what_it_was_given() {
    let (_operator, _shim, port) = serving(|operator, port| {
        let env = vec![EnvVar { name: "ONLY".to_owned(), value: "this".to_owned() }];
        Assignment { env, ..operator.assignment(PROBE, "a", port) }
    })
    .await;
    assert_eq!(get(port, "/env").await.body, "ONLY=this\n");
    let files = get(port, "/fs").await.body;
    assert_eq!(files.matches("no file").count(), 3, "{files}");
}

#[tokio::test]
async fn bodies_pass_both_ways_and_too_large_ones_do_not() {
    let (_operator, _shim, port) = serving(|operator, port| operator.assignment(PROBE, "a", port)).await;
    let post = |body: Vec<u8>| {
        Request::post("/echo").header("host", "test").body(Full::new(Bytes::from(body))).expect("a request")
    };
    let mut connection = Connection::open(port).await.expect("connected");
    let answer = connection.send(post(vec![b'x'; 3 << 20])).await.expect("echoed");
    assert_eq!((answer.status, answer.body.len()), (200, 3 << 20));
    let big = get(port, "/big?bytes=5000000").await;
    assert_eq!((big.status, big.body.len()), (200, 5_000_000));
    let mut connection = Connection::open(port).await.expect("connected");
    let mut lying = post(vec![]);
    lying.headers_mut().insert("content-length", "67108865".parse().expect("a value"));
    let status = connection.send(lying).await.expect("refused at once").status;
    assert_eq!(status, 413);
}

#[tokio::test]
async fn a_header_that_never_ends_is_refused() {
    let (_operator, _shim, port) = serving(|operator, port| operator.assignment(HELLO, "a", port)).await;
    let mut connection = Connection::open(port).await.expect("connected");
    let request = Request::get("/").header("host", "test").header("long", "x".repeat(80 << 10));
    let answer = connection.send(request.body(Full::default()).expect("a request")).await.expect("answered");
    assert_eq!(answer.status, 431);
    let stripped = http::Request::get("/").version(http::Version::HTTP_11).body(Full::default()).expect("a request");
    let mut connection = Connection::open(port).await.expect("connected");
    assert_eq!(connection.send(stripped).await.expect("answered").status, 400, "no Host");
}

#[tokio::test]
async fn a_host_that_is_none_is_the_clients_fault() {
    let (_operator, _shim, port) = serving(|operator, port| operator.assignment(HELLO, "a", port)).await;
    for hosts in [&[""][..], &["a b/c"], &["a", "b"]] {
        let mut request = Request::get("/").version(http::Version::HTTP_11);
        for host in hosts {
            request = request.header("host", *host);
        }
        let mut connection = Connection::open(port).await.expect("connected");
        let answer = connection.send(request.body(Full::default()).expect("a request")).await.expect("answered");
        assert_eq!(answer.status, 400, "{hosts:?}");
    }
}

#[tokio::test]
async fn a_guest_that_spins_is_ended_and_others_answer_meanwhile() {
    let (operator, shim, spins) =
        serving(|operator, port| Assignment { timeout_millis: 1500, ..operator.assignment(PROBE, "spins", port) })
            .await;
    let other = free_port();
    operator.serve(&operator.assignment(HELLO, "other", other)).await;
    let started = Instant::now();
    // More of them than there are cores: each round of theirs takes 10 ms a guest.
    let spinning = tokio::spawn(async move { join_all((0..8).map(|_| get(spins, "/spin"))).await });
    let mut slowest = Duration::ZERO;
    let mut answered = 0;
    while started.elapsed() < Duration::from_millis(1000) {
        let asked = Instant::now();
        assert_eq!(get(other, "/").await.status, 200);
        slowest = slowest.max(asked.elapsed());
        answered += 1;
    }
    assert!(
        answered >= 10 && slowest < Duration::from_millis(500),
        "{answered} answers, the slowest after {slowest:?}"
    );
    for answer in spinning.await.expect("joined") {
        assert_eq!((answer.status, answer.body.as_str()), (504, "the component did not answer in time\n"));
    }
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    let line = shim.printed(|line| (line["service"] == "service-spins").then(|| line.clone())).await;
    assert_eq!((&line["stream"], &line["level"]), (&"shim".into(), &"error".into()));
    // Every instance was ended, not only its answer.
    operator.until("no live instance", |said| (said.reports.last()?.live_instances == 0).then_some(())).await;
    assert_eq!(get(spins, "/").await.status, 200);
}

#[tokio::test]
async fn memory_is_limited_and_a_trap_is_said_plainly() {
    let (_operator, shim, port) =
        serving(|operator, port| Assignment { instance_memory: 16 << 20, ..operator.assignment(PROBE, "a", port) })
            .await;
    assert_eq!(get(port, "/grow?mb=8").await.status, 200);
    let answer = get(port, "/grow?mb=32").await;
    assert_eq!((answer.status, answer.body.as_str()), (500, "the component failed\n"));
    let answer = get(port, "/trap").await;
    assert_eq!((answer.status, answer.body.as_str()), (500, "the component failed\n"), "nothing of its inside");
    let detail = shim.printed(|line| (line["stream"] == "shim").then(|| line["message"].to_string())).await;
    assert!(detail.contains("wasm trap"), "the log has the detail: {detail}");
    assert_eq!(get(port, "/fresh").await.body, "1\n");
}

#[tokio::test]
async fn what_exceeds_the_budget_waits_a_while_then_is_refused() {
    let (operator, _shim, port) =
        serving(|operator, port| Assignment { budget: 2, ..operator.assignment(PROBE, "a", port) }).await;
    // Two are served, two wait too long, the rest are refused at once.
    let answers = join_all((0..8).map(|_| get(port, "/slow?ms=2500"))).await;
    let count = |status| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((count(200), count(503)), (2, 6));
    let refused = answers.iter().find(|answer| answer.status == 503).expect("one");
    assert_eq!(refused.headers["retry-after"], "1");
    // A short wait is no refusal.
    let answers = join_all((0..4).map(|_| get(port, "/slow?ms=50"))).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    operator.until("the refused", |said| (said.reports.last()?.services.first()?.rejected == 6).then_some(())).await;
}

#[tokio::test]
async fn a_node_without_a_free_instance_says_so() {
    let (operator, port) = (Operator::start().await, free_port());
    let _shim = Shim::start(&operator, &["--instances", "3"]);
    operator.serve(&operator.assignment(PROBE, "a", port)).await;
    let answers = join_all((0..9).map(|_| get(port, "/slow?ms=2500"))).await;
    let count = |body: &str| answers.iter().filter(|answer| answer.body == body).count();
    assert_eq!((count("2500 ms\n"), count("the node has no free instance\n")), (3, 6), "{answers:?}");
    let answers = join_all((0..6).map(|_| get(port, "/slow?ms=50"))).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_cut_off_for_all_to_see() {
    let (_operator, _shim, port) =
        serving(|operator, port| Assignment { timeout_millis: 800, ..operator.assignment(PROBE, "a", port) }).await;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("connected");
    // The guest answers at once and then waits for a body that never comes.
    let head = "POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\nhalf";
    stream.write_all(head.as_bytes()).await.expect("written");
    let mut answer = String::new();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_string(&mut answer)).await;
    // A reset is as good as an end without the last chunk.
    let _ = read.expect("the connection ends");
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.ends_with("0\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_place() {
    let (_operator, shim, port) =
        serving(|operator, port| Assignment { budget: 1, ..operator.assignment(PROBE, "a", port) }).await;
    let started = Instant::now();
    let leaving = tokio::time::timeout(Duration::from_millis(300), try_get(port, "/slow?ms=9500")).await;
    assert!(leaving.is_err(), "it was being answered when the client left");
    // It may only have closed its side: for five seconds it could still want its answer.
    while get(port, "/").await.status != 200 {
        assert!(started.elapsed() < Duration::from_secs(8), "the place is not free");
    }
    // Who leaves by a reset is known to be gone.
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("connected");
    stream.set_zero_linger().expect("set");
    let mut stream = stream;
    stream.write_all(b"GET /slow?ms=9500 HTTP/1.1\r\nhost: test\r\n\r\n").await.expect("written");
    let in_flight = r#"podless_shim_requests_in_flight{namespace="tests",service="service-a"} 1"#;
    shim.until_admin("/metrics", |_, text| text.contains(in_flight)).await;
    assert_eq!(get(port, "/").await.status, 503, "its place is taken");
    drop(stream);
    assert_eq!(get(port, "/").await.status, 200);
}

#[tokio::test]
async fn a_client_that_has_closed_its_side_gets_its_answer() {
    let (_operator, _shim, port) = serving(|operator, port| operator.assignment(PROBE, "a", port)).await;
    // Often: head and end may be read together, before the answer has begun; and the answer ends in good time.
    let start = Instant::now();
    let quick = std::iter::repeat_n(("/", "probe\n"), 200);
    for (path, body) in quick.chain([("/slow?ms=2000", "2000 ms\n")]) {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("connected");
        let head = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("written");
        stream.shutdown().await.expect("closed");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(body), "{path}: {answer}");
    }
    assert!(start.elapsed() < Duration::from_secs(12), "connections end with their answers: {:?}", start.elapsed());
}

#[tokio::test]
async fn a_stopped_service_says_so_at_once_and_starts_again() {
    let (operator, port) = (Operator::start().await, free_port());
    let shim = Shim::start(&operator, &[]);
    let stopped = Assignment { budget: 0, ..operator.assignment(PROBE, "a", port) };
    operator.serve(&stopped).await;
    let answer = get(port, "/").await;
    assert_eq!((answer.status, answer.body.as_str()), (503, "the service is stopped: its spec.replicas is 0\n"));
    assert!(!answer.headers.contains_key("retry-after"));
    let fetches = async || operator.until("fetches", |said| Some(said.fetches)).await;
    assert_eq!(fetches().await, 0, "nothing is loaded of it");
    shim.kill_serving().await;
    assert_eq!(get(port, "/").await.status, 503, "nor after a restart");
    let count = r#"podless_shim_requests_refused_total{namespace="tests",service="service-a",reason="stopped"} 1"#;
    shim.until_admin("/metrics", |_, text| text.contains(count)).await;
    operator.until("the second hello", |said| said.hellos.get(1).map(drop)).await;
    let started = Assignment { budget: 10, generation: 2, ..stopped.clone() };
    operator.serve(&started).await;
    let slow = tokio::spawn(async move { get(port, "/slow?ms=1500").await });
    let in_flight = r#"podless_shim_requests_in_flight{namespace="tests",service="service-a"} 1"#;
    shim.until_admin("/metrics", |_, text| text.contains(in_flight)).await;
    operator.serve(&Assignment { generation: 3, ..stopped }).await;
    assert_eq!(get(port, "/").await.status, 503);
    assert_eq!(slow.await.expect("joined").status, 200, "what was in flight is answered");
}

#[tokio::test]
async fn what_guests_say_comes_out_as_lines_of_json() {
    let (_operator, shim, port) = serving(|operator, port| Assignment {
        grants: Some(Grants { logging: true, ..Default::default() }),
        ..operator.assignment(LOGGER, "a", port)
    })
    .await;
    assert_eq!(get(port, "/where").await.body, "said\n");
    for (stream, level) in [("stdout", None), ("stderr", None), ("logging", Some("warn"))] {
        let line = shim.printed(|line| (line["stream"] == stream).then(|| line.clone())).await;
        assert_eq!(line["message"], format!("{stream} /where"));
        assert_eq!((&line["namespace"], &line["service"]), (&"tests".into(), &"service-a".into()));
        assert_eq!(line["level"].as_str(), level);
    }
}
