//! The other end of the link: what of the operator a shim sees, with real TLS, keys, signatures and artifacts.

use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures::{Stream, StreamExt};
use podless_artifact::seal::{HttpWorld, Seal, SealKey, TrustedKeys};
use podless_engine::{Flavour, Target};
use podless_link::{
    ASSIGNMENT_CONTEXT, TRUST_CA, TRUST_SEAL,
    v1::{
        self, Ack, Assign, Assignment, Chunk, FetchRequest, FromShim, Given, Hello, Report, Taken, ToShim, Withdraw,
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
    sync::{Notify, OwnedRwLockWriteGuard, RwLock, mpsc},
    task::JoinHandle,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Identity, Server, ServerTlsConfig},
};

/// Longest wait for anything in these tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// What every artifact comes with.
pub(crate) const NOTE: &[u8] = b"what the operator knows of it";
const TOKEN: &str = "the shim's token";

/// A component that tests serve.
#[derive(Clone, Copy)]
pub(crate) struct Guest {
    name: &'static str,
    http: HttpWorld,
}

pub(crate) const HELLO: Guest = Guest { name: "hello", http: HttpWorld::P2 };
pub(crate) const HELLO_P3: Guest = Guest { name: "hello-p3", http: HttpWorld::P3 };
pub(crate) const PROBE: Guest = Guest { name: "probe", http: HttpWorld::P2 };
pub(crate) const REUSE_P3: Guest = Guest { name: "reuse-p3", http: HttpWorld::P3 };
pub(crate) const FETCH: Guest = Guest { name: "fetch", http: HttpWorld::P2 };
pub(crate) const FETCH_P3: Guest = Guest { name: "fetch-p3", http: HttpWorld::P3 };
pub(crate) const SPLICE_P3: Guest = Guest { name: "splice-p3", http: HttpWorld::P3 };
pub(crate) const STREAM_P3: Guest = Guest { name: "stream-p3", http: HttpWorld::P3 };
pub(crate) const LOGGER: Guest = Guest { name: "logger", http: HttpWorld::P2 };
pub(crate) const STORM: Guest = Guest { name: "storm", http: HttpWorld::P2 };
pub(crate) const TABLES: Guest = Guest { name: "tables", http: HttpWorld::P2 };
pub(crate) const MEMORIES: Guest = Guest { name: "memories", http: HttpWorld::P2 };

impl Guest {
    /// Its machine code, as `make guests` compiled it.
    pub(crate) fn code(self) -> Vec<u8> {
        self.file("cwasm")
    }

    /// The same for another target; there is one of [`HELLO`].
    pub(crate) fn code_for(self, target: Target) -> Vec<u8> {
        self.file(&format!("{target}.cwasm"))
    }

    fn file(self, extension: &str) -> Vec<u8> {
        let dir = std::env::var("PODLESS_TEST_ARTIFACTS").expect(
            "PODLESS_TEST_ARTIFACTS names the folder that `make guests` fills with machine code: run `make test-unit`",
        );
        let path = Path::new(&dir).join(format!("{}.{extension}", self.name));
        std::fs::read(&path).unwrap_or_else(|error| panic!("{} is missing, run `make guests`: {error}", path.display()))
    }
}

/// What the shim said so far.
#[derive(Default)]
pub(crate) struct Said {
    pub(crate) hellos: Vec<Hello>,
    pub(crate) acks: Vec<Ack>,
    pub(crate) reports: Vec<Report>,
    pub(crate) loads: Vec<v1::Load>,
    pub(crate) probed: Vec<v1::ProbeResult>,
    pub(crate) fetches: usize,
    /// What was given back, each answer in one.
    pub(crate) given: Vec<v1::Given>,
}

#[derive(Default)]
struct State {
    said: Said,
    assigned: BTreeMap<String, Assign>,
    artifacts: HashMap<String, Vec<u8>>,
    /// Of each of them.
    note: Vec<u8>,
    session: Option<mpsc::Sender<ToShim>>,
}

/// The operator.
pub(crate) struct Operator {
    state: Arc<Mutex<State>>,
    heard: Arc<Notify>,
    sending: Arc<RwLock<()>>,
    key: SealKey,
    identity: Identity,
    address: SocketAddr,
    server: Option<JoinHandle<()>>,
    /// Folder with `trust/` and `token`.
    pub(crate) dir: tempfile::TempDir,
}

impl Operator {
    /// Starts an operator that has assigned nothing.
    pub(crate) async fn start() -> Self {
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().expect("a key")).expect("a CA");
        let key = KeyPair::generate().expect("a key");
        let certificate =
            CertificateParams::new(["localhost".to_owned()]).and_then(|params| params.signed_by(&key, &ca));
        let identity = Identity::from_pem(certificate.expect("a certificate").pem(), key.serialize_pem());
        let seal = SealKey::from_random([7; 32]);
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("trust")).expect("made");
        std::fs::write(dir.path().join("trust").join(TRUST_CA), ca.pem()).expect("written");
        std::fs::write(dir.path().join("trust").join(TRUST_SEAL), seal.public_pem().expect("PEM")).expect("written");
        std::fs::write(dir.path().join("token"), TOKEN).expect("written");
        let mut operator = Self {
            state: Arc::default(),
            heard: Arc::default(),
            sending: Arc::default(),
            key: seal,
            identity,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            server: None,
            dir,
        };
        operator.knows(NOTE);
        operator.listen().await;
        operator
    }

    /// Listens, again on the same port after [`Self::stop`].
    pub(crate) async fn listen(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("a port");
        self.address = listener.local_addr().expect("its address");
        let (state, heard, sending) = (self.state.clone(), self.heard.clone(), self.sending.clone());
        let service = LinkServer::new(Session { state, heard, sending });
        let server = Server::builder()
            .tls_config(ServerTlsConfig::new().identity(self.identity.clone()))
            .expect("TLS")
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        self.server = Some(tokio::spawn(async { server.await.expect("it serves") }));
    }

    /// Goes away without a word.
    pub(crate) async fn stop(&mut self) {
        let server = self.server.take().expect("it ran");
        server.abort();
        let _ = server.await;
        self.state().session = None;
    }

    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    pub(crate) fn trust_dir(&self) -> PathBuf {
        self.dir.path().join("trust")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a lock")
    }

    /// It has lost its cache, and knows something else of what it makes again.
    pub(crate) fn knows(&self, note: &[u8]) {
        self.state().note = note.to_vec();
    }

    /// An assignment of a guest, to change before it is sent.
    pub(crate) fn assignment(&self, guest: Guest, uid: &str, port: u16) -> Assignment {
        self.assignment_of(guest.code(), guest.http, uid, port)
    }

    /// The same with code that differs from that of every other variant, and does the same.
    pub(crate) fn variant(&self, guest: Guest, n: usize, uid: &str, port: u16) -> Assignment {
        let mut code = guest.code();
        // After its end: nothing reads there.
        code.extend(n.to_le_bytes());
        self.assignment_of(code, guest.http, uid, port)
    }

    /// The same with code of the test's own.
    pub(crate) fn assignment_of(&self, code: Vec<u8>, http: HttpWorld, uid: &str, port: u16) -> Assignment {
        self.assignment_for(Target::default(), code, http, uid, port)
    }

    /// The same, sealed for this target.
    pub(crate) fn assignment_for(
        &self,
        target: Target,
        code: Vec<u8>,
        http: HttpWorld,
        uid: &str,
        port: u16,
    ) -> Assignment {
        let sha256 = hex::encode(Sha256::digest(&code));
        let seal = Seal {
            component: "sha256:00".to_owned(),
            code_sha256: sha256.clone(),
            code_size: code.len() as u64,
            fingerprint: podless_engine::fingerprint(target),
            wasmtime: podless_engine::WASMTIME_VERSION.to_owned(),
            target: target.to_string(),
            http,
            flavour: match http {
                HttpWorld::P2 => Flavour::P2,
                HttpWorld::P3 => Flavour::P3,
            },
            made_at: "2026-01-31T12:00:00Z".to_owned(),
        };
        let note_sha256 = {
            let mut state = self.state();
            state.artifacts.insert(sha256, code);
            hex::encode(Sha256::digest(&state.note))
        };
        Assignment {
            service_uid: uid.to_owned(),
            namespace: "tests".to_owned(),
            name: format!("service-{uid}"),
            generation: 1,
            service_generation: 1,
            port: port.into(),
            budget: 100,
            sealed: serde_json::to_vec(&self.key.seal(&seal).expect("sealed")).expect("JSON"),
            env: vec![],
            grants: None,
            instance_memory: 64 << 20,
            timeout_millis: 10_000,
            parked: false,
            count_cpu: false,
            note_sha256,
            max_invocations: None,
            max_concurrency: None,
            pool_size: None,
            idle_seconds: None,
            hosts: vec![],
            created_at: 0,
        }
    }

    /// The hash of the code that an assignment is for: the name of its file.
    pub(crate) fn artifact_of(&self, assignment: &Assignment) -> String {
        let sealed = serde_json::from_slice(&assignment.sealed).expect("JSON");
        let keys = TrustedKeys::from_pem(&self.key.public_pem().expect("PEM")).expect("keys");
        keys.open(&sealed).expect("sealed").code_sha256
    }

    /// Digest of the component that an assignment is for.
    pub(crate) fn component_of(&self, assignment: &Assignment) -> String {
        let sealed = serde_json::from_slice(&assignment.sealed).expect("JSON");
        let keys = TrustedKeys::from_pem(&self.key.public_pem().expect("PEM")).expect("keys");
        keys.open(&sealed).expect("sealed").component
    }

    /// Signs an assignment.
    pub(crate) fn sign(&self, assignment: &Assignment) -> Assign {
        let bytes = assignment.encode_to_vec();
        Assign { signature: self.key.sign(ASSIGNMENT_CONTEXT, &bytes).to_vec(), assignment: bytes }
    }

    /// Assigns it now and in every later session.
    pub(crate) fn assign(&self, assignment: &Assignment) {
        let assign = self.sign(assignment);
        self.state().assigned.insert(assignment.service_uid.clone(), assign.clone());
        self.send(to_shim::Body::Assign(assign));
    }

    /// Takes it back.
    pub(crate) fn withdraw(&self, uid: &str, generation: u64, linger: Duration) {
        self.state().assigned.remove(uid);
        self.send(to_shim::Body::Withdraw(Withdraw {
            service_uid: uid.to_owned(),
            generation,
            linger_millis: linger.as_millis() as u64,
        }));
    }

    /// Says something in the session that is open.
    pub(crate) fn send(&self, body: to_shim::Body) {
        if let Some(session) = &self.state().session {
            session.try_send(ToShim { body: Some(body) }).expect("room");
        }
    }

    /// Damages what is sent for every artifact.
    pub(crate) fn damage_artifacts(&self) {
        for code in self.state().artifacts.values_mut() {
            code[0] ^= 1;
        }
    }

    /// Sends no artifact until what this gives is dropped.
    pub(crate) async fn hold_artifacts(&self) -> OwnedRwLockWriteGuard<()> {
        self.sending.clone().write_owned().await
    }

    /// Waits until what the shim said has what is looked for.
    pub(crate) async fn until<T>(&self, what: &str, look: impl Fn(&Said) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let mut heard = std::pin::pin!(self.heard.notified());
                heard.as_mut().enable();
                let found = look(&self.state().said);
                if let Some(found) = found {
                    return found;
                }
                heard.await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("the shim never said: {what}"))
    }

    /// Waits for the acknowledgement of a generation.
    pub(crate) async fn acked(&self, uid: &str, generation: u64) -> Outcome {
        self.until(&format!("how {uid} {generation} went"), |said| {
            let ack = said.acks.iter().find(|ack| ack.service_uid == uid && ack.generation == generation)?;
            ack.outcome.clone()
        })
        .await
    }

    /// Assigns a service and waits until it serves.
    pub(crate) async fn serve(&self, assignment: &Assignment) {
        self.assign(assignment);
        let outcome = self.acked(&assignment.service_uid, assignment.generation).await;
        assert_eq!(outcome, Outcome::Loaded(v1::Loaded {}));
    }
}

struct Session {
    state: Arc<Mutex<State>>,
    heard: Arc<Notify>,
    sending: Arc<RwLock<()>>,
}

impl Session {
    fn check<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let token = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let known = token == Some(&format!("Bearer {TOKEN}"));
        known.then_some(()).ok_or_else(|| Status::unauthenticated("not the shim's token"))
    }
}

type Sent<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Link for Session {
    type SessionStream = Sent<ToShim>;
    type FetchStream = Sent<Chunk>;

    async fn session(&self, request: Request<Streaming<FromShim>>) -> Result<Response<Sent<ToShim>>, Status> {
        self.check(&request)?;
        let mut incoming = request.into_inner();
        let (sender, receiver) = mpsc::channel(1024);
        let (state, heard) = (self.state.clone(), self.heard.clone());
        tokio::spawn(async move {
            while let Ok(Some(FromShim { body: Some(body) })) = incoming.message().await {
                let mut state = state.lock().expect("a lock");
                match body {
                    from_shim::Body::Hello(hello) => {
                        for assign in state.assigned.values() {
                            let a = Assignment::decode(assign.assignment.as_slice()).expect("an assignment");
                            let known = hello
                                .known
                                .iter()
                                .any(|known| (&known.service_uid, known.generation) == (&a.service_uid, a.generation));
                            if !known {
                                let body = Some(to_shim::Body::Assign(assign.clone()));
                                sender.try_send(ToShim { body }).expect("room");
                            }
                        }
                        let body = Some(to_shim::Body::Synced(v1::Synced {}));
                        sender.try_send(ToShim { body }).expect("room");
                        state.session = Some(sender.clone());
                        state.said.hellos.push(hello);
                    }
                    from_shim::Body::Ack(ack) => state.said.acks.push(ack),
                    from_shim::Body::Report(report) => state.said.reports.push(report),
                    from_shim::Body::Load(load) => state.said.loads.push(load),
                    from_shim::Body::ProbeResult(result) => state.said.probed.push(result),
                }
                heard.notify_waiters();
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver).map(Ok).boxed()))
    }

    async fn give_back(&self, request: Request<Streaming<Given>>) -> Result<Response<Taken>, Status> {
        self.check(&request)?;
        let (mut incoming, mut all) = (request.into_inner(), Given::default());
        while let Some(Given { id, assign, note, data }) = incoming.message().await? {
            (all.id, all.assign) = (all.id.max(id), all.assign.or(assign));
            all.note.extend(note);
            all.data.extend(data);
        }
        self.state.lock().expect("a lock").said.given.push(all);
        self.heard.notify_waiters();
        Ok(Response::new(Taken {}))
    }

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<Sent<Chunk>>, Status> {
        self.check(&request)?;
        self.state.lock().expect("a lock").said.fetches += 1;
        self.heard.notify_waiters();
        let _sending = self.sending.read().await;
        let state = self.state.lock().expect("a lock");
        let code =
            state.artifacts.get(&request.get_ref().sha256).ok_or_else(|| Status::not_found("no such artifact"))?;
        let notes = std::iter::once(state.note.clone()).chain(std::iter::repeat(vec![]));
        let chunks: Vec<_> =
            code.chunks(64 << 10).zip(notes).map(|(data, note)| Ok(Chunk { data: data.to_vec(), note })).collect();
        Ok(Response::new(futures::stream::iter(chunks).boxed()))
    }
}
