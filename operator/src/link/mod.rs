//! The operator's end of the link: `auth` says who calls, `session` keeps one shim's stream, `sessions` knows what all
//! of them know, `fetch` hands out machine code, `recalls` takes it back, and `sizes` says how long a message may be.

pub mod auth;
pub mod content;
mod fetch;
pub mod recalls;
pub mod session;
pub mod sessions;
mod sizes;

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use kube::runtime::reflector::Store;
use podless_crds::WasmService;
use podless_engine::Target;
use podless_link::v1::{Chunk, FetchRequest, FromShim, Given, Taken, ToShim, link_server::Link};
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Identity as Certificate, ServerTlsConfig},
};

use crate::{autoscale::Autoscale, metrics::Metrics, trust::Signing, wake::Wake};
use auth::{AuthError, Authenticator, from_its_pod};
use recalls::Recalls;
use sessions::Sessions;
use sizes::Limited;

/// A shim that says nothing for this long is pinged.
const KEEPALIVE: Duration = Duration::from_secs(1);
/// A shim that does not answer a ping for this long is disconnected: with the time before the ping, half of what there
/// is to find that a node is gone; see `eject`.
const KEEPALIVE_ANSWER: Duration = Duration::from_millis(1500);
/// Calls at once on one connection: a session, what is fetched, and what is given back.
const CALLS: u32 = 16;

/// What the link and the reconciler share.
pub struct Hub {
    sessions: Mutex<Sessions>,
    services: Store<WasmService>,
    ready: watch::Receiver<bool>,
    /// Asks for reconciles.
    pub wake: Wake,
    /// Signs assignments.
    pub signing: Arc<Signing>,
    /// How many replicas services should have, by what shims count.
    pub autoscale: Autoscale,
    members: watch::Sender<u64>,
    /// What shims are asked to give back.
    pub recalls: Recalls,
    /// When this leader began to listen.
    pub since: Instant,
}

impl Hub {
    /// `ready` turns true when `services` is complete.
    pub fn new(services: Store<WasmService>, ready: watch::Receiver<bool>, wake: Wake, signing: Arc<Signing>) -> Self {
        let engines = Target::ALL.map(|target| (podless_engine::fingerprint(target), target));
        let sessions = Mutex::new(Sessions::new(engines));
        let autoscale = Autoscale::default();
        Self {
            sessions,
            services,
            ready,
            wake,
            signing,
            autoscale,
            members: watch::Sender::new(0),
            recalls: Recalls::default(),
            since: Instant::now(),
        }
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

/// What the link's calls are answered with.
#[derive(Clone)]
pub struct Server {
    /// The shims.
    pub hub: Arc<Hub>,
    /// Says who calls.
    pub auth: Arc<Authenticator>,
    /// Counts who is turned away.
    pub metrics: Metrics,
}

impl Server {
    /// Turns a caller away, and counts it.
    fn refuse(&self, error: AuthError) -> Status {
        self.metrics.link_refused(error.reason());
        tracing::warn!(%error, reason = error.reason(), "a caller of the link was turned away");
        error.into()
    }
}

#[tonic::async_trait]
impl Link for Server {
    type SessionStream = ReceiverStream<Result<ToShim, Status>>;
    type FetchStream = ReceiverStream<Result<Chunk, Status>>;

    async fn session(&self, request: Request<Streaming<FromShim>>) -> Result<Response<Self::SessionStream>, Status> {
        let from = request.remote_addr();
        let identity = self.auth.identify(request.metadata()).await.map_err(|error| self.refuse(error))?;
        from_its_pod(&identity, from).map_err(|error| self.refuse(error))?;
        session::serve(self.hub.clone(), self.metrics.clone(), identity, request.into_inner()).await.map(Response::new)
    }

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let from = request.remote_addr();
        let identity = self.auth.recognise(request.metadata()).await.map_err(|error| self.refuse(error))?;
        from_its_pod(&identity, from).map_err(|error| self.refuse(error))?;
        let sha256 = request.into_inner().sha256;
        let code = self.hub.sessions().code_for(&identity.pod_uid, &sha256);
        let code = code.ok_or_else(|| Status::not_found("no such artifact is assigned to this shim"))?;
        Ok(Response::new(fetch::stream(code)))
    }

    async fn give_back(&self, request: Request<Streaming<Given>>) -> Result<Response<Taken>, Status> {
        let from = request.remote_addr();
        let identity = self.auth.recognise(request.metadata()).await.map_err(|error| self.refuse(error))?;
        from_its_pod(&identity, from).map_err(|error| self.refuse(error))?;
        self.hub.recalls.take(&identity.pod_uid, request.into_inner()).await?;
        Ok(Response::new(Taken {}))
    }
}

/// Serves the link until it fails. With another certificate it begins anew: who is connected stays so, who connects
/// from then on sees the new one.
pub async fn serve(
    server: Server,
    mut certificate: watch::Receiver<Certificate>,
    address: SocketAddr,
) -> Result<(), tonic::transport::Error> {
    loop {
        let tls = ServerTlsConfig::new().identity(certificate.borrow_and_update().clone());
        let serving = tonic::transport::Server::builder()
            .tls_config(tls)?
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
            .max_concurrent_streams(CALLS)
            .tcp_nodelay(true)
            .add_service(Limited::new(&server))
            .serve(address);
        tokio::select! {
            ended = serving => return ended,
            Ok(()) = certificate.changed() => tracing::info!("the link has a new certificate"),
        }
    }
}
