//! Between an operator and the real API server: counts writes, kills the operator after one of them, refuses, and
//! spoils watches. In: requests on loopback without TLS; out: the API server's answers, or what was put in their place.
//! IO.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Result;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use kube::Client;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinSet};

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, Failure>;

/// What goes wrong. Ordinal numbers begin with one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// The operator dies when this write has landed, before it hears of it.
    pub kill_after: Option<usize>,
    /// Every so manieth write is refused because somebody was faster.
    pub conflict_every: Option<usize>,
    /// Every so manieth watch is told that its resource version is too old.
    pub gone_every: Option<usize>,
    /// Every so manieth event of a watch is lost, and then the watch ends.
    pub drop_every: Option<usize>,
    /// Every event comes twice.
    pub duplicate: bool,
    /// Nobody answers.
    pub away: bool,
}

#[derive(Default)]
struct State {
    faults: Mutex<Faults>,
    /// Process of the operator.
    pid: Mutex<Option<Pid>>,
    /// Writes since the last [`Proxy::begin`], but for the lease, Events and questions that have the form of a write.
    writes: Mutex<Vec<String>>,
    tried: AtomicUsize,
    watches: AtomicUsize,
    events: AtomicUsize,
}

/// A running proxy; it ends when it is dropped.
pub(crate) struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Listens on loopback and asks the API server with the rights of this client.
    pub(crate) async fn start(kube: Client) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, state) = (listener.local_addr()?, Arc::new(State::default()));
        let (mut tasks, shared) = (JoinSet::new(), state.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (kube, state) = (kube.clone(), shared.clone());
                let service = service_fn(move |request| answer(kube.clone(), state.clone(), request));
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Ok(Self { address, state, _tasks: tasks })
    }

    /// From now on this goes wrong; writes are counted from here.
    pub(crate) fn begin(&self, faults: Faults) {
        *lock(&self.state.faults) = faults;
        lock(&self.state.writes).clear();
        self.state.tried.store(0, Ordering::Relaxed);
    }

    /// Which process is to die.
    pub(crate) fn kills(&self, pid: Option<Pid>) {
        *lock(&self.state.pid) = pid;
    }

    /// The writes that have landed, each as `PATCH /apis/…`.
    pub(crate) fn writes(&self) -> Vec<String> {
        lock(&self.state.writes).clone()
    }

    /// How many writes were tried.
    pub(crate) fn tried(&self) -> usize {
        self.state.tried.load(Ordering::Relaxed)
    }

    /// How many events were spoiled or passed on, and watches begun.
    pub(crate) fn seen(&self) -> (usize, usize) {
        (self.state.events.load(Ordering::Relaxed), self.state.watches.load(Ordering::Relaxed))
    }
}

async fn answer(kube: Client, state: Arc<State>, request: Request<Incoming>) -> Result<Response<Body>, Failure> {
    let faults = *lock(&state.faults);
    if faults.away {
        return Err("nobody is there".into());
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let reads = method == "GET" || method == "HEAD";
    let counts = !reads && !["/leases", "/events", "/tokenreviews"].iter().any(|kind| path.contains(kind));
    let tried = if counts { state.tried.fetch_add(1, Ordering::Relaxed) } else { 0 };
    if counts && every(faults.conflict_every, tried) {
        return refusal(StatusCode::CONFLICT, "Conflict");
    }
    let watches = request.uri().query().is_some_and(|query| query.contains("watch=true"));
    if watches && every(faults.gone_every, state.watches.fetch_add(1, Ordering::Relaxed)) {
        return refusal(StatusCode::GONE, "Expired");
    }

    let (mut head, body) = request.into_parts();
    head.headers.remove(header::HOST);
    let body = body.collect().await?.to_bytes();
    let response = kube.send(Request::from_parts(head, kube::client::Body::from(body))).await?;
    if counts && response.status().is_success() {
        let mut writes = lock(&state.writes);
        writes.push(format!("{method} {path}"));
        if faults.kill_after == Some(writes.len()) {
            if let Some(pid) = *lock(&state.pid) {
                kill_process(pid, Signal::KILL)?;
            }
            return Err("it is dead".into());
        }
    }
    let (head, body) = response.into_parts();
    let body = match watches && (faults.drop_every.is_some() || faults.duplicate) {
        true => spoiled(state, faults, body),
        false => body.map_err(Failure::from).boxed_unsync(),
    };
    Ok(Response::from_parts(head, body))
}

fn every(nth: Option<usize>, before: usize) -> bool {
    nth.is_some_and(|nth| (before + 1).is_multiple_of(nth))
}

/// What the API server says when it refuses.
fn refusal(code: StatusCode, reason: &str) -> Result<Response<Body>, Failure> {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": reason, "code": code.as_u16(),
        "message": "put in the way by a test",
    });
    let body = Full::from(status.to_string()).map_err(|never: Infallible| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// A watch, line by line: some events come twice, and after one that is lost the watch ends, as when a connection breaks.
fn spoiled(state: Arc<State>, faults: Faults, body: kube::client::Body) -> Body {
    let chunks = body.into_data_stream().map_err(Failure::from).boxed();
    let lines = stream::try_unfold((chunks, Vec::<u8>::new()), async |(mut chunks, mut rest)| {
        loop {
            if let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
                let after = rest.split_off(end + 1);
                return Ok(Some((Bytes::from(rest), (chunks, after))));
            }
            match chunks.try_next().await? {
                Some(chunk) => rest.extend_from_slice(&chunk),
                None => return Ok::<_, Failure>(None),
            }
        }
    });
    let frames = lines
        .take_while(move |_| {
            let dropped = every(faults.drop_every, state.events.fetch_add(1, Ordering::Relaxed));
            futures::future::ready(!dropped)
        })
        .map_ok(move |line| {
            let twice = [line.clone(), line].concat();
            let once = twice.len() / 2;
            Frame::data(Bytes::from(twice).slice(..if faults.duplicate { once * 2 } else { once }))
        });
    StreamBody::new(frames).boxed_unsync()
}
