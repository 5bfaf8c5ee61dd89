//! Bodies: the request's, cut off at a limit; the answer's, which tells the connection when it is done.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use wasmtime_wasi_http::{Error, WasiBody};

use super::{clock::ConnectionClock, stats::Stats};

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
pub(crate) struct Active {
    clock: Arc<ConnectionClock>,
    service: Option<Arc<Stats>>,
    /// When the request's first byte came in.
    pub(crate) since: Instant,
    /// When its head was there: what came before is the client's and the network's time.
    begun: Instant,
    /// Its answer has not begun.
    waiting: bool,
}

impl Active {
    /// A request whose head is there now; the service counts it as in flight.
    pub(crate) fn begin(clock: Arc<ConnectionClock>, service: Option<Arc<Stats>>, now: Instant) -> Self {
        if let Some(service) = &service {
            service.in_flight.begin(now);
            service.pace.begin();
        }
        Self { since: clock.begin(now), begun: now, clock, service, waiting: true }
    }

    /// The component has answered: the head is there.
    pub(crate) fn answered(&mut self) {
        self.waits_no_more(Some(self.begun.elapsed()));
    }

    fn waits_no_more(&mut self, answered: Option<Duration>) {
        if std::mem::take(&mut self.waiting) {
            self.service.iter().for_each(|service| service.pace.end(answered));
        }
    }

    /// The head of the answer is about to be written: the next byte out ends the time of its cold start.
    pub(crate) fn answering(&self) {
        if let Some(service) = &self.service {
            self.clock.arm(service.clone(), self.since);
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let now = Instant::now();
        self.clock.end(now);
        self.waits_no_more(None);
        self.service.iter().for_each(|service| service.in_flight.end(now));
    }
}

/// An answer's body; the request is active until it is dropped.
pub(crate) struct Answer {
    body: WasiBody,
    /// Set when the instance was ended before it was done.
    cut: Option<Arc<AtomicBool>>,
    _active: Active,
}

impl Answer {
    /// The body of a component's answer.
    pub(crate) fn of_component(body: WasiBody, cut: Arc<AtomicBool>, active: Active) -> Self {
        Self { body, cut: Some(cut), _active: active }
    }

    /// The body of an answer of the shim's own.
    pub(crate) fn of_shim(body: WasiBody, active: Active) -> Self {
        Self { body, cut: None, _active: active }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let poll = Pin::new(&mut self.body).poll_frame(context);
        // Wasmtime ends the body of an instance that is gone as if it were complete; the client must see that it is not.
        if let Poll::Ready(None) = poll
            && self.cut.as_ref().is_some_and(|cut| cut.load(Relaxed))
        {
            return Poll::Ready(Some(Err(Error::HttpResponseIncomplete)));
        }
        poll
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && !self.cut.as_ref().is_some_and(|cut| cut.load(Relaxed))
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use podless_link::pace::weight;

    use super::*;

    #[test]
    fn a_client_that_is_slow_to_ask_makes_no_service_slow() {
        let (start, stats) = (Instant::now(), Arc::new(Stats::default()));
        let clock = Arc::new(ConnectionClock::new(start, 0));
        clock.read(start);
        let head = start + Duration::from_secs(15);
        let mut active = Active::begin(clock, Some(stats.clone()), head);
        assert_eq!(active.since, start, "the client sees all of it");
        active.answered();
        let pace = stats.pace.read();
        assert_eq!(pace.answered, 1);
        assert!(pace.weights <= weight(Duration::from_secs(1)), "{pace:?}");
    }
}
