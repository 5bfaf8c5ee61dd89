//! What passes through: bodies both ways in little memory, trailers, `Expect`, and answers that have no body.

use std::{convert::Infallible, net::Ipv4Addr, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use podless_link::v1::Assignment;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    time::{interval, timeout},
};

use super::{exchange, read_until, rest};
use crate::{
    operator::{Guest, Operator, PROBE, SPLICE_P3, STREAM_P3},
    process::{Shim, free_port},
};

/// Through its own memory by WASI 0.2 and 0.3, and without touching it.
const ECHOES: [(&str, Guest); 3] = [("p2", PROBE), ("p3", STREAM_P3), ("splice", SPLICE_P3)];
/// Bytes that are sent in one piece.
const PIECE: usize = 64 << 10;

type Sent = UnsyncBoxBody<Bytes, Infallible>;

/// Sends one request on a connection of its own.
async fn send(port: u16, http2: bool, mut request: Request<Sent>) -> Response<Incoming> {
    let stream = TokioIo::new(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("connected"));
    if http2 {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.expect("HTTP/2");
        tokio::spawn(connection);
        sender.send_request(request).await.expect("answered")
    } else {
        let (mut sender, connection) = http1::handshake(stream).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        request.headers_mut().insert("host", HeaderValue::from_static("test"));
        sender.send_request(request).await.expect("answered")
    }
}

fn request(method: Method, path: &str, frames: impl Iterator<Item = Frame<Bytes>> + Send + 'static) -> Request<Sent> {
    let body = StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)));
    let request = Request::builder().method(method).uri(format!("http://test{path}"));
    request.body(body.boxed_unsync()).expect("a request")
}

/// A shim that serves these, and the port of each.
async fn serving(guests: &[(&str, Guest)]) -> (Operator, Shim, Vec<u16>) {
    let operator = Operator::start().await;
    let shim = Shim::start(&operator, &[]);
    let mut ports = vec![];
    for (uid, guest) in guests {
        let port = free_port();
        operator.serve(&Assignment { timeout_millis: 60_000, ..operator.assignment(*guest, uid, port) }).await;
        ports.push(port);
    }
    (operator, shim, ports)
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_both_ways_in_little_memory() {
    const PIECES: usize = 512;
    let (_operator, shim, ports) = serving(&ECHOES).await;
    for ((uid, _), port) in ECHOES.into_iter().zip(ports) {
        for http2 in [false, true] {
            let before = shim.resident().await;
            let piece = |n: usize| Bytes::from(vec![n as u8; PIECE]);
            let post = request(Method::POST, "/echo", (0..PIECES).map(move |n| Frame::data(piece(n))));
            let answer = send(port, http2, post).await;
            assert_eq!(answer.status(), 200);
            let mut body = answer.into_body().into_data_stream();
            let (mut received, mut most) = (0, before);
            let mut looks = interval(Duration::from_millis(50));
            loop {
                tokio::select! {
                    _ = looks.tick() => most = most.max(shim.resident().await),
                    data = body.next() => match data {
                        None => break,
                        Some(data) => for byte in data.expect("read") {
                            assert_eq!(byte, (received / PIECE) as u8, "at {received}");
                            received += 1;
                        },
                    },
                }
            }
            assert_eq!(received, PIECES * PIECE);
            let more = most.saturating_sub(before);
            eprintln!("{uid}, HTTP/2 {http2}: {} MiB through {} KiB", received >> 20, more >> 10);
            assert!(more < 12 << 20, "{uid} {http2}: {more} bytes more");
        }
    }
}

/// Who takes nothing is not run ahead of: what the shim holds is bounded, and what the kernel holds is.
#[tokio::test]
async fn a_component_does_not_run_ahead_of_its_client() {
    let (_operator, shim, ports) = serving(&ECHOES).await;
    for ((uid, _), port) in ECHOES.into_iter().zip(ports) {
        let before = shim.resident().await;
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("set");
        socket.set_send_buffer_size(4096).expect("set");
        let mut stream = socket.connect((Ipv4Addr::LOCALHOST, port).into()).await.expect("connected");
        let head = "POST /echo HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await.expect("written");
        let piece = [format!("{PIECE:x}\r\n").into_bytes(), vec![b'x'; PIECE], b"\r\n".to_vec()].concat();
        let mut pieces = 0;
        while timeout(Duration::from_secs(1), stream.write_all(&piece)).await.is_ok_and(|written| written.is_ok()) {
            pieces += 1;
            assert!(pieces * PIECE < 48 << 20, "{uid}: it takes all that there is");
        }
        let more = shim.resident().await.saturating_sub(before);
        eprintln!("{uid}: {} KiB were taken, {} KiB are in the shim", (pieces * PIECE) >> 10, more >> 10);
        assert!(more < 8 << 20, "{uid}: {more} bytes more");
    }
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let (_operator, _shim, ports) = serving(&ECHOES).await;
    let trailers = HeaderMap::from_iter([("x-sum".parse().expect("a name"), HeaderValue::from_static("42"))]);
    for ((uid, _), port) in ECHOES.into_iter().zip(&ports) {
        let frames = [Frame::data(Bytes::from_static(b"hello")), Frame::trailers(trailers.clone())];
        let answer = send(*port, true, request(Method::POST, "/echo", frames.into_iter())).await;
        let all = answer.into_body().collect().await.expect("read");
        assert_eq!(all.trailers().map(|trailers| &trailers["x-sum"]), Some(&HeaderValue::from_static("42")), "{uid}");
        assert_eq!(all.to_bytes(), "hello", "{uid}");
    }
    // By HTTP/1 who wants trailers says so, and who sends them announces them.
    let head = "POST /echo HTTP/1.1\r\nhost: test\r\nconnection: close\r\nte: trailers\r\ntrailer: x-sum\r\ntransfer-encoding: chunked";
    let answer = exchange(ports[1], format!("{head}\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 42\r\n\r\n").as_bytes()).await;
    assert!(answer.text.contains("hello") && answer.text.ends_with("0\r\nx-sum: 42\r\n\r\n"), "{}", answer.text);
}

#[tokio::test]
async fn who_asks_before_it_sends_a_body_is_told_to_when_the_component_wants_it() {
    let (_operator, _shim, ports) = serving(&ECHOES).await;
    let head = |path: &str, length: u64| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    for ((uid, _), port) in ECHOES.into_iter().zip(&ports) {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).await.expect("connected");
        stream.write_all(head("/echo", 5).as_bytes()).await.expect("written");
        let told = read_until(&mut stream, "\r\n\r\n").await;
        // Some begin to answer first; what they answer with needs the body.
        if !told.starts_with("HTTP/1.1 100 ") {
            assert!(told.starts_with("HTTP/1.1 200 ") && uid != "p2", "{uid}: {told}");
        }
        stream.write_all(b"hello").await.expect("written");
        let answer = rest(&mut stream).await;
        assert!(answer.contains("hello"), "{uid}: {told}{answer}");
    }
    // Who is refused, or does not want it, is told at once, and never to go on.
    for (port, path, length, status) in
        [(ports[0], "/echo", (64 << 20) + 1, 413), (ports[0], "/", 5, 200), (ports[1], "/status?404", 5, 404)]
    {
        let answer = exchange(port, head(path, length).as_bytes()).await;
        assert_eq!(answer.statuses(), [status], "{path}: {}", answer.text);
    }
}

#[tokio::test]
async fn what_has_no_body_is_sent_without_and_its_component_does_not_notice() {
    let (_operator, shim, ports) = serving(&ECHOES[..2]).await;
    let asks = ["HEAD /big?bytes=2000000", "GET /status?code=204", "GET /status?code=304", "GET /say?after"];
    let bytes: String = asks.map(|ask| format!("{ask} HTTP/1.1\r\nhost: test\r\n\r\n")).concat();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, ports[0])).await.expect("connected");
    stream.write_all(bytes.as_bytes()).await.expect("written");
    let text = read_until(&mut stream, "after\r\n0\r\n\r\n").await;
    let answers = super::Exchange { text };
    assert_eq!(answers.statuses(), [200, 204, 304, 200]);
    assert!(!answers.text.contains("xx") && !answers.text.contains("a body"), "{}", answers.text);
    assert_eq!(answers.headers("content-length"), [""; 0]);
    for (method, path, status) in
        [(Method::HEAD, "/big?bytes=2000000", 200), (Method::GET, "/status?code=204", 204), (Method::HEAD, "/", 200)]
    {
        let answer = send(ports[0], true, request(method, path, std::iter::empty())).await;
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(answer.into_body().collect().await.expect("a whole answer").to_bytes(), "", "{path}");
    }
    let answer = send(ports[1], true, request(Method::GET, "/status?204", std::iter::empty())).await;
    assert_eq!(answer.into_body().collect().await.expect("a whole answer").to_bytes(), "");
    // The first word of the shim about it is of the one that failed in truth.
    assert_eq!(crate::client::get(ports[0], "/trap").await.status, 500);
    let word = shim.printed(|line| (line["stream"] == "shim").then(|| line["message"].to_string())).await;
    assert!(word.contains("500"), "{word}");
}

/// A component answers; it neither promises an answer nor makes its connection something else.
#[tokio::test]
async fn an_answer_is_an_answer() {
    let (_operator, _shim, ports) = serving(&ECHOES[..2]).await;
    for (port, query) in [(ports[0], "code="), (ports[1], "")] {
        for status in [100, 101, 103] {
            let ask = format!("GET /status?{query}{status} HTTP/1.1\r\nhost: test\r\n");
            let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n";
            for more in ["", upgrade] {
                let after = "GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
                let answer = exchange(port, format!("{ask}{more}\r\n{after}").as_bytes()).await;
                assert_eq!(answer.statuses(), [502, 200], "{status} {more}: {}", answer.text);
            }
        }
    }
}

/// Nobody is upgraded, each answer has one date, and how a message travels is not the component's to say.
#[tokio::test]
async fn what_is_said_of_the_connection_is_the_shims() {
    let (_operator, _shim, ports) = serving(&ECHOES[..2]).await;
    for port in ports {
        for upgrade in ["websocket", "h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA"] {
            let ask =
                format!("GET /target HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: {upgrade}\r\n\r\n");
            let after = "GET /target HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
            let answer = exchange(port, format!("{ask}{after}").as_bytes()).await;
            assert_eq!((answer.statuses(), answer.headers("upgrade").len()), (vec![200, 200], 0), "{}", answer.text);
            assert_eq!((answer.headers("date").len(), answer.headers("connection")), (2, vec!["close"]));
        }
    }
    let (_operator, _shim, ports) = serving(&[("p3", STREAM_P3)]).await;
    let refused = crate::client::get(ports[0], "/forbidden").await.body;
    assert_eq!(refused, "connection\nkeep-alive\nproxy-connection\ntransfer-encoding\nupgrade\n");
}
