//! Many connections at once: what one costs that is kept and says nothing, and that all of them are still there.

use std::time::Duration;

use futures::{StreamExt as _, stream};

use super::frames::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, frame, get_head, open};
use crate::{
    client::{Connection, get},
    operator::{HELLO, Operator, PROBE},
    process::{Shim, free_port},
};

/// Most memory of the shim for one connection that is kept.
const EACH: u64 = 8 << 10;
/// Connections that a service's port takes, and a few less.
const PORT: usize = 4000;
/// After so long a connection that says nothing rests. Nothing tells so from outside, but what the next ones cost.
const RESTS: Duration = Duration::from_secs(4);

/// Opens connections in crowds that have asked once: when one rests the next one comes. What each costs after the first
/// crowd, whose buffers the others take; then all are asked once more.
async fn kept(crowd: usize, crowds: usize) {
    let operator = Operator::start().await;
    let shim = Shim::start(&operator, &[]);
    let mut ports = vec![];
    for n in 0..(crowd * (crowds + 1)).div_ceil(PORT) {
        let port = free_port();
        operator.serve(&operator.assignment(HELLO, &format!("s{n}"), port)).await;
        assert_eq!(get(port, "/").await.status, 200);
        ports.push(port);
    }
    let (mut kept, mut first) = (vec![], 0);
    for n in 0..=crowds {
        let opened = stream::iter(0..crowd).map(async |m| {
            let mut connection = Connection::open(ports[(n * crowd + m) / PORT]).await.expect("connected");
            assert_eq!(connection.get("/").await.expect("answered").status, 200);
            connection
        });
        kept.extend(opened.buffer_unordered(64).collect::<Vec<_>>().await);
        tokio::time::sleep(RESTS).await;
        let memory = shim.resident().await;
        eprintln!("{} connections: {} KB", kept.len(), memory >> 10);
        if n == 0 {
            first = memory;
        }
    }
    let each = shim.resident().await.saturating_sub(first) / (crowd * crowds) as u64;
    eprintln!("{each} bytes for each that came after the first {crowd}");
    assert!(each <= EACH, "{each} bytes each");
    let again = stream::iter(kept).map(async |mut kept| kept.get("/").await.expect("still there").status);
    assert!(again.buffer_unordered(64).all(async |status| status == 200).await);
}

#[tokio::test]
async fn a_connection_that_says_nothing_costs_little() {
    kept(1000, 2).await;
}

#[tokio::test]
#[ignore = "needs 12,000 descriptors, here and in the shim"]
async fn ten_thousand_connections_that_say_nothing_cost_little() {
    kept(2000, 5).await;
}

/// A shim that goes away says so by HTTP/2 while there is time, and what was asked is answered.
#[tokio::test]
async fn who_is_told_to_come_again_gets_what_it_has_asked() {
    let (operator, port) = (Operator::start().await, free_port());
    let shim = Shim::start(&operator, &["--drain-seconds", "1"]);
    operator.serve(&operator.assignment(PROBE, "a", port)).await;
    let (mut reader, mut writer) = open(port, 65_535).await;
    assert!(writer.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &get_head("/slow?ms=2500"))).await);
    let in_flight = r#"podless_shim_requests_in_flight{namespace="tests",service="service-a"} 1"#;
    shim.until_admin("/metrics", |_, text| text.contains(in_flight)).await;
    shim.terminate();
    let goaway = reader.until(|frame| frame.kind == GOAWAY).await.expect("it is told");
    assert_eq!(goaway.reason(), Some(0), "nothing is wrong with it");
    let answer = reader.until(|frame| frame.kind == DATA).await.expect("its answer");
    assert_eq!(answer.payload, b"2500 ms\n");
    assert!(shim.ended().await.success());
}
