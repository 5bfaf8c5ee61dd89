//! One connection: bytes in, requests to their service, until it ends, idles for too long or is asked to close, or to
//! come again. While an HTTP/1 connection is idle nothing is held of its protocol but the socket.

use std::{
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::FuturesUnordered};
use http::{HeaderValue, Request, Version, header};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpStream, sync::watch, time};
use tokio_util::sync::CancellationToken;

use super::{
    Node, Phase, Route,
    body::Active,
    clock::{ConnectionClock, Verdict},
    request,
    spread::Spread,
    stream::TimedStream,
};

/// Most bytes of a request's head, and of what HTTP/1 reads ahead.
const HEAD_BYTES: usize = 64 << 10;
/// Most headers of a request.
const HEADERS: usize = 128;
/// Most requests at once on one HTTP/2 connection.
const STREAMS: u32 = 100;
/// Most bytes of one request's body by HTTP/2 that its component has not read yet, and of all on a connection.
const AHEAD: u32 = 256 << 10;
const AHEAD_OF_ALL: u32 = 512 << 10;
/// Most bytes of one answer by HTTP/2 that wait for the connection.
const BEHIND: usize = 64 << 10;
/// A ping that an HTTP/2 client does not answer in this time ends the connection.
const PING: Duration = Duration::from_secs(20);

/// How connections speak HTTP: 1.1, and 2 by prior knowledge.
pub(crate) struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

impl Protocols {
    /// With our limits.
    pub(crate) fn new() -> Self {
        let (mut http1, mut http2) = (http1::Builder::new(), http2::Builder::new(TokioExecutor::new()));
        http1
            .timer(TokioTimer::new())
            // The connection's clock covers it, and the time between requests too.
            .header_read_timeout(None)
            .max_buf_size(HEAD_BYTES)
            .max_headers(HEADERS);
        http2
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEAD_BYTES as u32)
            .initial_stream_window_size(AHEAD)
            .initial_connection_window_size(AHEAD_OF_ALL)
            .max_send_buf_size(BEHIND);
        Self { http1, http2 }
    }
}

/// Serves one connection of a port until it ends: a random number is drawn for it. `closing` is cancelled when the port
/// closes.
pub(crate) async fn serve(
    stream: TcpStream,
    draw: u64,
    route: Arc<Route>,
    node: Arc<Node>,
    closing: CancellationToken,
) {
    let clock = Arc::new(ConnectionClock::new(Instant::now(), draw));
    let answer = |request: Request<Incoming>| {
        let is_http2 = request.version() == Version::HTTP_2;
        let (service, node, timed) = (route.resolve(&request), node.clone(), clock.clone());
        let (stats, time) = match &service {
            Ok(service) => (Some(service.stats.clone()), service.timeout),
            Err(_) => (None, Duration::ZERO),
        };
        // Here, not where the answer begins: before that is polled, a client may be seen to have closed its side.
        let active = Active::begin(clock.clone(), stats, Instant::now(), time);
        async move {
            let mut response = request::answer(service, active, request).await;
            let ends = || *node.phase.borrow() != Phase::Serving || timed.renews(Instant::now());
            if !is_http2 && ends() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    };
    let mut stream = TimedStream::new(stream, clock.clone());
    let mut outside = Outside::new(draw, &route, &node, closing, &clock);
    // Errors are the client's: a reset, a broken head. There is nobody to tell.
    loop {
        let is_http2 = match outside.beside(pin!(stream.spoken())).await {
            Ok(Ok(is_http2)) => is_http2,
            Err(Call::Rest) => continue,
            // Nothing was asked that could be lost.
            Ok(Err(_)) | Err(Call::Ask | Call::Drop) => return,
        };
        let (io, service) = (TokioIo::new(stream), service_fn(&answer));
        if is_http2 {
            let mut connection = Box::pin(node.protocols.http2.serve_connection(io, service));
            loop {
                match outside.beside(connection.as_mut()).await {
                    Ok(_) | Err(Call::Drop) => return,
                    Err(Call::Ask) => connection.as_mut().graceful_shutdown(),
                    Err(Call::Rest) => {}
                }
            }
        }
        let mut connection = Box::new(node.protocols.http1.serve_connection(io, service));
        loop {
            match outside.beside(Pin::new(&mut *connection)).await {
                Ok(_) | Err(Call::Drop) => return,
                Err(Call::Ask) => Pin::new(&mut *connection).graceful_shutdown(),
                Err(Call::Rest) => break,
            }
        }
        let parts = connection.into_parts();
        stream = parts.io.into_inner();
        stream.put_back(parts.read_buf);
    }
}

/// What a connection is called to do.
enum Call {
    /// To end when that loses nothing.
    Ask,
    /// To end now.
    Drop,
    /// It is idle, and everything was taken: to need nothing.
    Rest,
}

/// What calls one connection from outside: its clock, its port, the shim.
struct Outside<'a> {
    clock: &'a ConnectionClock,
    draw: u64,
    phase: watch::Receiver<Phase>,
    started_in: Phase,
    closing: CancellationToken,
    spread: watch::Receiver<Option<Spread>>,
    /// When it is to come again.
    turn: Option<Instant>,
    /// It has been asked to close.
    asked: bool,
}

impl<'a> Outside<'a> {
    fn new(draw: u64, route: &Route, node: &Node, closing: CancellationToken, clock: &'a ConnectionClock) -> Self {
        let phase = node.phase.subscribe();
        let started_in = *phase.borrow();
        Self { clock, draw, phase, started_in, closing, spread: route.spreads(), turn: None, asked: false }
    }

    /// Does this until it is done or the connection is called.
    async fn beside<T>(&mut self, work: Pin<&mut impl Future<Output = T>>) -> Result<T, Call> {
        // In a set, if alone: there it is polled when it was woken itself, not whenever the connection is. Its locks are
        // those of all connections (docs/adr/0008).
        let mut outside = FuturesUnordered::from_iter([self.called()]);
        tokio::select! {
            biased;
            done = work => Ok(done),
            Some(call) = outside.next() => Err(call),
        }
    }

    async fn called(&mut self) -> Call {
        let Self { clock, draw, phase, started_in, closing, spread, turn, asked } = self;
        loop {
            let look = clock.next_look(Instant::now());
            tokio::select! {
                () = close_asked(phase, *started_in, closing, clock), if !*asked => {
                    *asked = true;
                    return Call::Ask;
                }
                // Who has a turn keeps it.
                Ok(()) = spread.changed() => {
                    let new = spread.borrow_and_update().and_then(|spread| spread.turn(*draw));
                    *turn = turn.or(new);
                    continue;
                }
                () = until(*turn), if turn.is_some() => {
                    *turn = None;
                    clock.ask_to_renew();
                }
                () = time::sleep_until(look.into()) => {}
            }
            match clock.verdict(Instant::now()) {
                Verdict::Keep => {}
                Verdict::Renew if !clock.speaks_http2() => {}
                Verdict::Renew | Verdict::Close => return Call::Ask,
                Verdict::Abort => return Call::Drop,
                // Who is asked to close ends by itself.
                Verdict::Rest if *asked => {}
                Verdict::Rest => return Call::Rest,
            }
        }
    }
}

async fn until(turn: Option<Instant>) {
    match turn {
        Some(turn) => time::sleep_until(turn.into()).await,
        None => std::future::pending().await,
    }
}

/// Returns when the connection is to close: its port closes, or the shim does. While the shim lingers, HTTP/2 clients
/// that are connected are told (GOAWAY) to come again elsewhere; HTTP/1 clients learn it from their next answer.
async fn close_asked(
    phase: &mut watch::Receiver<Phase>,
    started_in: Phase,
    closing: &CancellationToken,
    clock: &ConnectionClock,
) {
    let shim = async {
        loop {
            let now = *phase.borrow_and_update();
            let goaway = now == Phase::Lingering && started_in == Phase::Serving && clock.speaks_http2();
            if now == Phase::Closing || goaway || phase.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = closing.cancelled() => {}
        () = shim => {}
    }
}
