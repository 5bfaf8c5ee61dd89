//! An instance on the engine of WASI 0.3 at work: as many calls beside each other as the policy allows, on one store. A
//! trap ends them all. One that is not over in time is told so and closes the instance: what a guest does for one call
//! cannot be stopped alone; the others may end.

use std::{
    future::{pending, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{
    StreamExt as _,
    channel::oneshot,
    future::{Either, select},
    stream::FuturesUnordered,
};
use http_body::{Body, Frame, SizeHint};
use wasmtime::{AsContextMut as _, component::Accessor, format_err};
use wasmtime_wasi_http::{
    Error, WasiBody, WasiHttpView,
    handler::{Prepared, Proxy},
};

use super::{AtWork, Call, Failure, Flight, Refusal, inbox::Inbox, tell_cut};
use podless_host::{Guest, log::ServiceLog};

/// Why a call was ended at its deadline, or because nobody waits for it.
const TIMED_OUT: &str = "guest timed out";

/// Has an instance answer a call, and others while it may.
pub(super) async fn serve(mut instance: AtWork, proxy: Proxy, first: Call, mut inbox: Inbox) {
    let AtWork { store, flights, log, .. } = &mut instance;
    let calls = Calls {
        flights,
        fresh: Mutex::default(),
        settled: AtomicBool::new(false),
        closing: AtomicBool::new(false),
        log,
    };
    let ended = {
        let mut work =
            pin!(store.run_concurrent(async |accessor| drive(accessor, &proxy, first, &mut inbox, &calls).await));
        let mut overs = FuturesUnordered::new();
        poll_fn(|context| {
            // Looked at before the guest has its turn: what is past its deadline has no other.
            if calls.are_past() {
                return Poll::Ready(Err(format_err!("{TIMED_OUT}")));
            }
            let mut worked = work.as_mut().poll(context);
            // All its calls wait for something, or there are none: it has time for another, if it may.
            if worked.is_pending() && !calls.settled.swap(true, Relaxed) {
                worked = work.as_mut().poll(context);
            }
            if let Poll::Ready(ended) = worked {
                return Poll::Ready(ended.flatten());
            }
            // Beside the guest's event loop: a guest that never comes back from a loop is ended at its next epoch tick.
            overs.extend(calls.fresh().drain(..).map(over));
            while let Poll::Ready(Some(over)) = overs.poll_next_unpin(context) {
                if over.is_some_and(|flight| calls.cut(&flight)) {
                    return Poll::Ready(Err(format_err!("{TIMED_OUT}")));
                }
            }
            Poll::Pending
        })
        .await
    };
    instance.ended = Some(ended);
}

/// Waits until a call is over; `None`: it has ended before.
async fn over(flight: Arc<Flight>) -> Option<Arc<Flight>> {
    let is_over = matches!(select(pin!(flight.ended()), pin!(flight.over())).await, Either::Right(_));
    is_over.then_some(flight)
}

/// The calls that an instance has: looked at from inside its event loop, and from outside.
struct Calls<'a> {
    /// Those that have not ended.
    flights: &'a Mutex<Vec<Arc<Flight>>>,
    /// Of these, whose time nobody looks at yet.
    fresh: Mutex<Vec<Arc<Flight>>>,
    /// None of them has the thread.
    settled: AtomicBool,
    /// One of them was cut off: there will be no more.
    closing: AtomicBool,
    log: &'a ServiceLog,
}

impl Calls<'_> {
    fn begin(&self, flight: &Arc<Flight>) {
        self.settled.store(false, Relaxed);
        lock(self.flights).push(flight.clone());
        self.fresh().push(flight.clone());
    }

    /// A call is done, unless it was cut off.
    fn done(&self, flight: &Arc<Flight>) {
        if self.remove(flight) {
            flight.end(None);
        }
    }

    /// What is over is told so. Whether there is nothing else that the instance is to go on for.
    fn cut(&self, flight: &Arc<Flight>) -> bool {
        self.closing.store(true, Relaxed);
        if self.number() == 1 {
            return true;
        }
        if self.remove(flight) {
            let failure = Failure { refusal: Refusal::Timeout, why: TIMED_OUT.to_owned(), cuts: true };
            if let Some(why) = flight.end(Some(failure)) {
                tell_cut(self.log, why);
            }
        }
        false
    }

    /// All calls that are left are done.
    fn all_done(&self) {
        for flight in lock(self.flights).drain(..) {
            flight.end(None);
        }
    }

    /// Whether there is nothing that the instance is to go on for.
    fn are_past(&self) -> bool {
        let flights = lock(self.flights);
        !flights.is_empty() && flights.iter().all(|flight| flight.is_past())
    }

    fn remove(&self, flight: &Arc<Flight>) -> bool {
        let mut flights = lock(self.flights);
        let at = flights.iter().position(|other| Arc::ptr_eq(other, flight));
        at.map(|at| flights.swap_remove(at)).is_some()
    }

    fn number(&self) -> usize {
        lock(self.flights).len()
    }

    fn fresh(&self) -> MutexGuard<'_, Vec<Arc<Flight>>> {
        lock(&self.fresh)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What happens inside.
#[expect(clippy::large_enum_variant, reason = "it is taken apart where it was made")]
enum Event {
    /// The head of an answer is there, or there will be none.
    Answered(wasmtime::Result<(Arc<Flight>, Option<oneshot::Receiver<()>>)>),
    /// Nobody reads an answer's body any more, or its call was cut off.
    Read(Arc<Flight>),
    /// Another call comes.
    Call(Call),
    /// None will come.
    Closed,
    /// The guest has nothing more to do.
    Quiet,
}

/// Inside the guest's event loop: begins calls and sees them end, until there will be no more.
async fn drive(
    accessor: &Accessor<Guest>,
    proxy: &Proxy,
    first: Call,
    inbox: &mut Inbox,
    calls: &Calls<'_>,
) -> wasmtime::Result<()> {
    let (mut running, mut answered) = (FuturesUnordered::new(), FuturesUnordered::new());
    let mut next = Some(first);
    // The last call, whose answer has been read while the guest goes on: nothing else has a deadline.
    let mut lingering: Option<Arc<Flight>> = None;
    loop {
        if let Some(call) = next.take() {
            calls.begin(&call.flight);
            // The new one's deadline is enough.
            if let Some(old) = lingering.take() {
                calls.done(&old);
            }
            running.push(run(accessor, proxy, call));
        }
        let event = poll_fn(|context| {
            if let Poll::Ready(Some(done)) = running.poll_next_unpin(context) {
                return Poll::Ready(Event::Answered(done));
            }
            if let Poll::Ready(Some(flight)) = answered.poll_next_unpin(context) {
                return Poll::Ready(Event::Read(flight));
            }
            if running.is_empty() && accessor.poll_no_interesting_tasks(context).is_ready() {
                return Poll::Ready(Event::Quiet);
            }
            if calls.closing.load(Relaxed) {
                inbox.close();
            } else if calls.settled.load(Relaxed)
                && inbox.has_room_beside(calls.number().saturating_sub(usize::from(lingering.is_some())))
            {
                inbox.list();
            }
            inbox.poll_call(context).map(|call| call.map_or(Event::Closed, Event::Call))
        })
        .await;
        match event {
            Event::Answered(done) => {
                let (flight, read) = done?;
                answered.push(until_read(flight, read));
            }
            // Not done: it is the guest's last deadline, until the guest is quiet or has another call.
            Event::Read(flight) if calls.number() == 1 && !calls.closing.load(Relaxed) => lingering = Some(flight),
            Event::Read(flight) => {
                calls.done(&flight);
                if calls.closing.load(Relaxed) && calls.number() == 0 {
                    return Ok(());
                }
            }
            Event::Call(call) => next = Some(call),
            Event::Closed => {}
            Event::Quiet => {
                answered.clear();
                lingering = None;
                calls.all_done();
                if calls.closing.load(Relaxed) {
                    return Ok(());
                }
                match inbox.next().await {
                    None => return Ok(()),
                    call => next = call,
                }
            }
        }
    }
}

/// Has the guest answer one call, until the head of the answer is there.
async fn run(
    accessor: &Accessor<Guest>,
    proxy: &Proxy,
    call: Call,
) -> wasmtime::Result<(Arc<Flight>, Option<oneshot::Receiver<()>>)> {
    let Call { flight, request, answer, read } = call;
    let call = accessor.with(|mut store| {
        let mut store = store.as_context_mut();
        // The ticks that went by while it waited are not its own.
        store.set_epoch_deadline(1);
        Prepared::new(store, proxy, request, Guest::http, answer)
    })?;
    // Its time is looked at from outside: see `serve`.
    call.run(accessor, pending()).await?;
    Ok((flight, read))
}

/// Waits until nobody reads an answer's body any more, or the call was cut off.
async fn until_read(flight: Arc<Flight>, read: Option<oneshot::Receiver<()>>) -> Arc<Flight> {
    let read = async {
        match read {
            // What comes is that the other end is gone.
            Some(read) => drop(read.await),
            None => pending().await,
        }
    };
    select(pin!(read), pin!(flight.ended())).await;
    flight
}

/// An answer's body that tells the instance when nobody reads it any more.
pub(super) struct Watched {
    body: WasiBody,
    _reading: oneshot::Sender<()>,
}

impl Watched {
    /// Watches a body.
    pub(super) fn new(body: WasiBody, reading: oneshot::Sender<()>) -> Self {
        Self { body, _reading: reading }
    }
}

impl Body for Watched {
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
