//! Floods of frames, and heads that grow when they are read: each ends its connection or is bounded, what it began is
//! ended, and who asks beside it is answered as before.

use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use podless_link::v1::Assignment;

use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, HEADERS, LAST_REMEMBERED, PING,
    PROTOCOL_ERROR, RESET, Reader, SETTINGS, WINDOW_UPDATE, frame, get_head, literal, open, post_head, remembered,
};
use crate::{
    operator::{HELLO, Operator, PROBE},
    process::{Shim, free_port},
    storm::neighbour::Neighbour,
};

const WINDOW: u32 = 65_535;
/// Frames of a flood.
const FRAMES: u32 = 100_000;
/// Most memory that a flood may leave behind, or take while it goes on.
const MEMORY: u64 = 24 << 20;

/// Sends frames until all are sent or the connection takes no more; why the shim ended it, and after how many.
async fn flood(port: u16, begin: Vec<u8>, frames: impl Fn(u32) -> Vec<u8>) -> (Option<u32>, u32) {
    let (mut reader, mut writer) = open(port, WINDOW).await;
    let reason = tokio::spawn(async move { reader.reason().await });
    let mut sent = 0;
    let mut bytes = begin;
    while sent < FRAMES && !reason.is_finished() {
        for _ in 0..100 {
            bytes.extend(frames(sent));
            sent += 1;
        }
        if !writer.send(&bytes).await {
            break;
        }
        bytes.clear();
    }
    (reason.await.expect("read"), sent)
}

fn odd(number: u32) -> u32 {
    number * 2 + 1
}

/// Streams that are opened and reset: while they come together they are never begun.
async fn resets(port: u16) -> (Option<u32>, u32) {
    let both = |number| {
        let opened = frame(HEADERS, END_HEADERS | END_STREAM, odd(number), &get_head("/slow?ms=9000"));
        [opened, frame(RESET, 0, odd(number), &8u32.to_be_bytes())].concat()
    };
    flood(port, vec![], both).await
}

/// A head that goes on and on.
async fn continuations(port: u16) -> (Option<u32>, u32) {
    let begin = frame(HEADERS, END_STREAM, 1, &get_head("/"));
    flood(port, begin, |number| frame(CONTINUATION, 0, 1, &literal(&format!("x-{number}"), "y"))).await
}

/// The same without a byte in any frame.
async fn empty_continuations(port: u16) -> (Option<u32>, u32) {
    flood(port, frame(HEADERS, END_STREAM, 1, &get_head("/")), |_| frame(CONTINUATION, 0, 1, &[])).await
}

async fn empty_data(port: u16) -> (Option<u32>, u32) {
    flood(port, frame(HEADERS, END_HEADERS, 1, &post_head("/echo")), |_| frame(DATA, 0, 1, &[])).await
}

/// A byte in each frame, for a component that does not read.
async fn small_data(port: u16) -> (Option<u32>, u32) {
    flood(port, frame(HEADERS, END_HEADERS, 1, &post_head("/slow?ms=9000")), |_| frame(DATA, 0, 1, b"x")).await
}

/// Answers that nobody reads: the shim reads no more when it cannot write, so what is sent is no longer taken.
async fn unread(port: u16, frames: Vec<u8>) -> (Option<u32>, u32) {
    let (reader, mut writer) = open(port, WINDOW).await;
    let batch = frames.repeat(1000);
    let mut sent = 0;
    while sent < 10 * FRAMES && writer.send(&batch).await {
        sent += 1000;
    }
    drop(reader);
    (None, sent)
}

async fn pings(port: u16) -> (Option<u32>, u32) {
    unread(port, frame(PING, 0, 0, &[7; 8])).await
}

async fn settings(port: u16) -> (Option<u32>, u32) {
    unread(port, frame(SETTINGS, 0, 0, &[])).await
}

/// Sends this after the beginning of a connection; why the shim ended it or its stream.
async fn once(port: u16, bytes: Vec<u8>) -> (Option<u32>, u32) {
    let (mut reader, mut writer) = open(port, WINDOW).await;
    writer.send(&bytes).await;
    (reader.reason().await, 1)
}

/// More than a window can be.
async fn wide_window(port: u16) -> (Option<u32>, u32) {
    once(port, frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffffu32.to_be_bytes()).repeat(2)).await
}

async fn wide_window_of_a_stream(port: u16) -> (Option<u32>, u32) {
    let begin = frame(HEADERS, END_HEADERS, 1, &post_head("/echo"));
    once(port, [begin, frame(WINDOW_UPDATE, 0, 1, &0x7fff_ffffu32.to_be_bytes()).repeat(2)].concat()).await
}

/// A window that grows by nothing.
async fn empty_window(port: u16) -> (Option<u32>, u32) {
    once(port, frame(WINDOW_UPDATE, 0, 0, &[0; 4])).await
}

/// Four kilobytes that are remembered, and then named by a byte each: 64 MB of headers in 16 KB.
async fn hpack_bomb(port: u16) -> (Option<u32>, u32) {
    let bomb = [get_head("/"), remembered("x", &"x".repeat(4000)), vec![LAST_REMEMBERED; 12_000]].concat();
    once(port, frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb)).await
}

async fn with_header(port: u16, name: &str, value: &str) -> (Option<u32>, u32) {
    let head = [get_head("/"), literal(name, value)].concat();
    once(port, frame(HEADERS, END_HEADERS | END_STREAM, 1, &head)).await
}

/// More data than was announced.
async fn long_body(port: u16) -> (Option<u32>, u32) {
    let head = [post_head("/echo"), literal("content-length", "3")].concat();
    once(port, [frame(HEADERS, END_HEADERS, 1, &head), frame(DATA, END_STREAM, 1, b"hello")].concat()).await
}

/// `CONNECT` with `:protocol`, which was not offered.
async fn extended_connect(port: u16) -> (Option<u32>, u32) {
    let head = [literal(":method", "CONNECT"), literal(":protocol", "websocket"), get_head("/")[1..].to_vec()].concat();
    once(port, frame(HEADERS, END_HEADERS, 1, &head)).await
}

/// Half of a frame, one that is too long, one of a stream that is not there.
async fn nonsense(port: u16) -> (Option<u32>, u32) {
    once(port, frame(DATA, 0, 77, b"x")).await
}

type Case = fn(u16) -> BoxFuture<'static, (Option<u32>, u32)>;

/// The floods, and the reason that is due; `None`: they are held up instead.
const CASES: [(&str, Case, Option<u32>); 18] = [
    ("streams opened and reset", |port| Box::pin(resets(port)), Some(ENHANCE_YOUR_CALM)),
    ("CONTINUATION", |port| Box::pin(continuations(port)), Some(ENHANCE_YOUR_CALM)),
    ("empty CONTINUATION", |port| Box::pin(empty_continuations(port)), Some(ENHANCE_YOUR_CALM)),
    ("empty DATA", |port| Box::pin(empty_data(port)), Some(ENHANCE_YOUR_CALM)),
    ("DATA of a byte", |port| Box::pin(small_data(port)), Some(ENHANCE_YOUR_CALM)),
    ("PING", |port| Box::pin(pings(port)), None),
    ("SETTINGS", |port| Box::pin(settings(port)), None),
    ("a window too wide", |port| Box::pin(wide_window(port)), Some(FLOW_CONTROL_ERROR)),
    ("a stream's window too wide", |port| Box::pin(wide_window_of_a_stream(port)), Some(FLOW_CONTROL_ERROR)),
    ("a window that does not grow", |port| Box::pin(empty_window(port)), Some(PROTOCOL_ERROR)),
    ("an HPACK bomb", |port| Box::pin(hpack_bomb(port)), Some(ENHANCE_YOUR_CALM)),
    ("a connection header", |port| Box::pin(with_header(port, "connection", "close")), Some(PROTOCOL_ERROR)),
    ("a transfer coding", |port| Box::pin(with_header(port, "transfer-encoding", "chunked")), Some(PROTOCOL_ERROR)),
    ("another te than trailers", |port| Box::pin(with_header(port, "te", "gzip")), Some(PROTOCOL_ERROR)),
    ("a name in capitals", |port| Box::pin(with_header(port, "Host", "test")), Some(PROTOCOL_ERROR)),
    ("more than was announced", |port| Box::pin(long_body(port)), Some(PROTOCOL_ERROR)),
    ("extended CONNECT", |port| Box::pin(extended_connect(port)), Some(PROTOCOL_ERROR)),
    ("DATA of no stream", |port| Box::pin(nonsense(port)), Some(PROTOCOL_ERROR)),
];

#[tokio::test(flavor = "multi_thread")]
async fn floods_end_or_are_held_up_and_nobody_else_feels_them() {
    let (operator, port, beside) = (Operator::start().await, free_port(), free_port());
    let shim = Shim::start(&operator, &[]);
    operator.serve(&operator.assignment(PROBE, "flooded", port)).await;
    operator.serve(&operator.assignment(HELLO, "beside", beside)).await;
    let neighbour = Neighbour::ask(beside);
    let before = neighbour.stretch_of(100).await;
    eprintln!("before: {before}");
    let mut wrong = vec![];
    for (what, case, due) in CASES {
        let (memory, start) = (shim.resident().await, Instant::now());
        let (reason, sent) = case(port).await;
        let took = start.elapsed();
        let grown = shim.resident().await.saturating_sub(memory);
        let beside = neighbour.stretch_of(20).await;
        eprintln!("{what}: {reason:?} after {sent} in {took:.1?}, {} KB more, beside it {beside}", grown >> 10);
        if reason != due || grown > MEMORY || beside.lost() > 0 || took > Duration::from_secs(10) {
            wrong.push(what);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    neighbour.stretch_of(100).await.assert_undisturbed(&before);
    // What was begun has ended: long before it would have ended by itself.
    operator.until("no live instance", |said| (said.reports.last()?.live_instances == 0).then_some(())).await;
}

/// Waits for an answer to these frames, with this status.
async fn answered(port: u16, frames: Vec<u8>, status: u16) {
    let (mut reader, mut writer) = open(port, WINDOW).await;
    writer.send(&frames).await;
    let head = reader.until(|frame| frame.kind == HEADERS).await.expect("an answer");
    // 200 and 400 have a number in HPACK's table, the others stand there as HPACK's Huffman code has their digits.
    let begins: &[u8] = match status {
        200 => &[0x88],
        400 => &[0x8c],
        405 => &[0b0110_1000, 0b0000_1101, 0b1111_1111],
        431 => &[0b0110_1001, 0b1001_0000, 0b1111_1111],
        _ => panic!("{status} is none of these"),
    };
    assert!(head.payload.windows(begins.len()).any(|bytes| bytes == begins), "{status} is due: {:?}", head.payload);
}

#[tokio::test]
async fn a_head_beyond_the_limit_is_answered_and_so_are_tunnels_and_two_hosts() {
    let (operator, port) = (Operator::start().await, free_port());
    let _shim = Shim::start(&operator, &[]);
    operator.serve(&operator.assignment(HELLO, "a", port)).await;
    let whole = |head: Vec<u8>| frame(HEADERS, END_HEADERS | END_STREAM, 1, &head);
    answered(port, whole(get_head("/")), 200).await;
    answered(port, whole([get_head("/"), literal("host", "test")].concat()), 200).await;
    answered(port, whole([get_head("/"), literal("host", "other")].concat()), 400).await;
    let connect = [literal(":method", "CONNECT"), literal(":authority", "test:80")].concat();
    answered(port, frame(HEADERS, END_HEADERS, 1, &connect), 405).await;

    let big = [get_head("/"), literal("x", &"x".repeat(16_000)).repeat(4), literal("y", &"y".repeat(4000))].concat();
    let (first, rest) = big.split_at(16_000);
    let mut frames = frame(HEADERS, END_STREAM, 1, first);
    let pieces: Vec<_> = rest.chunks(16_000).collect();
    for (n, piece) in (1..).zip(&pieces) {
        frames.extend(frame(CONTINUATION, if n == pieces.len() { END_HEADERS } else { 0 }, 1, piece));
    }
    answered(port, frames, 431).await;
}

/// Streams whose requests are at work already when they are reset: each ends its instance.
#[tokio::test]
async fn a_stream_that_is_reset_ends_its_instance() {
    let (operator, port) = (Operator::start().await, free_port());
    let shim = Shim::start(&operator, &[]);
    let slow = Assignment { timeout_millis: 30_000, ..operator.assignment(PROBE, "a", port) };
    operator.serve(&slow).await;
    let (mut reader, mut writer) = open(port, WINDOW).await;
    let reading = tokio::spawn(async move { Reader::reason(&mut reader).await });
    for number in 0..40 {
        let head = frame(HEADERS, END_HEADERS | END_STREAM, odd(number), &get_head("/slow?ms=29000"));
        assert!(writer.send(&head).await);
    }
    let in_flight =
        |number| format!("podless_shim_requests_in_flight{{namespace=\"tests\",service=\"service-a\"}} {number}\n");
    shim.until_admin("/metrics", |_, text| text.contains(&in_flight(40))).await;
    let start = Instant::now();
    for number in 0..40 {
        assert!(writer.send(&frame(RESET, 0, odd(number), &8u32.to_be_bytes())).await);
    }
    shim.until_admin("/metrics", |_, text| text.contains(&in_flight(0))).await;
    operator.until("no live instance", |said| (said.reports.last()?.live_instances == 0).then_some(())).await;
    assert!(start.elapsed() < Duration::from_secs(15), "after {:?}", start.elapsed());
    reading.abort();
}
