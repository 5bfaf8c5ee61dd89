//! Long-lived connections follow a service that has grown: they are asked to come again, and no request is lost by it.

use std::{
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use futures::future::join_all;
use podless_link::v1::{Spread, to_shim};
use tokio::time::interval;

use crate::{
    client::{Connection, Connection2},
    operator::{HELLO, Operator},
    process::{Shim, free_port},
};

/// Connections of each protocol.
const EACH: usize = 100;
/// Between two requests on a connection.
const PAUSE: Duration = Duration::from_millis(250);
/// All turns come within seven seconds, and the next request after them tells.
const TURNS: Duration = Duration::from_secs(9);

enum Kept {
    Http1(Connection),
    Http2(Connection2),
}

/// A client that keeps its connection for as long as it may.
struct Client {
    port: u16,
    kept: Kept,
}

impl Client {
    async fn open(port: u16, http2: bool) -> Self {
        let kept = match http2 {
            false => Kept::Http1(Connection::open(port).await.expect("connected")),
            true => Kept::Http2(Connection2::open(port).await.expect("connected")),
        };
        Self { port, kept }
    }

    fn is_http2(&self) -> bool {
        matches!(self.kept, Kept::Http2(_))
    }

    /// Asks once. When it is asked to come again it goes to any of these ports, as kube-proxy would send it; answers whether
    /// it was.
    async fn ask(&mut self, ports: &[u16]) -> bool {
        let answer = match &mut self.kept {
            Kept::Http1(connection) => Some(connection.get("/").await.expect("an answer on a kept connection")),
            Kept::Http2(connection) => connection.get("/").await.expect("answered, or not taken at all"),
        };
        let comes_again = answer.as_ref().is_none_or(|a| a.headers.get("connection").is_some_and(|v| v == "close"));
        if comes_again {
            let any = RandomState::new().hash_one(()) as usize % ports.len();
            *self = Self::open(ports[any], self.is_http2()).await;
        }
        match answer {
            Some(answer) => assert_eq!(answer.status, 200),
            None => assert!(!Box::pin(self.ask(ports)).await, "a new connection takes it"),
        }
        comes_again
    }
}

async fn clients(port: u16) -> Vec<Client> {
    let mut clients = vec![];
    for _ in 0..EACH {
        clients.push(Client::open(port, false).await);
        clients.push(Client::open(port, true).await);
    }
    clients
}

/// Each asks once. How many came again, by protocol.
async fn round(clients: &mut [Client], ports: &[u16]) -> [usize; 2] {
    let mut renewed = [0, 0];
    for client in clients {
        renewed[usize::from(client.is_http2())] += usize::from(client.ask(ports).await);
    }
    renewed
}

fn spread(operator: &Operator, uid: &str, before: u32, after: u32) {
    operator.send(to_shim::Body::Spread(Spread { service_uid: uid.to_owned(), before, after }));
}

#[tokio::test]
async fn a_share_of_what_is_open_comes_again_and_no_request_is_lost() {
    let (operator, port) = (Operator::start().await, free_port());
    let _shim = Shim::start(&operator, &[]);
    operator.serve(&operator.assignment(HELLO, "a", port)).await;
    let mut clients = clients(port).await;
    assert_eq!(round(&mut clients, &[port]).await, [0, 0]);

    spread(&operator, "nobody", 1, 2);
    spread(&operator, "a", 2, 1);
    spread(&operator, "a", 1, 2);
    let (start, mut rounds) = (Instant::now(), interval(PAUSE));
    let (mut renewed, mut first) = ([0, 0], None);
    while start.elapsed() < TURNS {
        rounds.tick().await;
        let [one, two] = round(&mut clients, &[port]).await;
        renewed = [renewed[0] + one, renewed[1] + two];
        if renewed != [0, 0] {
            first.get_or_insert_with(|| start.elapsed());
        }
    }
    // Three quarters of them, as far as chance may be off: five standard deviations.
    assert!(renewed.iter().all(|renewed| (EACH / 2..EACH).contains(renewed)), "{renewed:?} of {EACH}");
    assert!(first >= Some(Duration::from_millis(1900)), "not before new endpoints are known: {first:?}");
}

/// Ten shims, one after another, as when a service grows from one node to ten.
#[tokio::test]
async fn from_one_shim_to_ten_each_gets_its_share_of_what_is_kept_and_no_request_is_lost() {
    let started = join_all((0..10).map(|_| async {
        let (operator, port) = (Operator::start().await, free_port());
        let shim = Shim::start(&operator, &[]);
        operator.serve(&operator.assignment(HELLO, "a", port)).await;
        (operator, port, shim)
    }));
    let shims = started.await;
    let ports: Vec<u16> = shims.iter().map(|(_, port, _)| *port).collect();
    let mut clients = clients(ports[0]).await;
    let mut rounds = interval(PAUSE);
    for before in 1..ports.len() {
        // As the operator has it: who had endpoints is told how many there are now.
        for (operator, ..) in &shims[..before] {
            spread(operator, "a", before as u32, before as u32 + 1);
        }
        rounds.tick().await;
        round(&mut clients, &ports[..=before]).await;
    }
    let start = Instant::now();
    while start.elapsed() < TURNS {
        rounds.tick().await;
        round(&mut clients, &ports).await;
    }
    let share = |port: &u16| clients.iter().filter(|client| client.port == *port).count();
    let shares: Vec<_> = ports.iter().map(share).collect();
    // A tenth each, or a quarter more of who was there before; as far as chance may be off: four standard deviations.
    assert!(shares.iter().all(|share| (3..=42).contains(share)), "{shares:?}");
}
