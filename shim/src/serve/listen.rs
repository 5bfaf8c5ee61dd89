//! A service's port: its connections from the loop that accepts for all ports, until it is closed; then those that are there
//! end. What a port keeps for connections is made for the first one.

use std::{
    hash::{BuildHasher, RandomState},
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use tokio::{
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Node, Route, accept::Acceptor, connection};

/// An open port.
pub(crate) struct Listener {
    /// What is answered on it.
    pub(crate) route: Arc<Route>,
    number: u64,
    port: Arc<Port>,
    acceptor: Arc<Acceptor>,
}

/// What the connections of a port share.
pub(super) struct Port {
    route: Arc<Route>,
    node: Arc<Node>,
    /// Most connections at once.
    limit: usize,
    open: AtomicUsize,
    /// As many as may be are open, and no more are accepted.
    full: AtomicBool,
    ends: OnceLock<Ends>,
    /// Its number, once it has one.
    number: OnceLock<u64>,
}

/// How connections end.
#[derive(Default)]
struct Ends {
    closing: CancellationToken,
    aborting: CancellationToken,
    tasks: TaskTracker,
}

impl Listener {
    /// Accepts on a listening socket; what the route holds is served at once. Must run on the serving runtime.
    pub(crate) fn open(socket: std::net::TcpListener, route: Arc<Route>, node: Arc<Node>) -> io::Result<Self> {
        let limit = route.connections();
        Self::limited(socket, route, node, limit)
    }

    fn limited(socket: std::net::TcpListener, route: Arc<Route>, node: Arc<Node>, limit: usize) -> io::Result<Self> {
        let acceptor = node.acceptor()?;
        let port = Arc::new(Port {
            route: route.clone(),
            node,
            limit,
            open: AtomicUsize::new(0),
            full: AtomicBool::new(false),
            ends: OnceLock::new(),
            number: OnceLock::new(),
        });
        let number = acceptor.add(socket, port.clone())?;
        port.number.get_or_init(|| number);
        Ok(Self { route, number, port, acceptor })
    }

    /// More shims than before get connections of this port.
    pub(crate) fn spread(&self, before: u32, after: u32) {
        self.route.spread(before, after, std::time::Instant::now(), RandomState::new().hash_one(after));
    }

    /// Takes no new connection, lets requests in flight end until `deadline`, then drops what is left.
    pub(crate) async fn close(self, deadline: Instant) {
        self.acceptor.remove(self.number);
        let Ends { closing, aborting, tasks } = self.port.ends();
        closing.cancel();
        tasks.close();
        if timeout_at(deadline, tasks.wait()).await.is_err() {
            aborting.cancel();
            tasks.wait().await;
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.acceptor.remove(self.number);
    }
}

impl Port {
    fn ends(&self) -> &Ends {
        self.ends.get_or_init(Ends::default)
    }

    /// Serves a connection, with its place among the node's and a number drawn at random. False: the port takes no more
    /// until it is resumed.
    pub(super) fn take(self: &Arc<Self>, stream: TcpStream, place: OwnedSemaphorePermit, draw: u64) -> bool {
        let Ends { closing, aborting, tasks } = self.ends();
        let served = connection::serve(stream, draw, self.route.clone(), self.node.clone(), closing.clone());
        let aborting = aborting.clone();
        let full = self.open.fetch_add(1, SeqCst) + 1 >= self.limit;
        if full {
            self.full.store(true, SeqCst);
        }
        let counted = Counted(self.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = served => {}
                () = aborting.cancelled() => {}
            }
            drop((counted, place));
        });
        !full
    }

    /// Whether a connection has ended since it was full. Asked once nothing is accepted any more, so that none is missed.
    pub(super) fn has_room(&self) -> bool {
        let room = self.open.load(SeqCst) < self.limit;
        if room {
            self.full.store(false, SeqCst);
        }
        room
    }
}

/// Counts a connection until it is dropped.
struct Counted(Arc<Port>);

impl Drop for Counted {
    fn drop(&mut self) {
        let Port { open, full, number, node, .. } = &*self.0;
        open.fetch_sub(1, SeqCst);
        if full.swap(false, SeqCst)
            && let (Some(number), Ok(acceptor)) = (number.get(), node.acceptor())
        {
            acceptor.resume(*number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        time::timeout,
    };

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    /// A port that answers everybody that nobody has that host.
    fn listener(node: &Arc<Node>, limit: usize) -> (Listener, u16) {
        let socket = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = socket.local_addr().expect("its address").port();
        let listener =
            Listener::limited(socket, Arc::new(Route::shared(Arc::default())), node.clone(), limit).expect("open");
        (listener, port)
    }

    async fn connect(port: u16) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("connected")
    }

    /// Whether a request on it gets an answer in this time.
    async fn answers(stream: &mut TcpStream, time: Duration) -> bool {
        let asked = async {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await?;
            stream.read(&mut [0; 1024]).await
        };
        timeout(time, asked).await.is_ok_and(|read| read.is_ok_and(|read| read > 0))
    }

    #[tokio::test]
    async fn a_full_port_goes_on_when_a_connection_ends_and_holds_up_no_other() {
        let node = Arc::new(Node::new(1, 1 << 30, 100));
        let ((_full, crowded), (_other, quiet)) = (listener(&node, 2), listener(&node, 2));
        for _ in 0..20 {
            let mut open = [connect(crowded).await, connect(crowded).await];
            for stream in &mut open {
                assert!(answers(stream, SOON).await);
            }
            let mut waits = connect(crowded).await;
            assert!(!answers(&mut waits, Duration::from_millis(20)).await, "it is full");
            assert!(answers(&mut connect(quiet).await, SOON).await);
            drop(open);
            let mut byte = [0];
            assert_eq!(timeout(SOON, waits.read(&mut byte)).await.expect("in time").expect("answered"), 1);
        }
    }

    #[tokio::test]
    async fn a_node_that_is_full_takes_the_next_when_one_ends() {
        let node = Arc::new(Node::new(1, 1 << 30, 1));
        let ((_one, first), (_two, second)) = (listener(&node, 9), listener(&node, 9));
        let mut open = connect(first).await;
        assert!(answers(&mut open, SOON).await);
        let mut waits = connect(second).await;
        assert!(!answers(&mut waits, Duration::from_millis(20)).await);
        drop(open);
        assert_eq!(timeout(SOON, waits.read(&mut [0])).await.expect("in time").expect("answered"), 1);
    }

    #[tokio::test]
    async fn a_closed_port_refuses_while_what_is_open_ends() {
        let node = Arc::new(Node::new(1, 1 << 30, 100));
        let (listener, port) = listener(&node, 9);
        let mut open = connect(port).await;
        assert!(answers(&mut open, SOON).await);
        listener.close(Instant::now() + SOON).await;
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err());
        assert_eq!(timeout(SOON, open.read(&mut [0; 1024])).await.expect("in time").unwrap_or(0), 0, "it is closed");
    }
}
