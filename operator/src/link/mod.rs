//! The operator's end of the link: `auth` says who calls, `session` keeps one shim's stream, `sessions` knows what all
//! of them know, `fetch` hands out machine code.

pub mod auth;
pub mod content;
mod fetch;
pub mod session;
pub mod sessions;

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kube::runtime::reflector::Store;
use podless_artifact::seal::SealKey;
use podless_crds::WasmService;
use podless_link::v1::{
    Chunk, FetchRequest, FromShim, ToShim,
    link_server::{Link, LinkServer},
};
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, transport::ServerTlsConfig};

use crate::wake::Wake;
use auth::Authenticator;
use sessions::Sessions;

/// A shim that says nothing for this long, and does not answer a ping for as long again, is disconnected.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Largest message from a shim: a report of ten thousand services has about 5 MB.
const MAX_MESSAGE: usize = 32 << 20;

/// What the link and the reconciler share.
pub struct Hub {
    sessions: Mutex<Sessions>,
    services: Store<WasmService>,
    ready: watch::Receiver<bool>,
    /// Asks for reconciles.
    pub wake: Wake,
    /// Signs assignments.
    key: SealKey,
    members: watch::Sender<u64>,
}

impl Hub {
    /// `ready` turns true when `services` is complete.
    pub fn new(
        fingerprint: String,
        services: Store<WasmService>,
        ready: watch::Receiver<bool>,
        wake: Wake,
        key: SealKey,
    ) -> Self {
        let sessions = Mutex::new(Sessions::new(fingerprint));
        Self { sessions, services, ready, wake, key, members: watch::Sender::new(0) }
    }

    /// Everything about shims. Not to be held over an await.
    pub fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Uids of the services there are.
    pub fn service_uids(&self) -> HashSet<String> {
        self.services.state().iter().filter_map(|s| s.metadata.uid.clone()).collect()
    }

    /// The services there are.
    pub fn services(&self) -> Vec<Arc<WasmService>> {
        self.services.state()
    }

    /// Waits until every service is known: a shim that connects is told to wait for each of them.
    ///
    /// Not by `Store::wait_until_ready`: it wakes one waiter only, and the controller is one.
    pub async fn wait_until_ready(&self) -> Result<(), watch::error::RecvError> {
        self.ready.clone().wait_for(|ready| *ready).await.map(|_| ())
    }

    /// A shim came or went: every service may be placed anew.
    pub fn membership_changed(&self) {
        self.members.send_modify(|n| *n += 1);
        self.wake.all();
    }

    /// Follows shims that come and go.
    pub fn members(&self) -> watch::Receiver<u64> {
        self.members.subscribe()
    }
}

struct Server {
    hub: Arc<Hub>,
    auth: Authenticator,
}

#[tonic::async_trait]
impl Link for Server {
    type SessionStream = ReceiverStream<Result<ToShim, Status>>;
    type FetchStream = ReceiverStream<Result<Chunk, Status>>;

    async fn session(&self, request: Request<Streaming<FromShim>>) -> Result<Response<Self::SessionStream>, Status> {
        let identity = self.auth.identify(request.metadata()).await.inspect_err(refused)?;
        session::serve(self.hub.clone(), identity, request.into_inner()).await.map(Response::new)
    }

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let identity = self.auth.identify(request.metadata()).await.inspect_err(refused)?;
        let sha256 = request.into_inner().sha256;
        let assigned = self.hub.sessions().code_for(&identity.pod_uid, &sha256);
        let assigned = assigned.ok_or_else(|| Status::not_found("no such artifact is assigned to this shim"))?;
        Ok(Response::new(fetch::stream(assigned.content.clone())))
    }
}

fn refused(error: &auth::AuthError) {
    tracing::warn!(%error, "a caller of the link was turned away");
}

/// Serves the link until it fails.
pub async fn serve(
    hub: Arc<Hub>,
    auth: Authenticator,
    tls: ServerTlsConfig,
    address: SocketAddr,
) -> Result<(), tonic::transport::Error> {
    let service = LinkServer::new(Server { hub, auth }).max_decoding_message_size(MAX_MESSAGE);
    tonic::transport::Server::builder()
        .tls_config(tls)?
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .tcp_nodelay(true)
        .add_service(service)
        .serve(address)
        .await
}
