//! From parked to resident, and back. A request to a parked service in; its code mapped and whoever waits answered out.
//! Later, parked again when nothing is asked of it. IO: mapping.
//!
//! A wake has all that it takes with it: whatever becomes of the service meanwhile, those who wait for it are answered.

use podless_host::{
    log::{Message, Stream},
    outbound::ServiceGate,
};
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use super::{
    Control, Done, Serving,
    load::Code,
    prepare::{Linked, PrepareError, linked},
    verify::Order,
};
use crate::serve::{
    instance::Instances,
    parked::Parked,
    service::{Handler, Resident},
    stats::Stats,
};

/// Pause before what could not be loaded is tried again, by the next request.
const AGAIN: Duration = Duration::from_secs(1);

/// A request waits for a service of which nothing is resident.
pub(super) struct Wake {
    order: Arc<Order>,
    gate: Arc<ServiceGate>,
    stats: Arc<Stats>,
    parked: Arc<Parked<Resident>>,
}

impl Drop for Wake {
    // However it ends, who waits must hear of it.
    fn drop(&mut self) {
        self.parked.refuse(Instant::now());
    }
}

impl Control {
    /// What answers for an order of which nothing is resident.
    pub(super) fn parked(&self, order: Arc<Order>, gate: Arc<ServiceGate>, stats: Arc<Stats>) -> Handler {
        let wakes = self.wakes.clone();
        Handler::Parked(Parked::new(move |parked| {
            // A loop that has ended takes none: then it is dropped here.
            let _ = wakes.send(Wake { order: order.clone(), gate: gate.clone(), stats: stats.clone(), parked });
        }))
    }

    pub(super) fn on_wake(&mut self, wake: Wake) {
        wake.stats.wakes.fetch_add(1, Relaxed);
        self.asked = true;
        let (shop, client, waking) = (self.shop.clone(), self.client.clone(), self.waking.clone());
        self.jobs.spawn(async move {
            let _turn = waking.acquire().await;
            let linked = linked(&shop, &wake.order, client, wake.gate.clone()).await;
            Done::Woken(wake, Box::new(linked))
        });
    }

    pub(super) fn on_woken(&mut self, wake: Wake, linked: Result<Linked, PrepareError>) {
        let uid = wake.order.identity.uid.as_str();
        let linked = match linked {
            Ok(linked) => linked,
            Err(error) => {
                tracing::warn!(uid, reason = error.reason().0, "a parked service cannot be loaded: {error}");
                let message = format!("requests are answered 503: the service cannot be loaded: {error}");
                wake.gate.log.write(Message { level: Some("error"), ..Message::new(Stream::Shim, &message) });
                return;
            }
        };
        let (resident, code) = self.resident(linked, wake.stats.clone(), &wake.order.identity.namespace);
        wake.parked.load(resident);
        // Unless another generation serves by now.
        let serving = self.entries.get_mut(uid).and_then(|entry| entry.serving.as_mut());
        if let Some(serving) = serving.filter(|serving| serving.parked().is_some_and(|p| Arc::ptr_eq(p, &wake.parked)))
        {
            serving.code = Some(code);
            self.mapped = true;
            tracing::debug!(uid, "woken");
        }
    }

    /// What has instances of this code answer; the time that it took counts.
    pub(super) fn resident(&self, linked: Linked, stats: Arc<Stats>, namespace: &str) -> (Resident, Arc<Code>) {
        let Linked { mould, code, fetch, load, link } = linked;
        fetch.inspect(|time| stats.fetch.record(*time));
        load.inspect(|time| stats.load.record(*time));
        stats.link.record(link);
        (Arc::new(Instances::new(mould, stats, &self.config.node, namespace)), code)
    }

    /// Parks again what was woken and has had no request for long; what could not be loaded may be asked for again.
    pub(super) fn park(&mut self, now: Instant) {
        let over: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| {
                let Some(serving) = &entry.serving else { return false };
                serving.parked().is_some_and(|parked| match parked.refused() {
                    Some(since) => now.saturating_duration_since(since) >= AGAIN,
                    None => {
                        let woken = serving.order.parked && serving.code.is_some();
                        woken && entry.demand.idle(now) >= self.config.park_after
                    }
                })
            })
            .map(|(uid, _)| uid.clone())
            .collect();
        over.iter().for_each(|uid| self.park_one(uid));
    }

    /// From now on the next request has it loaded; those in flight end where they began.
    pub(super) fn park_one(&mut self, uid: &str) {
        let Some(entry) = self.entries.get(uid) else { return };
        let Some(Serving { order, .. }) = &entry.serving else { return };
        let (order, gate, stats) = (order.clone(), entry.gate.clone(), entry.stats.clone());
        let handler = self.parked(order.clone(), gate, stats);
        match self.answer(&order, handler, None) {
            Ok(old) => {
                // Its turn after a restart is still to come.
                let restored = old.is_some_and(|old| old.restored);
                let serving = self.entries.get_mut(uid).and_then(|entry| entry.serving.as_mut());
                serving.into_iter().for_each(|serving| serving.restored = restored);
                tracing::debug!(uid, "parked");
            }
            Err(error) => tracing::error!(%error, uid, "a service cannot be parked again"),
        }
    }
}
