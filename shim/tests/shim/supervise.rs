//! The supervisor: what serves may die as often as it likes, clients find an open port.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use podless_link::v1::{ack::Outcome, to_shim};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    client::{get, try_get},
    operator::{HELLO, Operator, PROBE},
    process::{Shim, free_port},
};

const SERVICES: usize = 200;
/// Aim for all of them to serve again.
const AGAIN: Duration = Duration::from_secs(2);

/// Clients that connect to one port after another, all the time.
struct Clients {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    running: Vec<tokio::task::JoinHandle<()>>,
}

impl Clients {
    fn start(ports: &[u16]) -> Self {
        let mut this =
            Self { stop: Arc::default(), answered: Arc::default(), refused: Arc::default(), running: vec![] };
        for client in 0..8 {
            let (stop, answered, refused) = (this.stop.clone(), this.answered.clone(), this.refused.clone());
            let ports: Vec<_> = ports.iter().cycle().skip(client * 25).take(ports.len()).copied().collect();
            this.running.push(tokio::spawn(async move {
                for port in ports.into_iter().cycle() {
                    if stop.load(Relaxed) {
                        return;
                    }
                    // What was being answered when the process died is lost; a connection is not refused.
                    if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
                        refused.fetch_add(1, Relaxed);
                    }
                    if try_get(port, "/").await.is_ok_and(|answer| answer.status == 200) {
                        answered.fetch_add(1, Relaxed);
                    }
                }
            }));
        }
        this
    }

    async fn end(self) -> (u64, u64) {
        self.stop.store(true, Relaxed);
        for client in self.running {
            client.await.expect("it ends");
        }
        (self.answered.load(Relaxed), self.refused.load(Relaxed))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_twice_in_a_row_it_serves_again_and_refuses_nobody() {
    let mut operator = Operator::start().await;
    let shim = Shim::start(&operator, &[]);
    let mut ports = vec![];
    for n in 0..SERVICES {
        let port = free_port();
        // Each has code of its own, as on a real node.
        operator.assign(&operator.variant(HELLO, n, &format!("uid-{n}"), port));
        ports.push(port);
    }
    for n in 0..SERVICES {
        assert!(matches!(operator.acked(&format!("uid-{n}"), 1).await, Outcome::Loaded(_)));
    }
    // Nothing of this needs the operator.
    operator.stop().await;
    let clients = Clients::start(&ports);
    for round in 1..=2 {
        let before = shim.serving().await;
        let killed = Instant::now();
        shim.kill_serving().await;
        for port in &ports {
            // Whoever connects waits until there is somebody to answer.
            while !try_get(*port, "/").await.is_ok_and(|answer| answer.status == 200) {}
        }
        let took = killed.elapsed();
        eprintln!("round {round}: {SERVICES} services serve again after {took:?}");
        assert_ne!(shim.serving().await, before);
        assert!(took < AGAIN, "round {round}: it took {took:?}");
    }
    let (answered, refused) = clients.end().await;
    assert!(answered > 100, "{answered} answers");
    assert_eq!(refused, 0, "of {answered}");
    shim.until_admin("/metrics", |_, text| text.contains("podless_shim_restarts_total 2")).await;
}

#[tokio::test]
async fn the_two_processes_can_be_told_apart() {
    let operator = Operator::start().await;
    let shim = Shim::start(&operator, &[]);
    shim.ready().await;
    let serving = shim.serving().await;
    let comm = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/comm")).expect("a name");
    assert_eq!(comm(&serving.to_string()), "podless-serve\n");
    assert_eq!(comm(&shim.id().to_string()), "podless-shim\n");
    let arguments = std::fs::read_to_string(format!("/proc/{serving}/cmdline")).expect("arguments");
    assert!(arguments.starts_with("podless-serve\0"), "{arguments}");
}

#[tokio::test]
async fn a_port_that_nobody_wants_any_more_is_not_held() {
    let operator = Operator::start().await;
    let shim = Shim::start(&operator, &[]);
    let (kept, left) = (free_port(), free_port());
    operator.serve(&operator.assignment(HELLO, "kept", kept)).await;
    operator.serve(&operator.assignment(PROBE, "left", left)).await;
    operator.withdraw("left", 1, Duration::from_secs(60));
    let forgotten = || !shim.state_dir.join("left.assignment").exists();
    shim.until_admin("/healthz", |_, _| forgotten()).await;
    assert_eq!(get(left, "/").await.status, 200, "it lingers");
    shim.kill_serving().await;
    assert_eq!(get(kept, "/").await.status, 200);
    shim.ready().await;
    assert!(try_get(left, "/").await.is_err(), "nobody would ever answer there");
}

/// The first line of what answers there.
async fn first_line(address: IpAddr, port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((address, port)).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn both_families_are_answered() {
    // An address of the loopback device, in hexadecimal digits.
    let addresses = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    if !addresses.contains("00000000000000000000000000000001") {
        eprintln!("SKIPPED: both_families_are_answered needs ::1, which this machine does not have");
        return;
    }
    let operator = Operator::start().await;
    let shim = Shim::start(&operator, &[]);
    let service = free_port();
    operator.serve(&operator.assignment(HELLO, "a", service)).await;
    shim.ready().await;
    for address in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
        for (port, path) in [(service, "/"), (shim.admin, "/healthz")] {
            let line = first_line(address, port, path).await.expect("answered");
            assert_eq!(line, "HTTP/1.1 200 OK", "{address} {path}");
        }
    }
    shim.kill_serving().await;
    assert_eq!(first_line(Ipv6Addr::LOCALHOST.into(), service, "/").await.expect("answered"), "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn asked_to_stop_while_it_starts_again_it_stops() {
    let operator = Operator::start().await;
    let shim = Shim::start(&operator, &["--drain-seconds", "0"]);
    shim.ready().await;
    shim.kill_serving().await;
    shim.terminate();
    let ended = timeout(Duration::from_secs(10), shim.ended()).await.expect("in time");
    // By itself, or as what it was told to end had been ended.
    assert!([Some(0), Some(128 + 9)].contains(&ended.code()), "{ended:?}");
}

#[tokio::test]
async fn asked_to_stop_before_there_is_anybody_to_believe_it_stops() {
    let operator = Operator::start().await;
    std::fs::remove_dir_all(operator.trust_dir()).expect("removed");
    let shim = Shim::start(&operator, &["--drain-seconds", "0"]);
    shim.until_admin("/healthz", |status, _| status == 200).await;
    shim.terminate();
    let ended = timeout(Duration::from_secs(10), shim.ended()).await.expect("in time");
    assert!(ended.success(), "{ended:?}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_said_at_once() {
    let operator = Operator::start().await;
    let first = Shim::start(&operator, &[]);
    first.ready().await;
    let second = Shim::start(&operator, &["--admin-port", &first.admin.to_string()]);
    let ended = timeout(Duration::from_secs(5), second.ended()).await.expect("at once");
    assert_eq!(ended.code(), Some(1));
}

#[tokio::test]
async fn a_peer_is_probed_for_the_operator() {
    let operator = Operator::start().await;
    let shim = Shim::start(&operator, &[]);
    shim.ready().await;
    let (admin, closed) = (shim.admin, free_port());
    let service = free_port();
    operator.serve(&operator.assignment(HELLO, "a", service)).await;
    for (id, address, want) in [
        (1, format!("127.0.0.1:{admin}"), true),
        // Nobody has this address.
        (2, format!("255.255.255.255:{admin}"), false),
        (3, format!("127.0.0.1:{service}"), false),
        (4, format!("127.0.0.1:{closed}"), false),
        (5, "nonsense".to_owned(), false),
    ] {
        operator.send(to_shim::Body::Probe(podless_link::v1::Probe { id, address, timeout_millis: 1000 }));
        let result =
            operator.until("the result", |said| said.probed.iter().find(|result| result.id == id).cloned()).await;
        assert_eq!(result.reachable, want, "{id}");
    }
}
