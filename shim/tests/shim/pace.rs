//! How quickly a service answers, as the operator is told it to compare nodes.

use std::time::Duration;

use futures::future::join_all;
use podless_link::{pace::typical, v1::Pace};

use crate::{
    client::get,
    operator::{Operator, PROBE},
    parked::told,
    process::{Shim, free_port},
};

#[tokio::test]
async fn the_time_to_an_answer_is_counted_and_who_waits_for_it() {
    let operator = Operator::start().await;
    let shim = Shim::start(&operator, &[]);
    let port = free_port();
    operator.serve(&operator.assignment(PROBE, "a", port)).await;
    let pace = async |what: &str, wanted: fn(&Pace) -> bool| {
        told(&operator, what, |load| load.pace.as_ref().is_some_and(wanted)).await.pace.expect("a pace")
    };

    let asked = tokio::spawn(join_all((0..3).map(move |_| get(port, "/slow?ms=600"))));
    let early = pace("three wait", |pace| pace.waiting == 3).await;
    assert_eq!((early.answered, early.weights), (0, 0));
    assert!(asked.await.expect("joined").iter().all(|answer| answer.status == 200));
    let slow = pace("three are answered", |pace| pace.answered == 3 && pace.waiting == 0).await;
    let took = Duration::from_secs_f64(typical(slow.weights, 3) / 1e6);
    assert!(took > Duration::from_millis(550) && took < Duration::from_millis(1500), "{took:?}");

    // What the shim says itself is no answer.
    assert_eq!(get(port, "/trap").await.status, 500);
    assert_eq!(get(port, "/").await.status, 200);
    let after = pace("one more is answered", |pace| pace.answered == 4 && pace.waiting == 0).await;
    assert!(typical(after.weights - slow.weights, 1) < 500_000.0, "{after:?}");
    drop(shim);
}
