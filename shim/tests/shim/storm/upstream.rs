//! A server that takes every connection and never answers: how many it holds at once. IO.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{io::AsyncReadExt, net::TcpListener};

use super::stage::own_address;

/// The server.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    held: Arc<Held>,
}

#[derive(Default)]
struct Held {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((own_address(), 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let held = Arc::<Held>::default();
        let all = held.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                all.most.fetch_max(all.now.fetch_add(1, Relaxed) + 1, Relaxed);
                let all = all.clone();
                tokio::spawn(async move {
                    let mut request = [0; 1024];
                    while stream.read(&mut request).await.is_ok_and(|length| length > 0) {}
                    all.now.fetch_sub(1, Relaxed);
                });
            }
        });
        Self { address, held }
    }

    /// Connections that it holds.
    pub(crate) fn held(&self) -> usize {
        self.held.now.load(Relaxed)
    }

    /// The most that it held at once.
    pub(crate) fn most(&self) -> usize {
        self.held.most.load(Relaxed)
    }
}
