//! Requests that somebody between client and shim may read as fewer or more than they are: each is refused, or ends the
//! connection, or is read as the RFC says. What hides in one is never answered as a request of its own.

use super::{Exchange, exchange};
use crate::{
    client::get,
    operator::{Operator, PROBE, STREAM_P3},
    process::{Shim, free_port},
};

/// What must never be answered.
const HIDDEN: &str = "GET /say?hidden HTTP/1.1\r\nhost: test\r\n\r\n";
/// What comes after each case: answered where the connection goes on.
const AFTER: &str = "GET /say?after HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";

/// A POST with these lines in its head, and this body.
fn post(lines: &str, body: &str) -> String {
    format!("POST /echo HTTP/1.1\r\nhost: test\r\n{lines}\r\n\r\n{body}")
}

/// A chunked POST.
fn chunked(body: &str) -> String {
    post("transfer-encoding: chunked", body)
}

fn get_with(lines: &str) -> String {
    format!("GET / HTTP/1.1\r\n{lines}\r\n\r\n")
}

/// The cases: what, how it is sent, and the statuses that come before the connection closes. Two of them: the connection
/// goes on, and what comes after is answered.
fn cases() -> Vec<(&'static str, String, &'static [u16])> {
    let length = HIDDEN.len();
    let (longer, chunk) = (format!("content-length: {}", length + 5), format!("{length:x}\r\n{HIDDEN}\r\n0\r\n\r\n"));
    let both = format!("{longer}\r\ntransfer-encoding: chunked");
    let turned = format!("transfer-encoding: chunked\r\n{longer}");
    let ends = format!("0\r\n\r\n{HIDDEN}");
    let big = "x".repeat(70 << 10);
    vec![
        ("length, then coding: chunks count, nothing follows", post(&both, &ends), &[200]),
        ("coding, then length: the same", post(&turned, &ends), &[200]),
        ("coding twice", post("transfer-encoding: chunked\r\ntransfer-encoding: chunked", &ends), &[501]),
        ("a coding before it", post("transfer-encoding: gzip, chunked", &ends), &[501]),
        ("a coding in a line before it", post("transfer-encoding: gzip\r\ntransfer-encoding: chunked", &ends), &[501]),
        ("a coding after it", post("transfer-encoding: chunked, gzip", &ends), &[400]),
        ("no coding", post("transfer-encoding: identity", &ends), &[400]),
        ("almost the coding", post("transfer-encoding: xchunked", &ends), &[400]),
        ("the coding in quotes", post("transfer-encoding: \"chunked\"", &ends), &[400]),
        ("a control character before it", post("transfer-encoding: \u{b}chunked", &ends), &[400]),
        ("a space before the colon", post("transfer-encoding : chunked", &ends), &[400]),
        ("a tab before the colon", post("content-length\t: 5", &ends), &[400]),
        ("a folded line", post("transfer-encoding:\r\n chunked", &ends), &[400]),
        ("a line that begins with a space", post("x: a\r\n content-length: 5", &ends), &[400]),
        ("lengths that differ", post("content-length: 5\r\ncontent-length: 6", "hello"), &[400]),
        ("lengths that are the same", post("content-length: 5\r\ncontent-length: 5", "hello"), &[200, 200]),
        ("a list of lengths", post("content-length: 5, 5", "hello"), &[400]),
        ("a length with a sign", post("content-length: +5", "hello"), &[400]),
        ("a length below zero", post("content-length: -5", "hello"), &[400]),
        ("a length in hexadecimal", post("content-length: 0x5", "hello"), &[400]),
        ("no number", post("content-length: ", "hello"), &[400]),
        ("a length beyond 64 bits", post("content-length: 18446744073709551621", "hello"), &[400]),
        ("the longest length", post("content-length: 9223372036854775807", "hello"), &[413]),
        (
            "a body of a GET",
            format!("GET / HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n{HIDDEN}"),
            &[200, 200],
        ),
        ("a chunk", chunked(&chunk), &[200, 200]),
        ("NUL in a value", get_with("host: test\r\nx: a\0b"), &[400]),
        ("NUL in a name", get_with("host: test\r\nx\0: a"), &[400]),
        ("a lone CR in a value", get_with("host: test\r\nx: a\rcontent-length: 50"), &[400]),
        ("LF alone, which RFC 9112 allows", "GET / HTTP/1.1\nhost: test\n\n".to_owned(), &[200, 200]),
        ("a line without a colon", get_with("host: test\r\nnonsense"), &[400]),
        ("a name that is none", get_with("host: test\r\n(x): a"), &[400]),
        ("no host", get_with("x: a"), &[400]),
        ("two hosts", get_with("host: test\r\nhost: other"), &[400]),
        ("the same host twice", get_with("host: test\r\nhost: test"), &[400]),
        ("somebody at a host", get_with("host: you@test"), &[400]),
        ("a host with a path", get_with("host: test/a"), &[400]),
        ("two spaces before the target", "GET  / HTTP/1.1\r\nhost: test\r\n\r\n".to_owned(), &[400]),
        ("two spaces after the target", "GET /  HTTP/1.1\r\nhost: test\r\n\r\n".to_owned(), &[400]),
        ("a space in the target", "GET /a b HTTP/1.1\r\nhost: test\r\n\r\n".to_owned(), &[400]),
        ("no target", "GET HTTP/1.1\r\nhost: test\r\n\r\n".to_owned(), &[400]),
        ("HTTP/0.9", "GET /\r\n\r\n".to_owned(), &[400]),
        ("HTTP/1.2", "GET / HTTP/1.2\r\nhost: test\r\n\r\n".to_owned(), &[400]),
        ("HTTP/2.0 in words", "GET / HTTP/2.0\r\nhost: test\r\n\r\n".to_owned(), &[400]),
        ("HTTP/1.0", "GET / HTTP/1.0\r\n\r\n".to_owned(), &[200]),
        (
            "HTTP/1.0 kept: what has no length ends with the connection",
            "GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n".to_owned(),
            &[200],
        ),
        (
            "HTTP/1.0 with a coding",
            "POST /echo HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            &[400],
        ),
        ("a tunnel", "CONNECT test:80 HTTP/1.1\r\nhost: test\r\n\r\n".to_owned(), &[405]),
        ("a target of 70 KB", format!("GET /{big} HTTP/1.1\r\nhost: test\r\n\r\n"), &[431]),
        ("a header of 70 KB", get_with(&format!("host: test\r\nx: {big}")), &[431]),
        ("200 headers", get_with(&format!("host: test\r\n{}x: y", "x: y\r\n".repeat(199))), &[431]),
    ]
}

/// Chunks that are none: what was read until then may be answered, and then the connection is over.
fn broken_chunks() -> Vec<(&'static str, String)> {
    let hidden = format!("0\r\n\r\n{HIDDEN}");
    vec![
        ("a size beyond 64 bits", chunked(&format!("10000000000000005\r\nhello\r\n{hidden}"))),
        ("a size with a prefix", chunked(&format!("0x5\r\nhello\r\n{hidden}"))),
        ("a size with a sign", chunked(&format!("+5\r\nhello\r\n{hidden}"))),
        ("a size below zero", chunked(&format!("-5\r\nhello\r\n{hidden}"))),
        ("no size", chunked(&format!("\r\nhello\r\n{hidden}"))),
        ("a size in two parts", chunked(&format!("5 5\r\nhello\r\n{hidden}"))),
        ("LF alone after a size", chunked(&format!("5\nhello\r\n{hidden}"))),
        ("LF alone in an extension", chunked(&format!("5;a\nhello\r\n{hidden}"))),
        ("no end of a chunk", chunked(&format!("5\r\nhello{hidden}"))),
        ("more than its size", chunked(&format!("5\r\nhello!\r\n{hidden}"))),
        ("an extension of 20 KB", chunked(&format!("5;{}\r\nhello\r\n{hidden}", "x".repeat(20 << 10)))),
        ("trailers of 80 KB", chunked(&format!("5\r\nhello\r\n0\r\nx: {}\r\n\r\n{HIDDEN}", "x".repeat(80 << 10)))),
        ("a trailer that is none", chunked(&format!("5\r\nhello\r\n0\r\nx y\r\n\r\n{HIDDEN}"))),
    ]
}

/// How often the component said this.
fn said(exchange: &Exchange, word: &str) -> usize {
    exchange.text.lines().filter(|line| *line == word).count()
}

#[tokio::test]
async fn what_hides_in_a_request_is_never_answered() {
    let (operator, port) = (Operator::start().await, free_port());
    let _shim = Shim::start(&operator, &[]);
    operator.serve(&operator.assignment(PROBE, "a", port)).await;
    let mut wrong = vec![];
    for (what, bytes, statuses) in cases() {
        let exchange = exchange(port, format!("{bytes}{AFTER}").as_bytes()).await;
        let after = usize::from(statuses.len() > 1);
        if exchange.statuses() != statuses || (said(&exchange, "hidden"), said(&exchange, "after")) != (0, after) {
            wrong.push(format!("{what}: {statuses:?} is due, {:?} came:\n{}", exchange.statuses(), exchange.text));
        }
    }
    for (what, bytes) in broken_chunks() {
        let exchange = exchange(port, format!("{bytes}{AFTER}").as_bytes()).await;
        if exchange.statuses().len() > 1 || (said(&exchange, "hidden"), said(&exchange, "after")) != (0, 0) {
            wrong.push(format!("{what}: something after it was answered:\n{}", exchange.text));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert_eq!(get(port, "/").await.status, 200);
}

/// Of an absolute target and `Host` the target counts; a component sees the same by each version of WASI and HTTP.
#[tokio::test]
async fn a_component_sees_the_one_host_that_counts() {
    let operator = Operator::start().await;
    let _shim = Shim::start(&operator, &[]);
    for (guest, uid) in [(PROBE, "p2"), (STREAM_P3, "p3")] {
        let port = free_port();
        operator.serve(&operator.assignment(guest, uid, port)).await;
        let cases = [
            ("GET /target HTTP/1.1\r\nhost: test:80", "test:80 /target".to_owned()),
            ("GET http://other/target HTTP/1.1\r\nhost: test", "other /target".to_owned()),
            ("GET /target HTTP/1.0", format!("service-{uid}.tests /target")),
        ];
        for (head, seen) in cases {
            let answer = exchange(port, format!("{head}\r\nconnection: close\r\n\r\n").as_bytes()).await;
            assert!(answer.text.contains(&format!("{seen}\n")), "{uid} {head}: {}", answer.text);
        }
        assert_eq!(crate::client::get_http2(port, "/target").await.body, "test /target\n", "{uid}");
    }
}
