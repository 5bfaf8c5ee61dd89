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

use super::{clock::ConnectionClock, refusal::Refusal, stats::Stats};

/// Largest request body, in bytes.
pub(crate) const MAX_REQUEST: u64 = 64 << 20;

/// Largest body of an answer, in bytes.
pub(crate) const MAX_RESPONSE: u64 = 1 << 30;

/// A request's body that fails once it exceeds [`MAX_REQUEST`].
pub(crate) struct Limited {
    body: Incoming,
    left: u64,
    exceeded: Arc<AtomicBool>,
    // Dropped after the body: whoever reads the connection is told of that first.
    _held: Held,
}

impl Limited {
    /// Limits a body; the flag is set when it was too large.
    pub(crate) fn limit(body: Incoming, held: Held) -> (WasiBody, Arc<AtomicBool>) {
        let exceeded = Arc::new(AtomicBool::new(false));
        (Self { body, left: MAX_REQUEST, exceeded: exceeded.clone(), _held: held }.boxed_unsync(), exceeded)
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

/// The body of a request is held until this is dropped: until then its connection is not between two requests, answered or
/// not.
pub(crate) struct Held(Arc<ConnectionClock>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.release(Instant::now());
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
    /// When it must be answered.
    deadline: Instant,
    /// Its answer has not begun.
    waiting: bool,
}

impl Active {
    /// A request whose head is there now, and which is to be answered in this time; the service counts it as in flight.
    pub(crate) fn begin(
        clock: Arc<ConnectionClock>,
        service: Option<Arc<Stats>>,
        now: Instant,
        time: Duration,
    ) -> Self {
        if let Some(service) = &service {
            service.in_flight.begin(now);
            service.pace.begin();
        }
        let deadline = now + time;
        Self { since: clock.begin(now, deadline), begun: now, deadline, clock, service, waiting: true }
    }

    /// Somebody takes the request's body.
    pub(crate) fn hold(&self) -> Held {
        self.clock.hold();
        Held(self.clock.clone())
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
        self.clock.end(now, self.deadline);
        self.waits_no_more(None);
        self.service.iter().for_each(|service| service.in_flight.end(now));
    }
}

/// An answer's body; the request is active until it is dropped.
pub(crate) struct Answer {
    body: WasiBody,
    /// Bytes that may still be sent.
    left: u64,
    /// Set when the instance was ended before it was done.
    cut: Option<Arc<AtomicBool>>,
    active: Active,
}

impl Answer {
    /// The body of a component's answer.
    pub(crate) fn of_component(body: WasiBody, cut: Arc<AtomicBool>, active: Active) -> Self {
        Self { body, left: MAX_RESPONSE, cut: Some(cut), active }
    }

    /// The body of an answer of the shim's own.
    pub(crate) fn of_shim(body: WasiBody, active: Active) -> Self {
        Self { body, left: MAX_RESPONSE, cut: None, active }
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
        if let Poll::Ready(Some(Ok(frame))) = &poll {
            let length = frame.data_ref().map_or(0, |data| data.len() as u64);
            let Some(left) = self.left.checked_sub(length) else {
                self.active.service.iter().for_each(|service| service.refused(Refusal::ResponseTooLarge));
                return Poll::Ready(Some(Err(Error::HttpResponseBodySize(Some(MAX_RESPONSE)))));
            };
            self.left = left;
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
    use futures::stream;
    use http_body_util::StreamBody;
    use podless_link::pace::weight;

    use super::*;

    #[test]
    fn a_client_that_is_slow_to_ask_makes_no_service_slow() {
        let (start, stats) = (Instant::now(), Arc::new(Stats::default()));
        let clock = Arc::new(ConnectionClock::new(start, 0));
        clock.read(start);
        let head = start + Duration::from_secs(15);
        let mut active = Active::begin(clock, Some(stats.clone()), head, Duration::ZERO);
        assert_eq!(active.since, start, "the client sees all of it");
        active.answered();
        let pace = stats.pace.read();
        assert_eq!(pace.answered, 1);
        assert!(pace.weights <= weight(Duration::from_secs(1)), "{pace:?}");
    }

    #[tokio::test]
    async fn an_answer_that_is_too_long_is_cut_off_and_counted() {
        let (now, stats) = (Instant::now(), Arc::new(Stats::default()));
        let piece = Bytes::from(vec![0; 1 << 20]);
        for (pieces, whole) in [(1024, true), (1025, false)] {
            let clock = Arc::new(ConnectionClock::new(now, 0));
            let active = Active::begin(clock, Some(stats.clone()), now, Duration::ZERO);
            let frames = stream::iter(std::iter::repeat_n(piece.clone(), pieces).map(|piece| Ok(Frame::data(piece))));
            let mut body = Answer::of_component(StreamBody::new(frames).boxed_unsync(), Arc::default(), active);
            let (mut length, mut cut) = (0, false);
            while let Some(frame) = body.frame().await {
                match frame {
                    Ok(frame) => length += frame.into_data().map_or(0, |data| data.len() as u64),
                    Err(_) => {
                        cut = true;
                        break;
                    }
                }
            }
            assert_eq!((length, cut), (MAX_RESPONSE, !whole));
        }
        let counted = stats.refusals().find(|(refusal, _)| *refusal == Refusal::ResponseTooLarge);
        assert_eq!(counted.map(|(_, count)| count), Some(1));
    }
}
