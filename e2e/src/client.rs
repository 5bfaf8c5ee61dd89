//! A client outside the pods: its sockets live in the cluster's client namespace, so that traffic goes through
//! kube-proxy as anyone's would and cannot leave the machine. IO.

use std::{
    fs::File,
    net::SocketAddr,
    os::fd::AsFd,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use futures::future::join_all;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::TcpStream;

/// Longest time that one request of a test may take.
const PATIENCE: Duration = Duration::from_secs(45);
/// The same for its connection: one that was begun before kube-proxy knew the service leads nowhere, however long it is
/// tried.
const CONNECT: Duration = Duration::from_secs(5);

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
pub async fn in_client<T, F>(task: F) -> Result<T>
where
    T: Send + 'static,
    F: AsyncFnOnce() -> Result<T> + Send + 'static,
{
    joined(spawn(Some(namespace()?), task)).await
}

/// Waits for a client thread without blocking the test's own.
pub(crate) async fn joined<T: Send + 'static>(thread: JoinHandle<Result<T>>) -> Result<T> {
    tokio::task::spawn_blocking(move || thread.join().map_err(|_| anyhow!("the client thread panicked"))?).await?
}

/// The cluster's client namespace.
pub(crate) fn namespace() -> Result<File> {
    let path = crate::env("PODLESS_CLIENT_NETNS")?;
    File::open(&path).with_context(|| format!("the client's namespace {path}"))
}

/// Runs something on a thread of its own, with its sockets in a network namespace if one is given.
pub(crate) fn spawn<T, F>(namespace: Option<File>, task: F) -> JoinHandle<Result<T>>
where
    T: Send + 'static,
    F: AsyncFnOnce() -> Result<T> + Send + 'static,
{
    std::thread::spawn(move || {
        if let Some(namespace) = namespace {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        }
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(task())
    })
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

/// Asks each of these until all have answered 200; an error names those that have not within this time.
pub async fn all_serve(targets: &[Target], within: Duration) -> Result<()> {
    let targets = targets.to_vec();
    in_client(async move || {
        let asked = targets.into_iter().map(async |target| {
            let until_served = async {
                while !request(&target, Method::GET, "/", Bytes::new()).await.is_ok_and(|a| a.status == StatusCode::OK)
                {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(within, until_served).await.is_err().then_some(target.host)
        });
        let silent: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
        ensure!(silent.is_empty(), "{} services do not serve within {within:?}: {}", silent.len(), silent.join(", "));
        Ok(())
    })
    .await
}

async fn request(target: &Target, method: Method, path: &str, body: Bytes) -> Result<Answer> {
    let exchange = async {
        let stream = tokio::time::timeout(CONNECT, TcpStream::connect(target.address)).await;
        let stream = stream.context("no connection within 5 s")??;
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
