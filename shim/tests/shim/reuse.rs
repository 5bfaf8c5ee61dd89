//! Instances that answer more than once: what the policy allows, and what ends them.

use std::time::Duration;

use futures::future::join_all;
use podless_link::v1::{Assignment, ServiceReport};

use crate::{
    client::{Answer, Connection, get},
    operator::{HELLO, Operator, PROBE, REUSE_P3},
    process::{Shim, free_port},
};

/// What the shim says of a service, once it is as wanted.
async fn reported(operator: &Operator, uid: &str, wanted: impl Fn(&ServiceReport) -> bool) -> ServiceReport {
    let last = |said: &crate::operator::Said| {
        let service = said.reports.last()?.services.iter().find(|service| service.service_uid == uid)?.clone();
        wanted(&service).then_some(service)
    };
    operator.until("the service is as wanted", last).await
}

/// Waits until so many instances of a service are live, and so many of its requests in flight.
async fn until_live(shim: &Shim, uid: &str, instances: u32, in_flight: u32) {
    let of = format!("{{namespace=\"tests\",service=\"service-{uid}\"}}");
    let lines = [
        format!("podless_shim_instances{of} {instances}\n"),
        format!("podless_shim_requests_in_flight{of} {in_flight}\n"),
    ];
    shim.until_admin("/metrics", |_, text| lines.iter().all(|line| text.contains(line))).await;
}

fn number(answer: &Answer) -> u64 {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body.trim().parse().expect("a number")
}

/// The numbers of requests that go on until one of them is the third of its instance.
async fn until_third(port: u16, path: &str) -> Vec<u64> {
    let mut connection = Connection::open(port).await.expect("connected");
    let mut numbers = vec![];
    while numbers.last() != Some(&3) {
        numbers.push(number(&connection.get(path).await.expect("answered")));
    }
    numbers
}

#[tokio::test]
async fn an_instance_answers_as_often_as_it_may_and_no_more() {
    let operator = Operator::start().await;
    let _shim = Shim::start(&operator, &[]);
    for (uid, guest, path) in [("p2", PROBE, "/fresh"), ("p3", REUSE_P3, "/")] {
        let port = free_port();
        let policy = Assignment { max_invocations: Some(3), ..operator.assignment(guest, uid, port) };
        operator.serve(&policy).await;
        for _ in 0..20 {
            let numbers = until_third(port, path).await;
            assert!(numbers.iter().all(|number| (1..=3).contains(number)), "{uid}: {numbers:?}");
        }
        let report = reported(&operator, uid, |service| service.requests >= 60).await;
        assert!(report.cold_starts < report.requests, "{uid}: what is reused is not made: {report:?}");
    }
}

#[tokio::test]
async fn what_trapped_or_took_too_long_answers_nobody_else() {
    let operator = Operator::start().await;
    let _shim = Shim::start(&operator, &[]);
    for (uid, guest, path) in [("p2", PROBE, "/fresh"), ("p3", REUSE_P3, "/")] {
        let port = free_port();
        let policy =
            Assignment { max_invocations: Some(1000), timeout_millis: 500, ..operator.assignment(guest, uid, port) };
        operator.serve(&policy).await;
        for (ends, status) in [("/trap", 500), ("/spin", 504)] {
            // There is one instance, with a past.
            until_third(port, path).await;
            let mut connection = Connection::open(port).await.expect("connected");
            assert_eq!(connection.get(ends).await.expect("answered").status, status, "{uid} {ends}");
            reported(&operator, uid, |service| service.live_instances <= 1).await;
            // Whoever was ended is not asked again: its number would be larger than that of any other.
            let after = number(&connection.get(path).await.expect("answered"));
            assert!(after <= 4, "{uid} {ends}: {after}");
        }
    }
}

#[tokio::test]
async fn calls_of_0_3_go_on_beside_each_other_and_a_trap_ends_them_all() {
    let operator = Operator::start().await;
    let shim = Shim::start(&operator, &[]);
    let port = free_port();
    operator.serve(&operator.assignment(REUSE_P3, "a", port)).await;
    until_third(port, "/").await;
    until_live(&shim, "a", 1, 0).await;
    let long = tokio::spawn(async move { get(port, "/slow?60000").await });
    until_live(&shim, "a", 1, 1).await;
    assert!(number(&get(port, "/").await) > 4, "it has time for another while one waits");
    assert_eq!(get(port, "/trap").await.status, 500);
    let ended = long.await.expect("no panic");
    assert_eq!(ended.status, 500, "it had the same instance: {ended:?}");
    // As many at once as it may, and no more: the default is sixteen.
    let waiting: Vec<_> = (0..40).map(|_| get(port, "/slow?300")).collect();
    let numbers: Vec<_> = join_all(waiting).await.iter().map(number).collect();
    assert!(numbers.iter().max() <= Some(&128), "{numbers:?}");
}

#[tokio::test]
async fn one_call_that_hangs_ends_its_instance_and_not_the_others() {
    let operator = Operator::start().await;
    let shim = Shim::start(&operator, &[]);
    let port = free_port();
    operator.serve(&Assignment { timeout_millis: 1500, ..operator.assignment(REUSE_P3, "a", port) }).await;
    until_third(port, "/").await;
    until_live(&shim, "a", 1, 0).await;
    let hangs = tokio::spawn(async move { get(port, "/slow?60000").await });
    until_live(&shim, "a", 1, 1).await;
    let slow = tokio::spawn(async move { get(port, "/slow?1200").await });
    assert_eq!(hangs.await.expect("no panic").status, 504);
    assert!(number(&slow.await.expect("no panic")) > 4, "it was in the same instance, and had its time");
    until_live(&shim, "a", 0, 0).await;
    assert_eq!(number(&get(port, "/").await), 1, "nobody else is put into it");
}

#[tokio::test]
async fn what_goes_on_after_its_answer_ends_at_the_last_deadline() {
    let operator = Operator::start().await;
    let shim = Shim::start(&operator, &[]);
    let port = free_port();
    let assignment = operator.assignment(REUSE_P3, "a", port);
    // One at once: what was read has not its place any more, whatever the guest does.
    let policy = Assignment { max_concurrency: Some(1), idle_seconds: Some(1), timeout_millis: 3000, ..assignment };
    operator.serve(&policy).await;
    assert_eq!(number(&get(port, "/linger?3600000").await), 1);
    until_live(&shim, "a", 1, 0).await;
    assert_eq!(number(&get(port, "/").await), 2, "it has time for another");
    until_live(&shim, "a", 0, 0).await;
}

#[tokio::test]
async fn what_nobody_wants_is_kept_for_a_while_and_not_for_ever() {
    let operator = Operator::start().await;
    let shim = Shim::start(&operator, &[]);
    for (uid, guest) in [("p2", PROBE), ("p3", REUSE_P3)] {
        let port = free_port();
        let assignment = operator.assignment(guest, uid, port);
        let policy = Assignment { max_invocations: Some(10), idle_seconds: Some(2), ..assignment };
        operator.serve(&policy).await;
        get(port, "/").await;
        until_live(&shim, uid, 1, 0).await;
        until_live(&shim, uid, 0, 0).await;
        // Another generation has its own, and those of the last one end.
        let long = Assignment { generation: 2, idle_seconds: Some(3600), ..policy };
        operator.serve(&long).await;
        get(port, "/").await;
        until_live(&shim, uid, 1, 0).await;
        operator.serve(&Assignment { generation: 3, max_invocations: Some(1), ..long }).await;
        until_live(&shim, uid, 0, 0).await;
    }
}

#[tokio::test]
async fn what_is_kept_gives_way_when_the_node_is_full() {
    let operator = Operator::start().await;
    let shim = Shim::start(&operator, &["--instances", "2"]);
    let (kept, other) = (free_port(), free_port());
    let policy =
        Assignment { max_invocations: Some(1000), idle_seconds: Some(3600), ..operator.assignment(PROBE, "a", kept) };
    operator.serve(&policy).await;
    operator.serve(&operator.assignment(HELLO, "b", other)).await;
    let both = join_all([get(kept, "/slow?ms=200"), get(kept, "/slow?ms=200")]).await;
    assert!(both.iter().all(|answer| answer.status == 200), "{both:?}");
    until_live(&shim, "a", 2, 0).await;
    for _ in 0..10 {
        let answer = get(other, "/").await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[tokio::test]
async fn a_guest_of_0_2_answers_one_request_at_a_time() {
    let operator = Operator::start().await;
    let _shim = Shim::start(&operator, &[]);
    let port = free_port();
    let assignment = operator.assignment(PROBE, "a", port);
    operator.serve(&Assignment { max_invocations: Some(1000), max_concurrency: Some(100), ..assignment }).await;
    let started = tokio::time::Instant::now();
    let slow: Vec<_> = (0..5).map(|_| get(port, "/slow?ms=1000")).collect();
    assert!(join_all(slow).await.iter().all(|answer| answer.status == 200));
    assert!(started.elapsed() < Duration::from_secs(4), "none waits for another: each has an instance");
    let report = reported(&operator, "a", |service| service.requests >= 5).await;
    assert_eq!(report.cold_starts, 5, "{report:?}");
}
