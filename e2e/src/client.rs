//! A client outside the pods: its sockets live in the cluster's client namespace, so that traffic goes through
//! kube-proxy as anyone's would and cannot leave the machine. IO.

use std::{
    fs::File,
    net::SocketAddr,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::TcpStream;

/// Longest time that one request of a test may take.
const PATIENCE: Duration = Duration::from_secs(45);

/// Where a request goes: a Service's cluster address and the Host header.
#[derive(Clone, Debug)]
pub struct Target {
    /// Cluster IP and port.
    pub address: SocketAddr,
    /// What the Host header says.
    pub host: String,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// The whole body, as text.
    pub body: String,
    /// From the request sent to the head of the answer received, without the connection's set-up.
    pub first_byte: Duration,
}

/// Runs something with its sockets in the cluster's client namespace.
async fn in_client<T, F>(task: F) -> Result<T>
where
    T: Send + 'static,
    F: AsyncFnOnce() -> Result<T> + Send + 'static,
{
    joined(client_thread(task)?).await
}

/// Waits for a client thread without blocking the test's own.
async fn joined<T: Send + 'static>(thread: JoinHandle<Result<T>>) -> Result<T> {
    tokio::task::spawn_blocking(move || thread.join().map_err(|_| anyhow!("the client thread panicked"))?).await?
}

fn client_thread<T, F>(task: F) -> Result<JoinHandle<Result<T>>>
where
    T: Send + 'static,
    F: AsyncFnOnce() -> Result<T> + Send + 'static,
{
    let path = crate::env("PODLESS_CLIENT_NETNS")?;
    let namespace = File::open(&path).with_context(|| format!("the client's namespace {path}"))?;
    Ok(std::thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(task())
    }))
}

/// One GET on a connection of its own.
pub async fn get(target: &Target, path: &str) -> Result<Answer> {
    let (target, path) = (target.clone(), path.to_owned());
    in_client(async move || request(&target, Method::GET, &path, Bytes::new()).await).await
}

/// One POST on a connection of its own.
pub async fn post(target: &Target, path: &str, body: Vec<u8>) -> Result<Answer> {
    let (target, path) = (target.clone(), path.to_owned());
    in_client(async move || request(&target, Method::POST, &path, body.into()).await).await
}

async fn request(target: &Target, method: Method, path: &str, body: Bytes) -> Result<Answer> {
    let exchange = async {
        let stream = TcpStream::connect(target.address).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", &target.host).body(Full::new(body))?;
        let sent = Instant::now();
        let answer = sender.send_request(request).await?;
        let first_byte = sent.elapsed();
        let (head, body) = answer.into_parts();
        let body = String::from_utf8_lossy(&body.collect().await?.to_bytes()).into_owned();
        connection.abort();
        anyhow::Ok(Answer { status: head.status, headers: head.headers, body, first_byte })
    };
    tokio::time::timeout(PATIENCE, exchange).await.context("no answer within 45 s")?
}

/// Requests one after another, each on a connection of its own, until it is stopped.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Outage>>,
}

/// What continuous traffic saw.
#[derive(Debug, Default)]
pub struct Outage {
    /// Requests sent.
    pub sent: usize,
    /// Requests that were not answered 200, with what was seen instead.
    pub failed: Vec<String>,
    /// Longest time between two answers of 200.
    pub longest_gap: Duration,
}

impl Traffic {
    /// Starts sending, a request every 20 ms or as fast as they are answered, for two minutes at most.
    pub fn start(target: &Target) -> Result<Self> {
        let (target, stop) = (target.clone(), Arc::new(AtomicBool::new(false)));
        let flag = stop.clone();
        let thread = client_thread(async move || {
            // kube-proxy hears of new endpoints a moment after status does: what counts begins with the first answer.
            request(&target, Method::GET, "/", Bytes::new()).await?;
            let mut seen = Outage::default();
            let (start, mut last_good) = (Instant::now(), Instant::now());
            while !flag.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(120) {
                seen.sent += 1;
                let patience = Duration::from_millis(500);
                match tokio::time::timeout(patience, request(&target, Method::GET, "/", Bytes::new())).await {
                    Ok(Ok(answer)) if answer.status == StatusCode::OK => {
                        seen.longest_gap = seen.longest_gap.max(last_good.elapsed());
                        last_good = Instant::now();
                    }
                    Ok(Ok(answer)) => seen.failed.push(format!("{} {}", answer.status, answer.body)),
                    Ok(Err(error)) => seen.failed.push(format!("{error:#}")),
                    Err(_) => seen.failed.push("no answer within 500 ms".to_owned()),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            seen.longest_gap = seen.longest_gap.max(last_good.elapsed());
            Ok(seen)
        })?;
        Ok(Self { stop, thread })
    }

    /// Stops, and tells what was seen.
    pub async fn stop(self) -> Result<Outage> {
        self.stop.store(true, Ordering::Relaxed);
        joined(self.thread).await
    }
}
