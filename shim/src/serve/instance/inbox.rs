//! Where an instance waits for its next call: calls in, one after the other out, until it has had as many as it may or
//! none comes for long.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
};

use tokio::{
    sync::oneshot,
    time::{Instant, Sleep, sleep_until},
};

use super::{Call, Maker, open::Open};
use crate::serve::lanes::Bill;

/// An instance's own end of its place among the open ones.
pub(super) struct Inbox {
    maker: Arc<Maker>,
    /// Where it is listed. It is gone when the service has another generation, is parked or has left; of one that answers
    /// once there is none.
    open: Weak<Open>,
    /// Its place, while it is listed.
    place: Option<oneshot::Receiver<Call>>,
    /// Calls that it may have still.
    left: u32,
    /// What the call that it has takes.
    bill: Arc<Bill>,
    idle: Option<Pin<Box<Sleep>>>,
}

impl Inbox {
    /// For an instance that has its first call.
    pub(super) fn new(maker: Arc<Maker>, open: Weak<Open>, bill: Arc<Bill>) -> Self {
        let left = maker.mould.policy.invocations - 1;
        Self { maker, open, place: None, left, bill, idle: None }
    }

    /// Lists the instance, unless it is. Whether it can get a call now.
    pub(super) fn list(&mut self) -> bool {
        if self.place.is_none() && self.left > 0 {
            self.place = self.open.upgrade().and_then(|open| open.list());
        }
        self.place.is_some()
    }

    /// It takes none any more.
    pub(super) fn close(&mut self) {
        self.left = 0;
        // What was put in meanwhile is somebody else's.
        if let Some(mut place) = self.place.take() {
            place.close();
            if let Ok(call) = place.try_recv() {
                self.maker.begin(&self.open, call);
            }
        }
    }

    /// Whether it may have one more call beside these.
    pub(super) fn has_room_beside(&self, calls: usize) -> bool {
        calls < self.maker.mould.policy.concurrency as usize
    }

    /// The call that comes while it is listed: never, while it is not. `None`: there will be none.
    pub(super) fn poll_call(&mut self, context: &mut Context<'_>) -> Poll<Option<Call>> {
        let Some(place) = &mut self.place else { return Poll::Pending };
        let call = ready!(Pin::new(place).poll(context)).ok();
        self.place = None;
        match &call {
            Some(call) => {
                self.left -= 1;
                self.bill.renew(call.flight.deadline().into_std());
            }
            None => self.left = 0,
        }
        Poll::Ready(call)
    }

    /// Waits for the next call with nothing else to do; `None`: the instance is to end.
    pub(super) async fn next(&mut self) -> Option<Call> {
        if !self.list() {
            return None;
        }
        let until = Instant::now() + self.maker.mould.policy.idle;
        // Registered once: it fires early, and is put off then, rather than being set anew by each call.
        let mut idle = self.idle.take().unwrap_or_else(|| Box::pin(sleep_until(until)));
        let call = loop {
            tokio::select! {
                biased;
                call = poll_fn(|context| self.poll_call(context)) => break call,
                () = idle.as_mut() => {
                    if Instant::now() >= until {
                        break None;
                    }
                    idle.as_mut().reset(until);
                }
            }
        };
        self.idle = Some(idle);
        call
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.close();
    }
}
