//! One connection: bytes in, requests to their service, until it ends, idles for too long or is asked to close, or to
//! come again.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Instant};

use http::{HeaderValue, Version, header};
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{net::TcpStream, sync::watch, time};
use tokio_util::sync::CancellationToken;

use super::{
    Node, Phase, Route,
    body::Active,
    clock::{ConnectionClock, Verdict},
    request,
    stream::TimedStream,
};

/// Most bytes of a request's head, and of what HTTP/1 reads ahead.
const HEAD_BYTES: usize = 64 << 10;
/// Most headers of a request.
const HEADERS: usize = 128;
/// Most requests at once on one HTTP/2 connection.
const STREAMS: u32 = 200;
/// How often a connection is looked at: what its time limits are exact to.
const LOOK: time::Duration = time::Duration::from_secs(5);
/// A ping that an HTTP/2 client does not answer in this time ends the connection.
const PING: time::Duration = time::Duration::from_secs(20);

/// How connections speak HTTP: 1.1, and 2 by prior knowledge.
pub(crate) fn protocol() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // The connection's clock covers it, and the time between requests too.
        .header_read_timeout(None)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_BYTES as u32)
        .max_send_buf_size(256 << 10);
    builder
}

/// Serves one connection of a service's port until it ends: a random number is drawn for it. `closing` is cancelled when
/// the port closes.
pub(crate) async fn serve(
    stream: TcpStream,
    draw: u64,
    route: Arc<Route>,
    node: Arc<Node>,
    closing: CancellationToken,
) {
    // Small answers must not wait for the client's acknowledgement of the last ones.
    let _ = stream.set_nodelay(true);
    let clock = Arc::new(ConnectionClock::new(Instant::now(), draw));
    let io = TokioIo::new(TimedStream::new(stream, clock.clone()));
    let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
        let is_http2 = request.version() == Version::HTTP_2;
        let (service, node, timed) = (route.load(), node.clone(), clock.clone());
        // Here, not where the answer begins: before that is polled, a client may be seen to have closed its side.
        let active =
            Active::begin(clock.clone(), service.as_ref().map(|service| service.stats.clone()), Instant::now());
        async move {
            let mut response = request::answer(service, &node.instances, active, request).await;
            let ends = || *node.phase.borrow() != Phase::Serving || timed.renews(Instant::now());
            if !is_http2 && ends() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = pin!(node.protocol.serve_connection(io, service));
    let mut phase = node.phase.subscribe();
    let started_in = *phase.borrow();
    let mut looks = time::interval_at(time::Instant::now() + LOOK, LOOK);
    let mut spread = route.spread.subscribe();
    let mut turn = None;
    let mut asked = false;
    loop {
        tokio::select! {
            // Errors are the client's: a reset, a broken head. There is nobody to tell.
            _ = connection.as_mut() => return,
            () = close_asked(&mut phase, started_in, &closing, &clock), if !asked => {
                asked = true;
                connection.as_mut().graceful_shutdown();
            }
            // Who has a turn keeps it.
            Ok(()) = spread.changed() => turn = turn.or(spread.borrow().and_then(|spread| spread.turn(draw))),
            () = until(turn), if turn.is_some() => {
                turn = None;
                clock.ask_to_renew();
                looks.reset_immediately();
            }
            _ = looks.tick() => match clock.verdict(Instant::now()) {
                Verdict::Keep => {}
                Verdict::Renew if !clock.speaks_http2() => {}
                Verdict::Renew | Verdict::Close => connection.as_mut().graceful_shutdown(),
                Verdict::Abort => return,
            },
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
