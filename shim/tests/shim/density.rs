//! Many services on one node: what is mapped once, what makes room for others, what thousands of first requests do to the
//! rest, and a node that allows little.

use std::{
    collections::HashSet,
    fs,
    time::{Duration, Instant},
};

use futures::future::join_all;
use podless_link::v1::Assignment;

use crate::{
    client::{Connection, get},
    operator::{HELLO, Operator, PROBE},
    process::{Setup, Shim, free_port, may_mount},
};

/// Mappings of machine code in the process that serves, and how many files they are of.
async fn mapped(shim: &Shim) -> (usize, usize) {
    let pid = shim.serving().await.as_raw_nonzero();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("its maps");
    let code: Vec<_> = maps.lines().filter(|line| line.contains(".cwasm")).collect();
    let files: HashSet<_> = code.iter().filter_map(|line| line.split_whitespace().last()).collect();
    (code.len(), files.len())
}

/// A number on the page of metrics.
fn metric(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[tokio::test]
async fn who_runs_the_same_code_shares_its_mapping() {
    let operator = Operator::start().await;
    let shim = Shim::start(&operator, &[]);
    operator.serve(&operator.assignment(HELLO, "first", free_port())).await;
    let one = mapped(&shim).await;
    let ports: Vec<_> = (0..20).map(|_| free_port()).collect();
    let all: Vec<_> = ports.iter().map(|port| operator.assignment(HELLO, &format!("uid-{port}"), *port)).collect();
    join_all(all.iter().map(|assignment| operator.serve(assignment))).await;
    for port in ports {
        assert_eq!(get(port, "/").await.status, 200);
    }
    // The instances' slots may have its initial memory as well.
    let (_, files) = mapped(&shim).await;
    assert_eq!((files, one.1), (1, 1));
    let executable = |maps: String| maps.lines().filter(|l| l.contains(".cwasm") && l.contains("r-xp")).count();
    let pid = shim.serving().await.as_raw_nonzero();
    assert_eq!(executable(fs::read_to_string(format!("/proc/{pid}/maps")).expect("its maps")), 1);
}

#[tokio::test]
async fn what_was_not_used_for_longest_makes_room_and_wakes_again() {
    const SERVICES: usize = 16;
    let operator = Operator::start().await;
    // Room for six or seven.
    let shim = Shim::start(&operator, &["--code-memory", "1"]);
    let busy = free_port();
    operator.serve(&operator.assignment(PROBE, "busy", busy)).await;
    let long = tokio::spawn(async move { get(busy, "/slow?ms=4000").await });
    let ports: Vec<_> = (0..SERVICES).map(|_| free_port()).collect();
    for (n, port) in ports.iter().enumerate() {
        operator.serve(&operator.variant(HELLO, n, &format!("uid-{n}"), *port)).await;
        assert_eq!(get(*port, "/").await.status, 200);
    }
    let few = |text: &str| {
        let of = |state| metric(text, &format!("podless_shim_services{{state=\"{state}\"}}"));
        of("resident")
            .zip(of("parked"))
            .is_some_and(|(resident, parked)| (1..=7).contains(&resident) && resident + parked == SERVICES as u64 + 1)
    };
    shim.until_admin("/metrics", |_, text| few(text)).await;
    for port in ports.iter().chain(&ports) {
        assert_eq!(get(*port, "/").await.body, "Hello from Podless\n", "it was loaded again");
    }
    assert_eq!(long.await.expect("joined").body, "4000 ms\n");
    shim.until_admin("/metrics", |_, text| {
        let evictions = metric(text, "podless_shim_evictions_total").unwrap_or(0);
        let woken = "podless_shim_wakes_total{namespace=\"tests\",service=\"service-busy\"}";
        evictions >= SERVICES as u64 && metric(text, woken) == Some(0) && few(text)
    })
    .await;
    assert_eq!(operator.until("fetches", |said| Some(said.fetches)).await, SERVICES + 1, "from the disk");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_first_requests_at_once_leave_the_others_alone() {
    crowd(150, |_| free_port()).await;
}

/// The same in its long form: the ports are any, so it runs alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute, and a gigabyte of artifacts"]
async fn thousands_of_first_requests_at_once_leave_the_others_alone() {
    crowd(2000, |n| 25_000 + u16::try_from(n).expect("a port")).await;
}

async fn crowd(services: usize, port_of: impl Fn(usize) -> u16) {
    let operator = Operator::start().await;
    let shim = Shim::start(&operator, &["--instances", "2000"]);
    let warm = free_port();
    operator.serve(&operator.assignment(HELLO, "warm", warm)).await;
    let ports: Vec<_> = (0..services).map(&port_of).collect();
    let parked: Vec<_> = ports
        .iter()
        .enumerate()
        .map(|(n, port)| Assignment { parked: true, ..operator.variant(HELLO, n, &format!("uid-{n}"), *port) })
        .collect();
    // Not all in one message's time: the session holds a thousand.
    for some in parked.chunks(100) {
        join_all(some.iter().map(|assignment| operator.serve(assignment))).await;
    }
    let mut connection = Connection::open(warm).await.expect("connected");
    let mut times = vec![];
    let mut measure = async |until: &dyn Fn() -> bool| {
        times.clear();
        while !until() {
            let begin = Instant::now();
            assert_eq!(connection.get("/").await.expect("answered").status, 200);
            times.push(begin.elapsed());
        }
        times.sort_unstable();
        times[times.len() * 99 / 100]
    };
    let begin = Instant::now();
    let quiet = measure(&|| begin.elapsed() > Duration::from_millis(500)).await;
    let begin = Instant::now();
    let first: Vec<_> =
        ports.into_iter().map(|port| tokio::spawn(async move { get(port, "/").await.status })).collect();
    let crowded = measure(&|| first.iter().all(tokio::task::JoinHandle::is_finished)).await;
    let took = begin.elapsed();
    for status in join_all(first).await {
        assert_eq!(status.expect("joined"), 200);
    }
    eprintln!("{services} woken in {took:?}; p99 of a warm one {quiet:?}, meanwhile {crowded:?}");
    // The clients of this test compute on the same cores.
    assert!(crowded < Duration::from_millis(150), "{crowded:?}, and {quiet:?} before");
    shim.until_admin("/metrics", |_, text| metric(text, "podless_shim_services{state=\"parked\"}") == Some(0)).await;
}

#[tokio::test]
async fn where_the_node_allows_little_it_starts_smaller_and_says_why() {
    if !may_mount("where_the_node_allows_little_it_starts_smaller_and_says_why") {
        return;
    }
    for (limit, bounded_by) in [("ulimit -n 256", "pool"), ("ulimit -v 419430400", "addressSpace")] {
        let operator = Operator::start().await;
        let setup = Setup { flags: &["--instances", "1000"], mounts: Some(limit.to_owned()), ..Setup::default() };
        let shim = Shim::start_with(&operator, setup);
        let port = free_port();
        operator.serve(&operator.assignment(HELLO, "a", port)).await;
        assert_eq!(get(port, "/").await.status, 200);
        let capacity = operator.until("a hello", |said| said.hellos.first()?.capacity.clone()).await;
        assert_eq!(capacity.bounded_by, bounded_by, "{limit}: {capacity:?}");
        if limit.contains("-n") {
            assert_eq!(capacity.services, 96, "half of the descriptors that are left");
        } else {
            assert!((16..1000).contains(&capacity.instances), "{capacity:?}");
        }
        drop(shim);
    }
}
