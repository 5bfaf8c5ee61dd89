//! What services and namespaces may have of a node, and what is told of it: headers, metrics.

use std::time::{Duration, Instant};

use futures::future::join_all;
use podless_link::v1::Assignment;

use crate::{
    client::{Answer, get},
    operator::{Operator, PROBE},
    process::{Shim, free_port},
};

const ERROR: &str = "podless-error";

fn error(answer: &Answer) -> Option<&str> {
    answer.headers.get(ERROR)?.to_str().ok()
}

/// How many of these were answered, and how many refused with this name.
fn count(answers: &[Answer], name: &str) -> (usize, usize) {
    let refused = answers.iter().filter(|answer| error(answer) == Some(name)).count();
    (answers.iter().filter(|answer| answer.status == 200).count(), refused)
}

/// A probe of a namespace.
async fn probe(operator: &Operator, namespace: &str, uid: &str) -> u16 {
    let port = free_port();
    let probe = operator.assignment(PROBE, uid, port);
    operator.serve(&Assignment { namespace: namespace.to_owned(), ..probe }).await;
    port
}

#[tokio::test]
async fn a_refusal_says_its_name_and_no_component_can() {
    let (operator, port) = (Operator::start().await, free_port());
    let shim = Shim::start(&operator, &[]);
    operator.serve(&Assignment { timeout_millis: 300, budget: 1, ..operator.assignment(PROBE, "a", port) }).await;
    for (path, status, name) in [
        ("/slow?ms=5000", 504, Some("timeout")),
        ("/trap", 500, Some("trapped")),
        ("/header?content-length=1073741825", 502, Some("response-too-large")),
        ("/header?podless-error=busy", 200, None),
        ("/header?x-other=busy", 200, None),
    ] {
        let answer = get(port, path).await;
        assert_eq!((answer.status, error(&answer)), (status, name), "{path}: {answer:?}");
        assert_eq!(answer.headers.contains_key("x-other"), path.contains("x-other"), "{path}");
    }
    let answers = join_all((0..4).map(|_| get(port, "/slow?ms=250"))).await;
    assert!(count(&answers, "busy").1 >= 1, "{answers:?}");
    for reason in ["timeout", "trapped", "response-too-large", "busy"] {
        let start = format!(
            "podless_shim_requests_refused_total{{namespace=\"tests\",service=\"service-a\",reason=\"{reason}\"}} "
        );
        shim.until_admin("/metrics", |_, text| text.lines().any(|line| line.starts_with(&start))).await;
    }
}

#[tokio::test]
async fn a_namespace_does_not_take_all_instances_of_a_node() {
    let operator = Operator::start().await;
    let _shim = Shim::start(&operator, &["--instances", "16"]);
    let loud = [probe(&operator, "loud", "a").await, probe(&operator, "loud", "b").await];
    let quiet = probe(&operator, "quiet", "c").await;
    let flood = tokio::spawn(async move {
        let slow = |port| async move { get(port, "/slow?ms=2500").await };
        join_all((0..24).map(|n| slow(loud[n % 2]))).await
    });
    let mut answered = 0;
    while !flood.is_finished() {
        let answer = get(quiet, "/slow?ms=20").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answered += 1;
    }
    assert!(answered > 20, "{answered}");
    let answers = flood.await.expect("joined");
    assert_eq!(count(&answers, "namespace-busy"), (14, 10), "an eighth is left for the other: {answers:?}");
    // Whoever is alone still has nearly all.
    let answers = join_all((0..14).map(|_| get(quiet, "/slow?ms=500"))).await;
    assert_eq!(count(&answers, "namespace-busy"), (14, 0), "{answers:?}");
}

#[tokio::test]
async fn all_instances_together_have_no_more_memory_than_they_may() {
    let operator = Operator::start().await;
    // Three quarters of it.
    let shim = Shim::start(&operator, &["--memory-limit", "400"]);
    let (loud, quiet) = (probe(&operator, "loud", "a").await, probe(&operator, "quiet", "b").await);
    let flood = tokio::spawn(async move { join_all((0..6).map(|_| get(loud, "/hold?mb=60"))).await });
    let held = |least: u64, text: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix("podless_shim_linear_memory_counted_bytes "));
        value.and_then(|value| value.parse::<u64>().ok()).is_some_and(|bytes| bytes >= least)
    };
    shim.until_admin("/metrics", |_, text| held(200 << 20, text)).await;
    let answer = get(quiet, "/grow?mb=20").await;
    assert_eq!(answer.status, 200, "an eighth is left for the other: {answer:?}");
    let answers = flood.await.expect("joined");
    assert_eq!(count(&answers, "memory"), (4, 2), "{answers:?}");
    assert!(answers.iter().all(|answer| answer.status == 200 || answer.headers.contains_key("retry-after")));
    shim.until_admin("/metrics", |_, text| text.contains("podless_shim_linear_memory_counted_bytes 0\n")).await;
    assert_eq!(get(loud, "/grow?mb=60").await.status, 200, "what was held came back");
}

#[tokio::test]
async fn many_small_instances_do_not_take_more_memory_than_there_is() {
    let operator = Operator::start().await;
    let empty = Shim::start(&operator, &[]);
    empty.ready().await;
    let room = empty.resident().await / (1 << 20) + 150;
    drop(empty);
    let flags = ["--instances", "400", "--memory-limit", &room.to_string()];
    let shim = Shim::start(&operator, &flags);
    let port = free_port();
    operator.serve(&Assignment { budget: 400, ..operator.assignment(PROBE, "a", port) }).await;
    // Of each so little that it is not counted.
    let flood = tokio::spawn(async move { join_all((0..400).map(|_| get(port, "/hold?mb=1"))).await });
    let full = "podless_shim_requests_refused_total{namespace=\"tests\",service=\"service-a\",reason=\"memory\"} ";
    shim.until_admin("/metrics", |_, text| text.lines().any(|line| line.starts_with(full))).await;
    // A full node says nothing about a component that is tried.
    operator.serve(&operator.assignment(PROBE, "b", free_port())).await;
    let answers = flood.await.expect("joined");
    let (held, refused) = count(&answers, "memory");
    assert!(held >= 10 && refused >= 10 && held + refused == 400, "{held} held, {refused} refused");
    shim.until_admin("/metrics", |_, text| text.contains("podless_shim_instances_live 0\n")).await;
    assert!(shim.resident().await < room << 20, "it never had more");
}

#[tokio::test]
async fn who_computes_beside_many_who_do_has_the_same_part() {
    let operator = Operator::start().await;
    let _shim = Shim::start(&operator, &[]);
    let (loud, quiet) = (probe(&operator, "loud", "a").await, probe(&operator, "quiet", "b").await);
    assert_eq!(get(quiet, "/compute?millions=300").await.status, 200, "it is there");
    let began = Instant::now();
    assert_eq!(get(quiet, "/compute?millions=300").await.status, 200);
    let alone = began.elapsed();
    let loops = tokio::spawn(async move { join_all((0..40).map(|_| get(loud, "/spin"))).await });
    // They are all at work.
    tokio::time::timeout(Duration::from_secs(5), async { while get(loud, "/").await.status != 200 {} })
        .await
        .expect("answered beside its own loops");
    let began = Instant::now();
    assert_eq!(get(quiet, "/compute?millions=300").await.status, 200);
    let beside = began.elapsed();
    eprintln!("alone {alone:?}, beside 40 loops {beside:?}");
    assert!(beside < alone * 6 + Duration::from_millis(500), "alone {alone:?}, beside 40 loops {beside:?}");
    assert!(!loops.is_finished(), "they were there all the time");
    loops.abort();
}
