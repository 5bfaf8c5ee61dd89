//! Bodies: the request's, cut off at a limit; the answer's, which tells the connection when it is done.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use wasmtime_wasi_http::{Error, WasiBody};

use super::clock::ConnectionClock;

/// Largest request body, in bytes.
pub(crate) const MAX_REQUEST: u64 = 64 << 20;

/// A request's body that fails once it exceeds [`MAX_REQUEST`].
pub(crate) struct Limited {
    body: Incoming,
    left: u64,
    exceeded: Arc<AtomicBool>,
}

impl Limited {
    /// Limits a body; the flag is set when it was too large.
    pub(crate) fn limit(body: Incoming) -> (WasiBody, Arc<AtomicBool>) {
        let exceeded = Arc::new(AtomicBool::new(false));
        (Self { body, left: MAX_REQUEST, exceeded: exceeded.clone() }.boxed_unsync(), exceeded)
    }
}

impl Body for Limited {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let poll = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &poll {
            let length = frame.data_ref().map_or(0, |data| data.len() as u64);
            let Some(left) = self.left.checked_sub(length) else {
                self.exceeded.store(true, Relaxed);
                return Poll::Ready(Some(Err(Error::HttpRequestBodySize(Some(MAX_REQUEST)))));
            };
            self.left = left;
        }
        poll.map_err(Error::from)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request that is active on its connection, until this is dropped.
pub(crate) struct Active(Arc<ConnectionClock>);

impl Active {
    /// The request whose head the clock was told of.
    pub(crate) fn new(clock: Arc<ConnectionClock>) -> Self {
        Self(clock)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.end(Instant::now());
    }
}

/// An answer's body; the request is active until it is dropped.
pub(crate) struct Answer {
    body: WasiBody,
    _active: Active,
}

impl Answer {
    /// The body of a request's answer.
    pub(crate) fn new(body: WasiBody, active: Active) -> Self {
        Self { body, _active: active }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
