//! A shim with a neighbour under load, and guests that misbehave beside it: what every case starts from, and what must be
//! so again when it is over.

use std::{
    fmt, fs,
    net::{IpAddr, UdpSocket},
    time::{Duration, Instant},
};

use futures::future::join_all;
use podless_link::v1::{Assignment, Grants, OutboundHttp};
use rustix::process::Pid;

use super::{neighbour::Neighbour, upstream::Upstream};
use crate::{
    client::{Answer, get},
    operator::{Guest, HELLO, MEMORIES, Operator, STORM, TABLES},
    process::{Shim, free_port},
};

/// How long a request to a misbehaving guest may take.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(1500);
/// Most memory of its instances: the most there is.
const MEMORY: u64 = 128 << 20;
/// Instances that may be live at once.
const INSTANCES: &str = "400";

/// How long what was freed may take to be free.
const SETTLED: Duration = Duration::from_secs(2);

/// Who misbehaves, each a service.
const STORMS: [(&str, Guest); 3] = [("storm", STORM), ("tables", TABLES), ("memories", MEMORIES)];

/// A shim, its neighbour, and who misbehaves.
pub(crate) struct Stage {
    pub(crate) shim: Shim,
    pub(crate) neighbour: Neighbour,
    /// Takes connections and never answers.
    pub(crate) upstream: Upstream,
    /// Ports of those who misbehave.
    pub(crate) storm: u16,
    pub(crate) tables: u16,
    pub(crate) memories: u16,
    process: Pid,
    _operator: Operator,
}

impl Stage {
    /// Starts all of it.
    pub(crate) async fn open() -> Self {
        let (operator, upstream) = (Operator::start().await, Upstream::start().await);
        let shim = Shim::start(&operator, &["--instances", INSTANCES]);
        let calm = free_port();
        operator.serve(&operator.assignment(HELLO, "calm", calm)).await;
        let outbound = OutboundHttp {
            allowed_hosts: vec![format!("http://{}", upstream.address)],
            allowed_cidrs: vec![format!("{}/32", upstream.address.ip())],
        };
        let mut ports = [0; STORMS.len()];
        for ((uid, guest), port) in STORMS.into_iter().zip(&mut ports) {
            *port = free_port();
            let assignment = Assignment {
                namespace: "storms".to_owned(),
                instance_memory: MEMORY,
                timeout_millis: TIMEOUT.as_millis() as u64,
                grants: Some(Grants { outbound_http: Some(outbound.clone()), ..Grants::default() }),
                ..operator.assignment(guest, uid, *port)
            };
            operator.serve(&assignment).await;
        }
        let [storm, tables, memories] = ports;
        let process = shim.serving().await;
        Self { neighbour: Neighbour::ask(calm), shim, upstream, storm, tables, memories, process, _operator: operator }
    }

    /// So many clients that ask the storm the same at once.
    pub(crate) async fn all_ask(&self, clients: usize, path: &str) -> Vec<Answer> {
        join_all((0..clients).map(|_| get(self.storm, path))).await
    }

    /// Waits until no instance of those who misbehave is live.
    pub(crate) async fn still(&self) {
        let lines = STORMS
            .map(|(uid, _)| format!("podless_shim_instances{{namespace=\"storms\",service=\"service-{uid}\"}} 0\n"));
        self.shim.until_admin("/metrics", |_, text| lines.iter().all(|line| text.contains(line))).await;
    }

    /// What the process that serves has, which is the one that served at the beginning.
    pub(crate) async fn holds(&self) -> Holding {
        assert_eq!(self.shim.serving().await, self.process, "it serves on without a restart");
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.process)).expect("its descriptors").count();
        Holding { resident: self.shim.resident().await, descriptors: descriptors as u64 }
    }

    /// The same once it is no more than this, or what it is when it stays more.
    pub(crate) async fn holds_within(&self, most: Holding) -> Holding {
        let mut holds = self.holds().await;
        let started = Instant::now();
        while !holds.is_within(most) && started.elapsed() < SETTLED {
            // What was freed goes back to the kernel a while after, and connections are seen to be gone.
            tokio::time::sleep(Duration::from_millis(20)).await;
            holds = self.holds().await;
        }
        holds
    }
}

/// What a process has.
#[derive(Clone, Copy)]
pub(crate) struct Holding {
    /// Bytes of memory.
    pub(crate) resident: u64,
    pub(crate) descriptors: u64,
}

impl Holding {
    pub(crate) fn is_within(self, most: Self) -> bool {
        self.resident <= most.resident && self.descriptors <= most.descriptors
    }
}

impl fmt::Display for Holding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} MiB, {} descriptors", self.resident as f64 / f64::from(1 << 20), self.descriptors)
    }
}

/// An address of this machine that is not loopback.
pub(crate) fn own_address() -> IpAddr {
    // Nothing is sent: connecting a UDP socket only chooses the address.
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.connect("198.51.100.1:9").expect("this machine has an address besides loopback");
    socket.local_addr().expect("an address").ip()
}
