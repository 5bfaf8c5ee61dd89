//! Parked services: nothing of them is resident, the first request loads them, and nobody is lost on the way. What the
//! operator is told of the requests, which is what it parks and wakes by.

use std::{
    fs,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use podless_link::v1::{Assignment, ServiceLoad, ServiceReport, ack::Outcome};
use tokio::{net::TcpStream, sync::Barrier, task::JoinHandle};

use crate::{
    client::{Answer, Connection, get, get_http2, try_get},
    operator::{Guest, HELLO, HELLO_P3, Operator, PATIENCE, PROBE},
    process::{Shim, free_port},
};

fn parked(operator: &Operator, guest: Guest, uid: &str, port: u16) -> Assignment {
    Assignment { parked: true, ..operator.assignment(guest, uid, port) }
}

/// Whether machine code is mapped in the process that serves.
async fn maps_code(shim: &Shim) -> bool {
    let pid = shim.serving().await.as_raw_nonzero();
    fs::read_to_string(format!("/proc/{pid}/maps")).expect("its maps").contains(".cwasm")
}

async fn counts(shim: &Shim, resident: u32, parked: u32) {
    let lines = [("resident", resident), ("parked", parked)]
        .map(|(state, count)| format!("podless_shim_services{{state=\"{state}\"}} {count}\n"));
    shim.until_admin("/metrics", |_, text| lines.iter().all(|line| text.contains(line))).await;
}

async fn woken(shim: &Shim, wakes: u32) {
    let line = format!("podless_shim_wakes_total{{namespace=\"tests\",service=\"service-a\"}} {wakes}\n");
    shim.until_admin("/metrics", |_, text| text.contains(&line)).await;
}

/// The service in the newest report, once that is as wanted.
async fn reported(operator: &Operator, what: &str, wanted: impl Fn(&ServiceReport) -> bool) -> ServiceReport {
    operator
        .until(what, |said| {
            let service = said.reports.last()?.services.first()?.clone();
            wanted(&service).then_some(service)
        })
        .await
}

/// The newest that was told of a service's requests, once that is as wanted.
pub(crate) async fn told(operator: &Operator, what: &str, wanted: impl Fn(&ServiceLoad) -> bool) -> ServiceLoad {
    operator
        .until(what, |said| {
            let mut services = said.loads.iter().rev().flat_map(|load| &load.services);
            services.next().filter(|service| wanted(service)).cloned()
        })
        .await
}

#[tokio::test]
async fn nothing_is_mapped_until_the_first_request_which_is_answered() {
    tokio::join!(wakes_once(HELLO), wakes_once(HELLO_P3));
}

async fn wakes_once(guest: Guest) {
    let (operator, port) = (Operator::start().await, free_port());
    let shim = Shim::start(&operator, &[]);
    // One of WASI 0.3 would answer both requests.
    let assignment = Assignment { max_invocations: Some(1), ..parked(&operator, guest, "a", port) };
    operator.serve(&assignment).await;
    assert!(!maps_code(&shim).await, "it was tried, and nothing of that stays");
    counts(&shim, 0, 1).await;
    let report = reported(&operator, "a report of it", |_| true).await;
    assert_eq!((report.resident_bytes, report.cold_starts, report.generation), (0, 0, 1));

    assert_eq!(get(port, "/").await.body, "Hello from Podless\n");
    assert_eq!(get_http2(port, "/").await.body, "Hello from Podless\n");
    assert!(maps_code(&shim).await);
    counts(&shim, 1, 0).await;
    woken(&shim, 1).await;
    let both = |service: &ServiceReport| service.requests == 2 && service.resident_bytes > 0;
    let phases = reported(&operator, "both requests", both).await.phases.expect("phases");
    for (phase, count) in
        [(phases.fetch, 1), (phases.load, 1), (phases.link, 1), (phases.instantiate, 2), (phases.first_byte, 2)]
    {
        assert_eq!(phase.expect("a phase").counts.values().sum::<u64>(), count);
    }
    assert_eq!(operator.until("fetches", |said| Some(said.fetches)).await, 1, "it woke from the disk");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_first_requests_are_answered_after_one_load() {
    const CLIENTS: usize = 1000;
    let (operator, port) = (Operator::start().await, free_port());
    let shim = Shim::start(&operator, &["--instances", "1100"]);
    let assignment = Assignment { budget: 1000, ..parked(&operator, HELLO, "a", port) };
    operator.serve(&assignment).await;
    let together = Arc::new(Barrier::new(CLIENTS));
    let clients = (0..CLIENTS).map(|_| {
        let together = together.clone();
        tokio::spawn(async move {
            let mut connection = Connection::open(port).await.expect("connected");
            together.wait().await;
            connection.get("/").await.expect("answered").status
        })
    });
    let answers = join_all(clients).await;
    let answered = answers.iter().filter(|status| matches!(status, Ok(200))).count();
    assert_eq!(answered, CLIENTS);
    woken(&shim, 1).await;
    let report = reported(&operator, "all of them", |service| service.requests == CLIENTS as u64).await;
    let loads = report.phases.and_then(|phases| phases.load).expect("a phase").counts.values().sum::<u64>();
    assert_eq!((loads, report.rejected), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parked_and_woken_under_traffic_it_loses_nothing() {
    let (operator, port) = (Operator::start().await, free_port());
    let shim = Shim::start(&operator, &[]);
    let assignment = parked(&operator, PROBE, "a", port);
    operator.serve(&assignment).await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = ["/", "/slow?ms=20", "/fresh"]
        .into_iter()
        .map(|path| {
            let stop = stop.clone();
            tokio::spawn(async move {
                let (mut answered, mut kept) = (0, Connection::open(port).await.expect("connected"));
                while !stop.load(Relaxed) {
                    for answer in [kept.get(path).await, try_get(port, path).await] {
                        assert_eq!(answer.expect("answered").status, 200);
                        answered += 1;
                    }
                }
                answered
            })
        })
        .collect();
    let long = tokio::spawn(async move { get(port, "/slow?ms=3000").await });
    for generation in 2..=41 {
        let parked = generation % 2 == 0;
        operator.serve(&Assignment { generation, parked, ..assignment.clone() }).await;
    }
    assert_eq!(long.await.expect("joined").body, "3000 ms\n", "what was in flight ended where it began");
    stop.store(true, Relaxed);
    for client in join_all(clients).await {
        assert!(client.expect("nothing was lost") > 10);
    }
    operator.serve(&Assignment { generation: 42, ..assignment.clone() }).await;
    counts(&shim, 0, 1).await;
    let unmapped = async {
        while maps_code(&shim).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, unmapped).await.expect("no generation stays mapped");
    assert_eq!(operator.until("fetches", |said| Some(said.fetches)).await, 1);
}

#[tokio::test]
async fn a_woken_service_that_is_to_serve_is_not_loaded_again() {
    let (operator, port) = (Operator::start().await, free_port());
    let shim = Shim::start(&operator, &["--park-seconds", "1"]);
    let assignment = parked(&operator, HELLO, "a", port);
    operator.serve(&assignment).await;
    assert_eq!(get(port, "/").await.status, 200);
    operator.serve(&Assignment { generation: 2, parked: false, ..assignment }).await;
    assert_eq!(get(port, "/").await.status, 200);
    let report = reported(&operator, "its requests", |service| service.requests == 2).await;
    assert_eq!(report.phases.and_then(|phases| phases.load).expect("a phase").counts.values().sum::<u64>(), 1);
    let other = free_port();
    operator.serve(&parked(&operator, PROBE, "other", other)).await;
    assert_eq!(get(other, "/slow?ms=2500").await.status, 200, "longer than it takes to be parked by itself");
    counts(&shim, 2, 0).await;
    counts(&shim, 1, 1).await;
    assert_eq!(get(port, "/").await.status, 200);
    woken(&shim, 1).await;
}

#[tokio::test]
async fn asked_no_more_it_parks_itself_and_wakes_again() {
    let (operator, port) = (Operator::start().await, free_port());
    let shim = Shim::start(&operator, &["--park-seconds", "1"]);
    operator.serve(&parked(&operator, PROBE, "a", port)).await;
    for wakes in 1..=2 {
        // Longer than the time after which it would be parked, were it not asked.
        assert_eq!(get(port, "/slow?ms=2500").await.body, "2500 ms\n");
        woken(&shim, wakes).await;
        assert!(maps_code(&shim).await);
        counts(&shim, 0, 1).await;
        assert!(!maps_code(&shim).await);
    }
}

#[tokio::test]
async fn after_a_restart_without_an_operator_it_is_parked_and_wakes() {
    let mut operator = Operator::start().await;
    let mut shim = Shim::start(&operator, &[]);
    let port = free_port();
    operator.serve(&parked(&operator, HELLO, "a", port)).await;
    assert_eq!(get(port, "/").await.status, 200);
    operator.stop().await;
    shim.kill_serving().await;
    shim.ready().await;
    counts(&shim, 0, 1).await;
    assert!(!maps_code(&shim).await);
    assert_eq!(get(port, "/").await.status, 200);
    shim.kill();
    shim.restart();
    shim.ready().await;
    assert!(!maps_code(&shim).await);
    assert_eq!(get(port, "/").await.status, 200);
    operator.listen().await;
    let known = operator.until("a hello", |said| Some(said.hellos.get(1)?.known.clone())).await;
    assert_eq!(known.iter().map(|known| known.generation).collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn what_cannot_be_loaded_is_said_and_tried_again() {
    let operator = Operator::start().await;
    let shim = Shim::start(&operator, &[]);
    let port = free_port();
    let assignment = parked(&operator, HELLO, "a", port);
    operator.serve(&assignment).await;
    let file = shim.data_dir.join("artifacts").join(format!("{}.cwasm", operator.artifact_of(&assignment)));
    let mut bytes = fs::read(&file).expect("it lies there");
    bytes[1000] ^= 1;
    fs::remove_file(&file).and_then(|()| fs::write(&file, bytes)).expect("damaged");
    // What the operator sends instead is damaged too.
    operator.damage_artifacts();
    let failed = Instant::now();
    for answer in join_all((0..20).map(|_| get(port, "/"))).await {
        assert_eq!((answer.status, answer.body.as_str()), (503, "the service could not be loaded\n"));
        assert_eq!(answer.headers["retry-after"], "1");
    }
    woken(&shim, 1).await;
    let line = shim.printed(|line| (line["stream"] == "shim").then(|| line["message"].to_string())).await;
    assert!(line.contains("sealed hash"), "the log says why: {line}");
    operator.damage_artifacts();
    let answered = async {
        while get(port, "/").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.expect("it serves again");
    assert!(failed.elapsed() >= Duration::from_secs(1), "no sooner than a second later");
    woken(&shim, 2).await;
}

#[tokio::test]
async fn what_cannot_start_is_not_called_parked() {
    let operator = Operator::start().await;
    let _shim = Shim::start(&operator, &[]);
    let port = free_port();
    let good = parked(&operator, HELLO, "a", port);
    operator.serve(&good).await;
    // Its artifact is on disk, and its stack alone needs more.
    operator.assign(&Assignment { instance_memory: 1 << 20, generation: 2, ..good });
    match operator.acked("a", 2).await {
        Outcome::Failed(failed) => assert_eq!(failed.reason, "start-failed"),
        other => panic!("{other:?}"),
    }
    assert_eq!(get(port, "/").await.status, 200, "what was parked wakes");
}

#[tokio::test]
async fn withdrawn_or_asked_to_stop_it_still_wakes_while_it_lingers() {
    let operator = Operator::start().await;
    let shim = Shim::start(&operator, &["--drain-seconds", "1"]);
    let (leaves, stays) = (free_port(), free_port());
    operator.serve(&parked(&operator, HELLO, "leaves", leaves)).await;
    operator.serve(&parked(&operator, PROBE, "stays", stays)).await;
    operator.withdraw("leaves", 1, Duration::from_secs(60));
    // Something else goes for good, and what nobody needs is swept away.
    operator.serve(&operator.assignment(HELLO_P3, "goes", free_port())).await;
    operator.withdraw("goes", 1, Duration::ZERO);
    let hash = operator.artifact_of(&operator.assignment(HELLO_P3, "goes", 20_000));
    let swept = || !shim.data_dir.join("artifacts").join(format!("{hash}.cwasm")).exists();
    shim.until_admin("/healthz", |_, _| swept()).await;
    assert_eq!(get(leaves, "/").await.status, 200);
    assert_eq!(operator.until("fetches", |said| Some(said.fetches)).await, 3, "its artifact was still here");

    shim.terminate();
    shim.until_admin("/readyz", |status, body| status == 503 && body.contains("going away")).await;
    assert_eq!(get(stays, "/slow?ms=1500").await.body, "1500 ms\n", "longer than the shim lingers");
    assert!(shim.ended().await.success());
}

/// A request that waits for a parked service, whose artifact has gone from the disk and is not sent.
async fn waits(operator: &Operator, shim: &Shim, assignment: &Assignment) -> JoinHandle<Answer> {
    let file = format!("{}.cwasm", operator.artifact_of(assignment));
    fs::remove_file(shim.data_dir.join("artifacts").join(file)).expect("it lay there");
    let port = u16::try_from(assignment.port).expect("a port");
    let before = operator.until("fetches", |said| Some(said.fetches)).await;
    let request = tokio::spawn(async move { get(port, "/").await });
    operator.until("it is fetched again", |said| (said.fetches > before).then_some(())).await;
    request
}

#[tokio::test]
async fn who_waits_is_answered_whatever_the_operator_says_meanwhile() {
    let (operator, port) = (Operator::start().await, free_port());
    let shim = Shim::start(&operator, &[]);
    let assignment = parked(&operator, HELLO, "a", port);
    operator.serve(&assignment).await;
    operator.serve(&operator.assignment(PROBE, "b", free_port())).await;
    let held = operator.hold_artifacts().await;
    let waiting = waits(&operator, &shim, &assignment).await;
    // Its code is there already.
    operator.serve(&Assignment { generation: 2, ..operator.assignment(PROBE, "a", port) }).await;
    assert_eq!(get(port, "/").await.body, "probe\n");
    assert!(!waiting.is_finished());
    drop(held);
    assert_eq!(waiting.await.expect("joined").body, "Hello from Podless\n", "it ends where it began");
    assert_eq!(get(port, "/").await.body, "probe\n");
    counts(&shim, 2, 0).await;
}

#[tokio::test]
async fn who_waits_is_answered_before_the_shim_ends() {
    let (operator, port) = (Operator::start().await, free_port());
    let shim = Shim::start(&operator, &["--drain-seconds", "0"]);
    let assignment = parked(&operator, HELLO, "a", port);
    operator.serve(&assignment).await;
    let held = operator.hold_artifacts().await;
    let waiting = waits(&operator, &shim, &assignment).await;
    shim.terminate();
    let closed = async {
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.expect("the port closes");
    assert!(!waiting.is_finished());
    drop(held);
    assert_eq!(waiting.await.expect("joined").status, 200);
    assert!(shim.ended().await.success());
}

#[tokio::test]
async fn what_the_operator_is_told_of_requests_is_true() {
    const MILLIS: u64 = 900;
    let mut operator = Operator::start().await;
    let shim = Shim::start(&operator, &[]);
    let port = free_port();
    operator.serve(&parked(&operator, PROBE, "a", port)).await;
    shim.ready().await;
    assert!(operator.until("loads", |said| Some(said.loads.is_empty())).await, "nothing is asked, nothing is said");
    let clients = (0..3).map(|_| {
        tokio::spawn(async move {
            let started = Instant::now();
            assert_eq!(get(port, &format!("/slow?ms={MILLIS}")).await.status, 200);
            started.elapsed()
        })
    });
    let clients: Vec<_> = clients.collect();
    let first = told(&operator, "the first requests", |load| load.requests > 0).await;
    assert!(first.in_flight > 0, "said before the first is answered: {first:?}");
    told(&operator, "all of them", |load| load.in_flight == 3).await;
    let clients: Duration = join_all(clients).await.into_iter().map(|client| client.expect("answered")).sum();
    let end = told(&operator, "the end", |load| load.in_flight == 0).await;
    let busy = Duration::from_micros(end.busy_micros);
    assert_eq!(end.requests, 3);
    assert!(busy >= Duration::from_millis(MILLIS * 3) && busy <= clients, "{busy:?} of {clients:?}");
    let seen = operator.until("loads", |said| Some(said.loads.clone())).await;
    let seen: Vec<_> = seen.into_iter().flat_map(|load| load.services).collect();
    let between = |earlier: &ServiceLoad, later: &ServiceLoad| {
        let (busy, time) = (later.busy_micros - earlier.busy_micros, later.at_micros - earlier.at_micros);
        // Each is rounded to whole microseconds.
        busy <= 3 * time + 10 && later.requests >= earlier.requests
    };
    assert!(seen.windows(2).all(|pair| between(&pair[0], &pair[1])), "{seen:?}");
    assert!((4..=30).contains(&seen.len()), "five a second, and none when there is no news: {seen:?}");

    // A leader that is new hears what is in flight.
    let long = tokio::spawn(async move { get(port, "/slow?ms=4000").await });
    told(&operator, "the long one", |load| load.in_flight == 1).await;
    operator.stop().await;
    let heard = operator.until("loads", |said| Some(said.loads.len())).await;
    operator.listen().await;
    let load = operator.until("a load", |said| said.loads.get(heard).cloned()).await;
    assert_eq!(load.services.iter().map(|load| (load.in_flight, load.requests)).collect::<Vec<_>>(), [(1, 4)]);
    assert_eq!(long.await.expect("joined").status, 200);
}
