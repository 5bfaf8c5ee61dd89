//! What passes between the control loop and the operator: assignments, withdrawals and hints in, acknowledgements and
//! reports out. No IO of its own: the link's channels.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use podless_engine::fingerprint;
use podless_link::v1::{self, ack::Outcome, from_shim, to_shim};

use super::{
    Control, Done, demand,
    diff::Work,
    give,
    link::LinkEvent,
    probe::probe,
    report,
    resident::Resident,
    trust,
    verify::{claimed, verify},
};

impl Control {
    pub(super) fn on_link(&mut self, event: LinkEvent) {
        self.changed = true;
        match event {
            LinkEvent::Opened(client, outbox) => {
                (self.client, self.outbox) = (client, Some(outbox));
                self.say(from_shim::Body::Hello(self.hello()));
                self.tell_demand();
                let answers = |uid: &str| self.entries.get(uid).is_some_and(|entry| entry.serving.is_some());
                self.unheard = self.wanted.keys().filter(|uid| !answers(uid)).cloned().collect();
                self.config.shared.linked.store(true, Relaxed);
                for entry in self.entries.values_mut() {
                    if let Work::Failed { retry: Some(retry), .. } = &mut entry.work {
                        *retry = Instant::now();
                    }
                }
            }
            LinkEvent::Closed => {
                (self.client, self.outbox) = (None, None);
                self.config.shared.linked.store(false, Relaxed);
            }
            LinkEvent::Report => {
                self.measure_after = Instant::now();
                self.measure();
            }
            LinkEvent::Said(to_shim::Body::Assign(assign)) => self.on_assign(assign),
            LinkEvent::Said(to_shim::Body::Withdraw(withdraw)) => self.on_withdraw(withdraw),
            LinkEvent::Said(to_shim::Body::Synced(_)) => self.on_synced(),
            LinkEvent::Said(to_shim::Body::Probe(asked)) => self.on_probe(asked),
            LinkEvent::Said(to_shim::Body::Spread(spread)) => self.on_spread(&spread),
            LinkEvent::Said(to_shim::Body::Recall(recall)) => self.on_recall(recall),
        }
    }

    fn on_probe(&mut self, asked: v1::Probe) {
        let (id, admin_port, probing) = (asked.id, self.config.admin_port, self.probing.clone());
        // One that would have to wait could answer too late, and be believed.
        let Ok(turn) = probing.try_acquire_owned() else {
            tracing::warn!(id, "too many probes at once: this one is not answered");
            return;
        };
        self.jobs.spawn(async move {
            let reachable = probe(asked, admin_port).await;
            drop(turn);
            Done::Probed(v1::ProbeResult { id, reachable })
        });
    }

    fn on_assign(&mut self, assign: v1::Assign) {
        let (uid, generation) = claimed(&assign);
        let order = trust::read(&self.config.trust_dir).map_err(|error| ("trust-missing", error.to_string())).and_then(
            |trust| {
                verify(assign, &trust.keys, self.config.target)
                    .map_err(|refused| (refused.reason(), refused.to_string()))
            },
        );
        let order = match order {
            Ok(order) => order,
            Err((reason, message)) => return self.fail(uid, generation, reason, message),
        };
        let known = self.known_generation(&uid);
        if known.is_some_and(|known| generation < known) {
            let message = format!("generation {generation} is lower than {}", known.unwrap_or_default());
            return self.fail(uid, generation, "generation-lowered", message);
        }
        self.unheard.remove(&uid);
        let again = self.wanted.get(&uid).is_some_and(|wanted| wanted.generation == generation);
        if !again {
            self.wanted.insert(uid, Arc::new(order));
        } else if let Some(entry) = self.entries.get_mut(&uid) {
            // Sent again: the operator has not heard how it went.
            match entry.work {
                Work::Idle if entry.serving.as_ref().is_some_and(|s| s.order.generation == generation) => {
                    self.ack(uid, generation, Outcome::Loaded(v1::Loaded {}));
                }
                Work::Failed { .. } => entry.work = Work::Idle,
                _ => {}
            }
        }
    }

    /// The operator has said everything. What it did not hear of and has not assigned was deleted meanwhile: no
    /// withdrawal comes, and one day a retry would have it served.
    fn on_synced(&mut self) {
        self.synced = true;
        for uid in std::mem::take(&mut self.unheard) {
            if self.entries.get(&uid).is_none_or(|entry| entry.serving.is_none()) {
                tracing::info!(uid, "not served, and assigned no more");
                self.wanted.remove(&uid);
            }
        }
    }

    fn on_withdraw(&mut self, withdraw: v1::Withdraw) {
        let v1::Withdraw { service_uid: uid, generation, linger_millis } = withdraw;
        if self.known_generation(&uid).is_some_and(|known| generation < known) {
            tracing::warn!(uid, generation, "a withdrawal of an older generation is not followed");
            return;
        }
        self.wanted.remove(&uid);
        if self.entries.contains_key(&uid) {
            self.withdrawn.insert(uid, (generation, Duration::from_millis(linger_millis)));
        } else {
            self.ack(uid, generation, Outcome::Withdrawn(v1::Withdrawn {}));
        }
    }

    /// A hint: of what this shim does not serve there is nothing to spread.
    fn on_spread(&self, spread: &v1::Spread) {
        let serving = self.entries.get(&spread.service_uid).and_then(|entry| entry.serving.as_ref());
        if let Some(serving) = serving {
            self.ports.spread(serving.order.port, spread.before, spread.after);
        }
    }

    /// The operator has lost an artifact. What answers here has been verified: the operator looks at it once more.
    fn on_recall(&self, recall: v1::Recall) {
        let Some(client) = self.client.clone() else { return };
        let serving = self.entries.values().filter_map(|entry| Some(&entry.serving.as_ref()?.order));
        let orders = serving.filter(|order| order.seal.component == recall.component && order.budget > 0);
        let (orders, giving) = (orders.cloned().collect(), self.giving.clone());
        let (store, state) = (self.shop.store.clone(), self.state.clone());
        tokio::spawn(async move {
            // It is never closed.
            let _turn = giving.acquire().await;
            if let Err(status) = give::give(client, store, state, recall.id, orders).await {
                tracing::warn!(component = recall.component, "an artifact was not given back: {}", status.message());
            }
        });
    }

    fn known_generation(&self, uid: &str) -> Option<u64> {
        let wanted = self.wanted.get(uid).map(|order| order.generation);
        let serving = self.entries.get(uid).and_then(|entry| entry.serving.as_ref()).map(|s| s.order.generation);
        let withdrawn = self.withdrawn.get(uid).map(|(generation, _)| *generation);
        wanted.max(serving).max(withdrawn)
    }

    pub(super) fn report(&mut self, resident: &Resident) {
        let trust = trust::read(&self.config.trust_dir).map(|trust| trust.name).unwrap_or_default();
        let report = report::compose(self.entries.iter_mut(), resident, &self.config.node.live, trust);
        if let Some(memory) = &report.memory {
            self.config.shared.resident.store(memory.resident_bytes, Relaxed);
            self.config.shared.unattributed.store(memory.unattributed_bytes, Relaxed);
        }
        self.say(from_shim::Body::Report(report));
    }

    /// Tells what is asked of services, when there is news.
    pub(super) fn tell_demand(&mut self) {
        let now = Instant::now();
        let at = now.saturating_duration_since(self.started);
        let news = self.entries.iter_mut().filter_map(|(uid, entry)| {
            let reading = entry.demand.look(&entry.stats.in_flight, now)?;
            Some(demand::load(uid, reading, entry.stats.pace.read(), at))
        });
        let services: Vec<_> = news.collect();
        if !services.is_empty() {
            self.say(from_shim::Body::Load(v1::Load { services }));
        }
    }

    fn hello(&self) -> v1::Hello {
        let known = self.entries.iter().filter_map(|(uid, entry)| {
            let generation = entry.proven()?.order.generation;
            Some(v1::Known { service_uid: uid.clone(), generation })
        });
        v1::Hello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            fingerprint: fingerprint(self.config.target),
            target: self.config.target.to_string(),
            capacity: Some(self.config.capacity.clone()),
            known: known.collect(),
        }
    }

    pub(super) fn fail(&mut self, uid: String, generation: u64, reason: &str, message: String) {
        tracing::warn!(uid, generation, reason, "an assignment is not served: {message}");
        self.ack(uid, generation, Outcome::Failed(v1::Failed { reason: reason.to_owned(), message }));
    }

    pub(super) fn ack(&mut self, service_uid: String, generation: u64, outcome: Outcome) {
        self.say(from_shim::Body::Ack(v1::Ack { service_uid, generation, outcome: Some(outcome) }));
    }

    /// Tells the operator, when it is there. What it misses it asks for again after the next Hello.
    pub(super) fn say(&mut self, body: from_shim::Body) {
        let lost = self.outbox.as_ref().is_some_and(|out| out.try_send(v1::FromShim { body: Some(body) }).is_err());
        if lost {
            // A session that takes nothing is as good as none: ending it makes the link open another.
            self.outbox = None;
        }
    }
}
