//! An instance on the engine of WASI 0.2 at work: one call after the other, each to its end.

use std::{future::poll_fn, pin::pin, sync::PoisonError, task::Poll};

use futures::future::{Either, select};
use wasmtime::{Store, format_err};
use wasmtime_wasi_http::{
    WasiHttpView,
    p2::bindings::{Proxy, http::types::Scheme},
};

use super::{AtWork, Call, inbox::Inbox};
use podless_host::Guest;

/// Has an instance answer a call, and others while it may.
pub(super) async fn serve(mut instance: AtWork, proxy: Proxy, first: Call, mut inbox: Inbox) {
    let mut call = first;
    loop {
        let flight = call.flight.clone();
        let flights = instance.flights.get_mut().unwrap_or_else(PoisonError::into_inner);
        flights.push(flight.clone());
        let ended = {
            let mut work = pin!(answer(&mut instance.store, &proxy, call));
            // Looked at before the guest has its turn: what is past its deadline has no other.
            let work = poll_fn(|context| {
                if flight.is_past() {
                    Poll::Ready(Err(format_err!("guest timed out")))
                } else {
                    work.as_mut().poll(context)
                }
            });
            // Beside the guest: one that never comes back from a loop is ended at its next epoch tick.
            match select(work, pin!(flight.over())).await {
                Either::Left((ended, _)) => ended,
                Either::Right(((), _)) => Err(format_err!("guest timed out")),
            }
        };
        // A guest that has not answered may hold the answer still: it is not asked again, and ends with it.
        if ended.is_err() || !flight.is_answered() || !inbox.list() {
            instance.ended = Some(ended);
            return;
        }
        let flights = instance.flights.get_mut().unwrap_or_else(PoisonError::into_inner);
        flights.clear();
        flight.end(None);
        // Its permits must not wait for the next call.
        drop(flight);
        match inbox.next().await {
            Some(another) => call = another,
            None => return,
        }
    }
}

async fn answer(store: &mut Store<Guest>, proxy: &Proxy, call: Call) -> wasmtime::Result<()> {
    let Call { flight, request, answer, .. } = call;
    // The ticks that went by while it waited are not its own.
    store.set_epoch_deadline(1);
    let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
    let out = store.data_mut().http().new_response_outparam_from_callback(move |value| {
        flight.answer();
        // Who does not wait any more needs none.
        let _ = answer.send(value.map_err(Into::into));
    })?;
    proxy.wasi_http_incoming_handler().call_handle(store, request, out).await
}
