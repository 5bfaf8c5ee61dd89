//! A service's port: accepts connections until it is closed, then lets those that are there end.

use std::{
    hash::{BuildHasher, RandomState},
    io,
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Node, Route, connection};

/// Most connections of one port: one service's clients must leave room for the others'.
const CONNECTIONS: usize = 4096;
/// Pause after an error of `accept` that does not pass by itself, as when descriptors run out.
const PAUSE: Duration = Duration::from_millis(50);

/// An open port.
pub(crate) struct Listener {
    /// What is answered on it.
    pub(crate) route: Arc<Route>,
    accepting: CancellationToken,
    closing: CancellationToken,
    aborting: CancellationToken,
    /// The loop that accepts, and each connection.
    tasks: TaskTracker,
}

impl Listener {
    /// Accepts on a listening socket; what the route holds is served at once. Must run on the serving runtime.
    pub(crate) fn open(socket: std::net::TcpListener, route: Arc<Route>, node: Arc<Node>) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from_std(socket)?;
        let this = Self {
            route,
            accepting: CancellationToken::new(),
            closing: CancellationToken::new(),
            aborting: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        this.tasks.spawn(accept(
            listener,
            this.route.clone(),
            node,
            this.accepting.clone(),
            this.closing.clone(),
            this.aborting.clone(),
            this.tasks.clone(),
        ));
        Ok(this)
    }

    /// More shims than before get connections of this port.
    pub(crate) fn spread(&self, before: u32, after: u32) {
        self.route.spread(before, after, std::time::Instant::now(), RandomState::new().hash_one(after));
    }

    /// Takes no new connection, lets requests in flight end until `deadline`, then drops what is left.
    pub(crate) async fn close(self, deadline: Instant) {
        self.accepting.cancel();
        self.closing.cancel();
        self.tasks.close();
        if timeout_at(deadline, self.tasks.wait()).await.is_err() {
            self.aborting.cancel();
            self.tasks.wait().await;
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.cancel();
    }
}

async fn accept(
    listener: TcpListener,
    route: Arc<Route>,
    node: Arc<Node>,
    accepting: CancellationToken,
    closing: CancellationToken,
    aborting: CancellationToken,
    tasks: TaskTracker,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let random = RandomState::new();
    let next = async {
        for number in 0u64.. {
            // Both places are taken before a connection is: what does not fit waits in the kernel's backlog.
            let (Ok(ours), Ok(nodes)) =
                (room.clone().acquire_owned().await, node.connections.clone().acquire_owned().await)
            else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (draw, closing) = (random.hash_one(number), closing.clone());
                    let served = connection::serve(stream, draw, route.clone(), node.clone(), closing);
                    let aborting = aborting.clone();
                    tasks.spawn(async move {
                        tokio::select! {
                            () = served => {}
                            () = aborting.cancelled() => {}
                        }
                        drop((ours, nodes));
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting.cancelled() => {}
        () = next => {}
    }
}
