//! The answer's body on its way to the guest: bytes in, the same bytes out, or an error when they stay away too long.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use wasmtime_wasi_http::Error;

use super::{exchange::of_hyper, place::Place};

/// A body that must not stop coming.
pub(crate) struct Received {
    body: Incoming,
    limit: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
    /// When it must be there: a guest may hand it on to its client and be gone.
    end: Pin<Box<Sleep>>,
    _place: Place,
}

impl Received {
    /// The body, of which something must come every `limit`, and all by `end`.
    pub(crate) fn new(body: Incoming, limit: Duration, end: Instant, place: Place) -> Self {
        Self { body, limit, waiting: None, end: Box::pin(sleep_until(end)), _place: place }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        if this.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(Error::HttpResponseTimeout)));
        }
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            this.waiting = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| of_hyper(&error))));
        }
        let waiting = this.waiting.get_or_insert_with(|| Box::pin(sleep(this.limit)));
        waiting.as_mut().poll(context).map(|()| Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
