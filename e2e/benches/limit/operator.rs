//! The operator, as far as a shim sees it: a link with real TLS, keys and signatures, which assigns what a figure needs. IO.
//!
//! Nothing is decided here: no cluster, no policy, no placement. What the shim does with it is all its own.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use futures::{Stream, StreamExt, stream};
use podless_artifact::seal::{Seal, SealKey};
use podless_engine::Target;
use podless_link::{
    ASSIGNMENT_CONTEXT, TRUST_CA, TRUST_SEAL,
    v1::{
        self, Assign, Assignment, Chunk, FetchRequest, FromShim, Given, Synced, Taken, ToShim,
        ack::Outcome,
        from_shim,
        link_server::{Link, LinkServer},
        to_shim,
    },
};
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use sha2::{Digest, Sha256};
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc},
    task::JoinHandle,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Identity, Server, ServerTlsConfig},
};

use super::guests::Code;

const PATIENCE: Duration = Duration::from_secs(300);
const NOTE: &[u8] = b"what the operator knows of it";
/// What each chunk of an artifact has.
const PIECE: usize = 256 << 10;

#[derive(Default)]
struct State {
    /// What is to be served, by uid.
    assigned: HashMap<String, (u64, Assign)>,
    /// By hash.
    codes: HashMap<String, Code>,
    /// The last word about a service: its generation, and why it is not served.
    acks: HashMap<String, (u64, Option<String>)>,
    session: Option<mpsc::Sender<ToShim>>,
    hellos: usize,
}

/// The operator.
pub(crate) struct Operator {
    state: Arc<Mutex<State>>,
    heard: Arc<Notify>,
    key: SealKey,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// With `trust/` and `token`.
    pub(crate) folder: tempfile::TempDir,
    server: JoinHandle<()>,
}

impl Operator {
    /// Starts an operator that has assigned nothing.
    pub(crate) async fn start() -> Result<Self> {
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;
        let tls_key = KeyPair::generate()?;
        let certificate = CertificateParams::new(["localhost".to_owned()])?.signed_by(&tls_key, &ca)?;
        let identity = Identity::from_pem(certificate.pem(), tls_key.serialize_pem());
        let key = SealKey::from_random([7; 32]);
        let folder = tempfile::tempdir()?;
        let trust = folder.path().join("trust");
        std::fs::create_dir(&trust)?;
        std::fs::write(trust.join(TRUST_CA), ca.pem())?;
        std::fs::write(trust.join(TRUST_SEAL), key.public_pem()?)?;
        std::fs::write(folder.path().join("token"), "token")?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (state, heard) = <(Arc<Mutex<State>>, Arc<Notify>)>::default();
        let server = Server::builder()
            .tls_config(ServerTlsConfig::new().identity(identity))?
            .add_service(LinkServer::new(Session { state: state.clone(), heard: heard.clone() }))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async {
            if let Err(error) = server.await {
                eprintln!("the link has ended: {error}");
            }
        });
        Ok(Self { state, heard, key, address, folder, server })
    }

    /// Folder of the operator's public keys.
    pub(crate) fn trust(&self) -> impl AsRef<Path> {
        self.folder.path().join("trust")
    }

    /// A service with the defaults of `spec`, to change before it is assigned.
    pub(crate) fn assignment(&self, uid: &str, code: &Code, port: u16) -> Result<Assignment> {
        let seal = Seal {
            component: format!("sha256:{}", code.sha256()),
            code_sha256: code.sha256().to_owned(),
            code_size: code.size() as u64,
            fingerprint: podless_engine::fingerprint(Target::default()),
            wasmtime: podless_engine::WASMTIME_VERSION.to_owned(),
            target: Target::default().to_string(),
            http: code.world(),
            flavour: code.flavour(),
            made_at: "2026-01-31T12:00:00Z".to_owned(),
        };
        locked(&self.state).codes.insert(code.sha256().to_owned(), code.clone());
        Ok(Assignment {
            service_uid: uid.to_owned(),
            namespace: "bench".to_owned(),
            name: uid.to_owned(),
            generation: 1,
            service_generation: 1,
            port: port.into(),
            budget: 1000,
            sealed: serde_json::to_vec(&self.key.seal(&seal)?)?,
            instance_memory: 64 << 20,
            timeout_millis: 30_000,
            note_sha256: hex::encode(Sha256::digest(NOTE)),
            ..Assignment::default()
        })
    }

    /// Assigns services, and waits until the shim has taken each.
    pub(crate) async fn assign(&self, assignments: &[Assignment]) -> Result<()> {
        for assignment in assignments {
            let bytes = assignment.encode_to_vec();
            let assign = Assign { signature: self.key.sign(ASSIGNMENT_CONTEXT, &bytes).to_vec(), assignment: bytes };
            let session = {
                let mut state = locked(&self.state);
                let uid = assignment.service_uid.clone();
                state.assigned.insert(uid, (assignment.generation, assign.clone()));
                state.session.clone()
            };
            if let Some(session) = session {
                session.send(ToShim { body: Some(to_shim::Body::Assign(assign)) }).await?;
            }
        }
        self.until("services are taken", |state| {
            let open = |one: &&Assignment| match state.acks.get(&one.service_uid) {
                Some((generation, Some(why))) if *generation == one.generation => Some(Err(why.clone())),
                Some((generation, None)) if *generation >= one.generation => None,
                _ => Some(Ok(())),
            };
            match assignments.iter().find_map(|one| open(&one)) {
                Some(Err(why)) => Some(Err(why)),
                Some(Ok(())) => None,
                None => Some(Ok(())),
            }
        })
        .await?
        .map_err(|why| anyhow::anyhow!("a service was refused: {why}"))
    }

    /// Waits until a shim has introduced itself so many times.
    pub(crate) async fn greeted(&self, times: usize) -> Result<()> {
        self.until("the shim's hello", |state| (state.hellos >= times).then_some(())).await
    }

    /// Forgets all services: the next shim begins with none.
    pub(crate) fn forget(&self) {
        *locked(&self.state) = State::default();
    }

    async fn until<T>(&self, what: &str, look: impl Fn(&State) -> Option<T>) -> Result<T> {
        let waiting = async {
            loop {
                let mut heard = std::pin::pin!(self.heard.notified());
                heard.as_mut().enable();
                if let Some(found) = look(&locked(&self.state)) {
                    return found;
                }
                heard.await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.with_context(|| format!("{what}: not within {PATIENCE:?}"))
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.server.abort();
    }
}

struct Session {
    state: Arc<Mutex<State>>,
    heard: Arc<Notify>,
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

type Sent<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Link for Session {
    type SessionStream = Sent<ToShim>;
    type FetchStream = Sent<Chunk>;

    async fn session(&self, request: Request<Streaming<FromShim>>) -> Result<Response<Sent<ToShim>>, Status> {
        let mut incoming = request.into_inner();
        let (sender, receiver) = mpsc::channel(1024);
        let (state, heard) = (self.state.clone(), self.heard.clone());
        tokio::spawn(async move {
            while let Ok(Some(FromShim { body: Some(body) })) = incoming.message().await {
                match body {
                    from_shim::Body::Hello(hello) => {
                        let known: HashMap<_, _> =
                            hello.known.into_iter().map(|known| (known.service_uid, known.generation)).collect();
                        let missing: Vec<_> = {
                            let mut state = locked(&state);
                            state.session = Some(sender.clone());
                            state.hellos += 1;
                            let missing = |(uid, (generation, assign)): (&String, &(u64, Assign))| {
                                (known.get(uid) != Some(generation)).then(|| to_shim::Body::Assign(assign.clone()))
                            };
                            state.assigned.iter().filter_map(missing).collect()
                        };
                        for body in missing.into_iter().chain([to_shim::Body::Synced(Synced {})]) {
                            let _ = sender.send(ToShim { body: Some(body) }).await;
                        }
                    }
                    from_shim::Body::Ack(ack) => {
                        let why = match ack.outcome {
                            Some(Outcome::Failed(v1::Failed { message, .. })) => Some(message),
                            _ => None,
                        };
                        locked(&state).acks.insert(ack.service_uid, (ack.generation, why));
                    }
                    _ => {}
                }
                heard.notify_waiters();
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver).map(Ok).boxed()))
    }

    async fn give_back(&self, _: Request<Streaming<Given>>) -> Result<Response<Taken>, Status> {
        Err(Status::unimplemented("nothing is recalled"))
    }

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<Sent<Chunk>>, Status> {
        let code = locked(&self.state).codes.get(&request.get_ref().sha256).cloned();
        let bytes = code.ok_or_else(|| Status::not_found("no such artifact"))?.bytes();
        let size = bytes.len();
        let chunks = (0..size).step_by(PIECE).map(move |at| {
            let note = if at == 0 { NOTE.to_vec() } else { vec![] };
            Ok(Chunk { data: bytes[at..size.min(at + PIECE)].to_vec(), note })
        });
        Ok(Response::new(stream::iter(chunks.collect::<Vec<_>>()).boxed()))
    }
}
