//! Answers that are none, or too much of one.

use wasip2::{
    clocks::monotonic_clock,
    http::types::{Fields, OutgoingBody, ResponseOutparam},
};

const HOUR: u64 = 3_600_000_000_000;

/// A body without an end.
pub(crate) fn endless(out: ResponseOutparam) {
    let body = crate::begin(out, Fields::new());
    let stream = body.write().expect("the first time");
    let piece = [b'x'; 4096];
    // Until nobody reads any more.
    while stream.blocking_write_and_flush(&piece).is_ok() {}
}

/// A head, and nothing after it.
pub(crate) fn mute(out: ResponseOutparam) {
    let body = crate::begin(out, Fields::new());
    let _stream = body.write().expect("the first time");
    silent();
}

/// Nothing at all.
pub(crate) fn silent() {
    monotonic_clock::subscribe_duration(HOUR).block();
}

/// A head of so many headers, of so many bytes each.
pub(crate) fn headers(out: ResponseOutparam, count: usize, bytes: usize) {
    let (headers, value) = (Fields::new(), vec![b'x'; bytes]);
    for n in 0..count {
        headers.append(&format!("h{n}"), &value).expect("it fits");
    }
    let body = crate::begin(out, headers);
    OutgoingBody::finish(body, None).expect("whole");
}
