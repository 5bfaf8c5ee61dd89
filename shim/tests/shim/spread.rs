//! Long-lived connections follow a service that has grown: they are asked to come again, and no request is lost by it.

use std::time::{Duration, Instant};

use podless_link::v1::{Spread, to_shim};
use tokio::time::interval;

use crate::{
    client::{Connection, Connection2},
    operator::{HELLO, Operator},
    process::{Shim, free_port},
};

/// Connections of each protocol.
const EACH: usize = 100;

/// Asks once on each connection of HTTP/1.1; opens those anew that are asked to come again. Answers how many were.
async fn http1_round(port: u16, connections: &mut [Connection]) -> usize {
    let mut renewed = 0;
    for connection in connections {
        let answer = connection.get("/").await.expect("an answer on a kept connection");
        assert_eq!(answer.status, 200);
        if answer.headers.get("connection").is_some_and(|value| value == "close") {
            *connection = Connection::open(port).await.expect("connected");
            renewed += 1;
        }
    }
    renewed
}

/// The same with HTTP/2.
async fn http2_round(port: u16, connections: &mut [Connection2]) -> usize {
    let mut renewed = 0;
    for connection in connections {
        let status = match connection.get("/").await.expect("answered, or not taken at all") {
            Some(answer) => answer.status,
            None => {
                *connection = Connection2::open(port).await.expect("connected");
                renewed += 1;
                connection.get("/").await.expect("answered").expect("taken by a new connection").status
            }
        };
        assert_eq!(status, 200);
    }
    renewed
}

#[tokio::test]
async fn a_share_of_what_is_open_comes_again_and_no_request_is_lost() {
    let (operator, port) = (Operator::start().await, free_port());
    let _shim = Shim::start(&operator, &[]);
    operator.serve(&operator.assignment(HELLO, "a", port)).await;
    let (mut one, mut two) = (vec![], vec![]);
    for _ in 0..EACH {
        one.push(Connection::open(port).await.expect("connected"));
        two.push(Connection2::open(port).await.expect("connected"));
    }
    assert_eq!((http1_round(port, &mut one).await, http2_round(port, &mut two).await), (0, 0));

    let spread = |uid: &str, before, after| {
        operator.send(to_shim::Body::Spread(Spread { service_uid: uid.to_owned(), before, after }));
    };
    spread("nobody", 1, 2);
    spread("a", 2, 1);
    spread("a", 1, 2);
    // All turns come within seven seconds, and the next request after them tells.
    let (start, mut rounds) = (Instant::now(), interval(Duration::from_millis(250)));
    let (mut renewed, mut first) = ([0, 0], None);
    while start.elapsed() < Duration::from_secs(9) {
        rounds.tick().await;
        renewed[0] += http1_round(port, &mut one).await;
        renewed[1] += http2_round(port, &mut two).await;
        if renewed != [0, 0] {
            first.get_or_insert_with(|| start.elapsed());
        }
    }
    // Three quarters of them, as far as chance may be off: five standard deviations.
    assert!(renewed.iter().all(|renewed| (EACH / 2..EACH).contains(renewed)), "{renewed:?} of {EACH}");
    assert!(first >= Some(Duration::from_millis(1900)), "not before new endpoints are known: {first:?}");
}
