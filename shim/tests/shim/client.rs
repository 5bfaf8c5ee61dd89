//! A small HTTP client that lets a test see each connection.

use std::net::Ipv4Addr;

use bytes::Bytes;
use http::{HeaderMap, Request, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// A connection of HTTP/1.1 that is kept.
pub(crate) struct Connection(http1::SendRequest<Full<Bytes>>);

impl Connection {
    pub(crate) async fn open(port: u16) -> Result<Self, Failure> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, Failure> {
        self.0.ready().await?;
        answer(self.0.send_request(request).await?).await
    }

    pub(crate) async fn get(&mut self, path: &str) -> Result<Answer, Failure> {
        self.send(get_request(path, Version::HTTP_11)).await
    }
}

/// A connection of HTTP/2 without TLS that is kept.
pub(crate) struct Connection2(http2::SendRequest<Full<Bytes>>);

impl Connection2 {
    pub(crate) async fn open(port: u16) -> Result<Self, Failure> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// `None` when the server has asked to come again before the request left.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Option<Answer>, Failure> {
        match self.0.try_send_request(get_request(path, Version::HTTP_2)).await {
            Ok(response) => Ok(Some(answer(response).await?)),
            Err(error) if error.message().is_some() => Ok(None),
            Err(error) => Err(error.into_error().into()),
        }
    }
}

async fn answer(response: http::Response<hyper::body::Incoming>) -> Result<Answer, Failure> {
    let (head, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: String::from_utf8(body.into())? })
}

fn get_request(path: &str, version: Version) -> Request<Full<Bytes>> {
    let (uri, host) = match version {
        Version::HTTP_2 => (format!("http://test{path}"), None),
        _ => (path.to_owned(), Some("test")),
    };
    let request = Request::builder().version(version).uri(uri);
    let request = host.into_iter().fold(request, |request, host| request.header("host", host));
    request.body(Full::default()).expect("a request")
}

/// One GET on a connection of its own.
pub(crate) async fn try_get(port: u16, path: &str) -> Result<Answer, Failure> {
    Connection::open(port).await?.get(path).await
}

/// One GET that must be answered.
pub(crate) async fn get(port: u16, path: &str) -> Answer {
    try_get(port, path).await.unwrap_or_else(|error| panic!("GET {path} on {port}: {error}"))
}

/// One GET by HTTP/2 without TLS.
pub(crate) async fn get_http2(port: u16, path: &str) -> Answer {
    let mut connection = Connection2::open(port).await.expect("connected");
    connection.get(path).await.expect("answered").expect("taken")
}
