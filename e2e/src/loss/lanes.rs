//! The lanes: one request in, its outcome out, on a new connection, a kept one or an HTTP/2 stream. IO.
//!
//! A server may close a kept connection at any moment, and then a request may already be on its way. RFC 9110 (9.2.2)
//! lets a client send it again when it never left, or when it is idempotent; RFC 9113 (8.7) when the server says that it
//! has not touched the stream. This client does so once, and only on connections that have served another request
//! before: whatever happens to a fresh connection is a loss, and so is a POST that was sent.

use std::{
    collections::HashMap,
    error::Error as _,
    io,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header::HOST};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, time::timeout};

use super::{Kind, Lane, Plan, mix::Ask};
use crate::Target;

/// What became of a request.
pub(super) struct Outcome {
    pub(super) retried: bool,
    pub(super) result: Result<(), (Kind, String)>,
}

/// All connections of a load.
pub(super) struct Lanes {
    address: SocketAddr,
    host: String,
    kept: usize,
    per_connection: usize,
    http1: Mutex<HashMap<usize, Kept<http1::SendRequest<Full<Bytes>>>>>,
    http2: Mutex<HashMap<usize, Kept<http2::SendRequest<Full<Bytes>>>>>,
}

/// A connection, and how many requests it has served.
#[derive(Clone)]
struct Kept<S> {
    sender: S,
    served: usize,
}

/// An exchange that broke off, and for whom it may be sent again.
struct Broken {
    kind: Kind,
    detail: String,
    retry: Retry,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Retry {
    Never,
    Idempotent,
    Any,
}

type Answer = (StatusCode, Bytes);

impl Lanes {
    pub(super) fn new(target: Target, plan: &Plan) -> Self {
        Self {
            address: target.address,
            host: target.host,
            kept: plan.kept,
            per_connection: plan.per_connection,
            http1: Mutex::default(),
            http2: Mutex::default(),
        }
    }

    /// Sends a request, and once more when HTTP allows it; both together may take as long as `patience`.
    pub(super) async fn exchange(&self, ask: &Ask, patience: Duration) -> Outcome {
        if let Ok(outcome) = timeout(patience, self.attempts(ask)).await {
            return outcome;
        }
        // A kept connection that leads nowhere would take all that follow with it.
        if ask.lane == Lane::Http2 {
            take(&self.http2, self.slot(ask));
        }
        Outcome { retried: false, result: Err((Kind::Timeout, format!("nothing within {patience:?}"))) }
    }

    async fn attempts(&self, ask: &Ask) -> Outcome {
        let first = self.once(ask, true).await;
        let (retried, last) = match first {
            Err(Broken { retry, .. })
                if retry == Retry::Any || (retry == Retry::Idempotent && ask.method == Method::GET) =>
            {
                (true, self.once(ask, false).await)
            }
            other => (false, other),
        };
        let result = match last {
            Ok((status, body)) => ask.judge(status, &body),
            Err(broken) => Err((broken.kind, broken.detail)),
        };
        Outcome { retried, result }
    }

    async fn once(&self, ask: &Ask, may_reuse: bool) -> Result<Answer, Broken> {
        let slot = self.slot(ask);
        match ask.lane {
            Lane::New => Ok(self.on_http1(ask, self.connect_http1().await?).await?.0),
            Lane::KeepAlive => {
                let mut kept = take(&self.http1, slot).filter(|kept| may_reuse && kept.served < self.per_connection);
                if let Some(one) = &mut kept
                    && one.sender.ready().await.is_err()
                {
                    kept = None; // closed while it was idle, before anything was sent
                }
                let kept = match kept {
                    Some(kept) => kept,
                    None => self.connect_http1().await?,
                };
                let (answer, kept) = self.on_http1(ask, kept).await?;
                put(&self.http1, slot, kept);
                Ok(answer)
            }
            Lane::Http2 => {
                let kept = take(&self.http2, slot).filter(|kept| may_reuse && kept.served < self.per_connection);
                let mut kept = match kept.filter(|kept| !kept.sender.is_closed()) {
                    Some(kept) => kept,
                    None => self.connect_http2().await?,
                };
                let reused = kept.served > 0;
                kept.served += 1;
                put(&self.http2, slot, kept.clone());
                // HTTP/2 has the host in the URI.
                let request = self.request(ask, &format!("http://{}{}", self.host, ask.path))?;
                let answer = kept.sender.try_send_request(request).await;
                read(answer.map_err(|error| broken_http2(error, reused))?).await
            }
        }
    }

    /// Which of a lane's connections a request uses.
    fn slot(&self, ask: &Ask) -> usize {
        ask.round % self.kept
    }

    async fn on_http1(
        &self,
        ask: &Ask,
        mut kept: Kept<http1::SendRequest<Full<Bytes>>>,
    ) -> Result<(Answer, Kept<http1::SendRequest<Full<Bytes>>>), Broken> {
        let reused = kept.served > 0;
        let mut request = self.request(ask, &ask.path)?;
        if let Ok(host) = self.host.parse() {
            request.headers_mut().insert(HOST, host);
        }
        let answer = kept.sender.try_send_request(request).await;
        let answer = read(answer.map_err(|error| broken_http1(error, reused))?).await?;
        kept.served += 1;
        Ok((answer, kept))
    }

    fn request(&self, ask: &Ask, uri: &str) -> Result<Request<Full<Bytes>>, Broken> {
        let request = Request::builder().method(ask.method.clone()).uri(uri).body(Full::new(ask.body.clone()));
        request.map_err(|error| Broken { kind: Kind::Protocol, detail: error.to_string(), retry: Retry::Never })
    }

    async fn connect(&self) -> Result<TokioIo<TcpStream>, Broken> {
        let stream = TcpStream::connect(self.address).await.map_err(no_connection)?;
        stream.set_nodelay(true).map_err(no_connection)?;
        Ok(TokioIo::new(stream))
    }

    async fn connect_http1(&self) -> Result<Kept<http1::SendRequest<Full<Bytes>>>, Broken> {
        let (sender, connection) = http1::handshake(self.connect().await?).await.map_err(no_connection)?;
        tokio::spawn(connection);
        Ok(Kept { sender, served: 0 })
    }

    async fn connect_http2(&self) -> Result<Kept<http2::SendRequest<Full<Bytes>>>, Broken> {
        let io = self.connect().await?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(no_connection)?;
        tokio::spawn(connection);
        Ok(Kept { sender, served: 0 })
    }
}

fn take<S>(kept: &Mutex<HashMap<usize, S>>, slot: usize) -> Option<S> {
    kept.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot)
}

fn put<S>(kept: &Mutex<HashMap<usize, S>>, slot: usize, one: S) {
    kept.lock().unwrap_or_else(PoisonError::into_inner).insert(slot, one);
}

async fn read(answer: http::Response<hyper::body::Incoming>) -> Result<Answer, Broken> {
    let (head, body) = answer.into_parts();
    match body.collect().await {
        Ok(body) => Ok((head.status, body.to_bytes())),
        Err(error) => Err(broken(&error, Retry::Never)),
    }
}

fn no_connection(error: impl std::error::Error) -> Broken {
    Broken { kind: Kind::Connect, detail: error.to_string(), retry: Retry::Never }
}

/// HTTP/1 does not say whether a request was looked at when its connection ends.
fn broken_http1(sending: TrySendError<Request<Full<Bytes>>>, reused: bool) -> Broken {
    let error = sending.error();
    let closed = error.is_incomplete_message() || error.is_canceled() || error.is_closed() || is_reset(error);
    let retry = match reused {
        true if sending.message().is_some() => Retry::Any,
        true if closed => Retry::Idempotent,
        _ => Retry::Never,
    };
    broken(error, retry)
}

/// HTTP/2 says which streams were not touched: by refusing them, or by a last stream that is before them.
fn broken_http2(sending: TrySendError<Request<Full<Bytes>>>, reused: bool) -> Broken {
    let error = sending.error();
    let untouched = error.source().and_then(|source| source.downcast_ref::<h2::Error>()).is_some_and(|error| {
        let reason = error.reason();
        error.is_remote()
            && ((error.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM))
                || (error.is_go_away() && reason == Some(h2::Reason::NO_ERROR)))
    });
    let retry = if reused && (sending.message().is_some() || untouched) { Retry::Any } else { Retry::Never };
    broken(error, retry)
}

fn is_reset(error: &hyper::Error) -> bool {
    error.source().and_then(|source| source.downcast_ref::<io::Error>()).is_some_and(|error| {
        matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof
        )
    })
}

fn broken(error: &hyper::Error, retry: Retry) -> Broken {
    let kind = if error.is_parse() { Kind::Protocol } else { Kind::Reset };
    let mut detail = error.to_string();
    if let Some(source) = error.source() {
        detail = format!("{detail}: {source}");
    }
    Broken { kind, detail, retry }
}
