//! Clients that are slow: to send a head, to send a body, to take an answer. What they hold meanwhile, and what ends it.

use std::time::{Duration, Instant};

use futures::future::join_all;
use podless_link::v1::Assignment;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
};

use super::{
    frames::{END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, frame, get_head, open},
    read_until, rest,
};
use crate::{
    client::get,
    operator::{HELLO, Operator, PROBE},
    process::{Shim, free_port},
    storm::neighbour::Neighbour,
};

/// A connection whose client can be sent little before it reads.
async fn narrow(port: u16) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("set");
    socket.connect(([127, 0, 0, 1], port).into()).await.expect("connected")
}

fn in_flight(number: usize) -> String {
    format!("podless_shim_requests_in_flight{{namespace=\"tests\",service=\"service-a\"}} {number}\n")
}

/// The service's one place becomes free in this time. Who waits for it may be past its own deadline by then.
async fn free_within(port: u16, most: Duration) {
    let start = Instant::now();
    while get(port, "/").await.status != 200 {}
    assert!(start.elapsed() < most, "{:?}", start.elapsed());
}

/// Nothing of a service is taken by who has not sent a whole head: neither a place nor an instance.
#[tokio::test]
async fn heads_that_do_not_end_hold_nothing_of_a_service() {
    let (operator, port) = (Operator::start().await, free_port());
    let shim = Shim::start(&operator, &[]);
    operator.serve(&Assignment { budget: 10, ..operator.assignment(HELLO, "a", port) }).await;
    let neighbour = Neighbour::ask(port);
    let before = neighbour.stretch_of(100).await;
    let open = join_all((0..500).map(|_| async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connected");
        stream.write_all(b"GET / HTTP/1.1\r\nhost: te").await.expect("written");
        stream
    }));
    let streams = open.await;
    let during = neighbour.stretch_of(100).await;
    eprintln!("before: {before}; beside {} heads: {during}", streams.len());
    during.assert_undisturbed(&before);
    drop(neighbour);
    shim.until_admin("/metrics", |_, text| text.contains(&in_flight(0))).await;
}

/// A body that does not come holds a place until the request's time is over.
#[tokio::test]
async fn a_body_that_does_not_come_holds_its_place_until_the_deadline() {
    let (operator, port) = (Operator::start().await, free_port());
    let shim = Shim::start(&operator, &[]);
    let limited = Assignment { budget: 1, timeout_millis: 1000, ..operator.assignment(PROBE, "a", port) };
    operator.serve(&limited).await;
    let mut slow = TcpStream::connect(("127.0.0.1", port)).await.expect("connected");
    slow.write_all(b"POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\nhalf").await.expect("written");
    shim.until_admin("/metrics", |_, text| text.contains(&in_flight(1))).await;
    free_within(port, Duration::from_millis(1900)).await;
    rest(&mut slow).await;
}

/// Who takes nothing of an answer: a component that has more to say is ended at the deadline, and no place is held then.
#[tokio::test]
async fn an_answer_that_nobody_takes_holds_its_place_until_the_deadline() {
    let (operator, port) = (Operator::start().await, free_port());
    let shim = Shim::start(&operator, &[]);
    let limited = Assignment { budget: 1, timeout_millis: 1000, ..operator.assignment(PROBE, "a", port) };
    operator.serve(&limited).await;
    let mut slow = narrow(port).await;
    slow.write_all(b"GET /big?bytes=30000000 HTTP/1.1\r\nhost: test\r\n\r\n").await.expect("written");
    shim.until_admin("/metrics", |_, text| text.contains(&in_flight(1))).await;
    free_within(port, Duration::from_millis(1900)).await;
    operator.until("no live instance", |said| (said.reports.last()?.live_instances == 0).then_some(())).await;
    assert!(!rest(&mut slow).await.ends_with("0\r\n\r\n"), "it is seen not to be all");
}

/// Once its component has said everything, an answer holds no place, however slowly it is taken.
#[tokio::test]
async fn an_answer_whose_component_is_done_holds_no_place() {
    let (operator, port) = (Operator::start().await, free_port());
    let shim = Shim::start(&operator, &[]);
    operator.serve(&Assignment { budget: 1, ..operator.assignment(PROBE, "a", port) }).await;
    let mut kept = vec![];
    for _ in 0..20 {
        // By HTTP/2 a client says itself how much it takes: nothing.
        let (reader, mut writer) = open(port, 0).await;
        let head = get_head("/big?bytes=30000");
        assert!(writer.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head)).await);
        let mut reader = reader;
        reader.until(|frame| frame.kind == HEADERS).await.expect("an answer");
        kept.push((reader, writer));
    }
    assert_eq!(get(port, "/").await.status, 200, "the one place is free");
    // They are there, and their answers wait for them.
    shim.until_admin("/metrics", |_, text| text.contains(&in_flight(20))).await;
}

/// The same, much later.
#[tokio::test]
#[ignore = "waits for the time that a client has after a deadline: half a minute, twice by HTTP/2"]
async fn an_answer_that_is_not_taken_ends_its_connection_in_the_end() {
    let (operator, port) = (Operator::start().await, free_port());
    let shim = Shim::start(&operator, &[]);
    operator.serve(&Assignment { timeout_millis: 1000, ..operator.assignment(PROBE, "a", port) }).await;
    let (mut reader, mut writer) = open(port, 0).await;
    assert!(writer.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &get_head("/big?bytes=30000"))).await);
    let start = Instant::now();
    let answer = async {
        let mut told = None;
        while let Some(came) = reader.next().await {
            // It is alive, and says so.
            if came.kind == PING && came.flags == 0 {
                writer.send(&frame(PING, 1, 0, &came.payload)).await;
            }
            if came.kind == GOAWAY {
                told.get_or_insert(start.elapsed());
            }
        }
        told.expect("it is told to come again")
    };
    let told = tokio::time::timeout(Duration::from_secs(90), answer).await.expect("the connection ends");
    assert!(told > Duration::from_secs(30) && told < Duration::from_secs(40), "{told:?}");
    assert!(start.elapsed() > Duration::from_secs(60), "{:?}", start.elapsed());
    shim.until_admin("/metrics", |_, text| text.contains(&in_flight(0))).await;
}

/// A head that comes byte by byte has twenty seconds.
#[tokio::test]
#[ignore = "waits for the time that a head has: twenty seconds"]
async fn a_head_that_does_not_end_ends_its_connection() {
    let (operator, port) = (Operator::start().await, free_port());
    let _shim = Shim::start(&operator, &[]);
    operator.serve(&operator.assignment(HELLO, "a", port)).await;
    for begun in ["GET / HTTP/1.1\r\nhost: te", "PRI * HTTP/2"] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connected");
        stream.write_all(begun.as_bytes()).await.expect("written");
        let start = Instant::now();
        assert_eq!(rest(&mut stream).await, "", "{begun}");
        assert!(start.elapsed() > Duration::from_secs(19), "{begun}: {:?}", start.elapsed());
    }
}

/// Whoever reads slowly, but reads, gets everything.
#[tokio::test]
async fn who_reads_slowly_gets_everything() {
    let (operator, port) = (Operator::start().await, free_port());
    let _shim = Shim::start(&operator, &[]);
    operator.serve(&operator.assignment(PROBE, "a", port)).await;
    let mut slow = narrow(port).await;
    slow.write_all(b"GET /big?bytes=400000 HTTP/1.1\r\nhost: test\r\n\r\n").await.expect("written");
    let answer = read_until(&mut slow, "\r\n0\r\n\r\n").await;
    assert_eq!(answer.matches('x').count(), 400_000);
}
