//! Doing the steps: begins work in the background, and puts what it ends with in place. IO.

use std::{
    collections::HashSet,
    io, mem,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use podless_host::{log::ServiceLog, memory::ServiceMemory, outbound::ServiceGate};
use podless_link::v1::{self, ack::Outcome, from_shim};
use tokio::time;

use super::{
    Control, Done, Entry, Serving,
    demand::Demand,
    diff::Work,
    load::Code,
    measure::measure,
    ports::PortError,
    prepare::{PrepareError, Prepared, prepare},
    verify::Order,
};
use crate::serve::{
    budget::Budget,
    service::{Handler, Service},
    stats::Stats,
};

/// Pause before what may pass by itself is tried again; doubled each time, up to a minute.
const RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// How long a service that moved to another port still answers on the old one.
const OLD_PORT: Duration = Duration::from_secs(30);
/// Measuring may take this share of the time at most, one part in.
const MEASURING: u32 = 20;

impl Control {
    /// What there is of a service, from now on at the latest.
    pub(super) fn entry(&mut self, order: &Order) -> &mut Entry {
        let uid = &order.identity.uid;
        self.entries.entry(uid.clone()).or_insert_with(|| {
            let (stats, identity) = (Arc::<Stats>::default(), &order.identity);
            self.config.shared.services().insert(uid.clone(), (identity.clone(), stats.clone()));
            let log = ServiceLog::new(self.config.lines.clone(), &identity.namespace, &identity.name);
            let node = &self.config.node;
            let memory = ServiceMemory::new(node.memory.clone(), &identity.namespace, stats.memory.clone());
            let gate = ServiceGate::new(
                &node.outbound,
                &identity.namespace,
                Arc::new(log),
                Arc::new(memory),
                stats.outbound.clone(),
            );
            Entry {
                serving: None,
                seat: Arc::default(),
                hosted: None,
                work: Work::Idle,
                stats,
                budget: Budget::new(order.budget),
                instances: node.instances.of(&identity.namespace),
                gate: Arc::new(gate),
                demand: Demand::new(Instant::now()),
                pause: RETRY,
                bytes_per_instance: 0,
            }
        })
    }

    pub(super) fn load(&mut self, uid: &str) {
        let Some(order) = self.wanted.get(uid).cloned() else { return };
        let entry = self.entry(&order);
        entry.work = Work::Loading;
        let gate = entry.gate.clone();
        let woken = entry.serving.as_ref().filter(|serving| serving.restored).and_then(Serving::parked).cloned();
        // What is kept has been acknowledged once.
        let started = entry.serving.as_ref().is_some_and(|serving| serving.order.starts_as(&order));
        let started = started || !self.restored;
        self.busy += 1;
        let (shop, client, loading) = (self.shop.clone(), self.client.clone(), self.loading.clone());
        self.jobs.spawn(async move {
            let _turn = loading.acquire().await;
            if woken.is_some_and(|parked| parked.is_loaded()) {
                return Done::Prepared(order, Box::new(Ok(Prepared::Woken)));
            }
            let prepared = prepare(shop, order.clone(), client, gate, started).await;
            Done::Prepared(order, Box::new(prepared))
        });
    }

    pub(super) fn on_done(&mut self, done: Done) {
        match done {
            Done::Prepared(order, prepared) => self.on_prepared(order, *prepared),
            Done::Woken(wake, linked) => self.on_woken(wake, *linked),
            Done::Lingered { port, tenure, drain, withdrawn } => {
                if let Some((uid, generation)) = &withdrawn {
                    self.hosts.gone(uid, *generation);
                }
                let listener = self.ports.take(port, tenure);
                let deadline = time::Instant::now() + drain;
                match (listener, withdrawn) {
                    (Some(listener), Some((uid, generation))) => drop(self.jobs.spawn(async move {
                        listener.close(deadline).await;
                        Done::Withdrawn(uid, generation)
                    })),
                    (Some(listener), None) => drop(tokio::spawn(listener.close(deadline))),
                    (None, Some((uid, generation))) => self.on_done(Done::Withdrawn(uid, generation)),
                    (None, None) => {}
                }
            }
            Done::Withdrawn(uid, generation) => {
                self.unused = true;
                self.hosts.gone(&uid, generation);
                // It may have come back and been withdrawn again: then it is gone with the last withdrawal.
                if self.withdrawn.get(&uid).is_none_or(|(last, _)| *last != generation) {
                    return;
                }
                self.lingering.remove(&uid);
                self.withdrawn.remove(&uid);
                // It may have come back meanwhile: then it is not gone.
                if !self.wanted.contains_key(&uid) {
                    self.ack(uid, generation, Outcome::Withdrawn(v1::Withdrawn {}));
                }
            }
            Done::Probed(result) => self.say(from_shim::Body::ProbeResult(result)),
            Done::Measured(resident, took) => {
                self.measure_after = Instant::now() + took * MEASURING;
                match resident {
                    Ok(resident) => self.report(&resident),
                    Err(error) => tracing::warn!(%error, "resident memory cannot be measured"),
                }
            }
        }
    }

    fn on_prepared(&mut self, order: Arc<Order>, prepared: Result<Prepared, PrepareError>) {
        self.busy -= 1;
        let (uid, generation) = (order.identity.uid.clone(), order.generation);
        let Some(entry) = self.entries.get_mut(&uid) else { return };
        entry.work = Work::Idle;
        if self.wanted.get(&uid).is_none_or(|wanted| wanted.generation != generation) {
            // Wanted no more, or not this one: the next look sees to it.
            self.changed = true;
            return;
        }
        let result = prepared
            .map_err(|error| {
                let (reason, passes) = error.reason();
                (reason, passes, error.to_string())
            })
            .and_then(|prepared| {
                self.install(order.clone(), prepared).map_err(|error| ("port-unavailable", true, error.to_string()))
            });
        match result {
            Ok(()) => {
                tracing::info!(uid, generation, "serving");
                self.ack(uid, generation, Outcome::Loaded(v1::Loaded {}));
            }
            Err((reason, passes, message)) => {
                if let Some(entry) = self.entries.get_mut(&uid) {
                    entry.work = Work::Failed { generation, retry: passes.then(|| Instant::now() + entry.pause) };
                    entry.pause = (entry.pause * 2).min(LONGEST_RETRY);
                }
                self.unanswer(&uid);
                // What it has no more may be another's by now, whatever answers here.
                self.host(&order);
                if let Some(entry) = self.entries.get_mut(&uid)
                    && let Some(serving) = entry.serving.as_mut()
                    && serving.restored
                    && serving.order.generation == generation
                {
                    // A request has had it loaded, so it answers on, and Hello is to say so.
                    serving.restored = false;
                    (entry.work, entry.pause) = (Work::Idle, RETRY);
                    tracing::warn!(uid, generation, reason, "it answers, but could not be tried again: {message}");
                    return;
                }
                self.fail(uid, generation, reason, message);
            }
        }
    }

    /// Swaps the route to a new generation.
    fn install(&mut self, order: Arc<Order>, prepared: Prepared) -> Result<(), PortError> {
        let Some(entry) = self.entries.get_mut(&order.identity.uid) else { return Ok(()) };
        if let (Prepared::Parked | Prepared::Woken, Some(serving)) = (&prepared, &mut entry.serving)
            && serving.restored
            && serving.order.generation == order.generation
        {
            // It answers since the restart, and a request may have had it loaded by now.
            serving.restored = false;
            entry.pause = RETRY;
            return Ok(());
        }
        let (stats, gate) = (entry.stats.clone(), entry.gate.clone());
        let (handler, code) = match prepared {
            Prepared::Stopped => (Handler::Stopped, None),
            Prepared::Parked | Prepared::Woken => (self.parked(order.clone(), gate, stats), None),
            Prepared::Resident(linked) => {
                let (resident, code) = self.resident(linked, stats, &order.identity.namespace);
                self.mapped = true;
                (Handler::Resident(resident), Some(code))
            }
        };
        let old = self.answer(&order, handler, code)?;
        self.host(&order);
        if let Some(entry) = self.entries.get_mut(&order.identity.uid) {
            entry.budget.resize(order.budget);
            entry.pause = RETRY;
        }
        if let Some(old) = old.filter(|old| old.order.port != order.port)
            && let Some(tenure) = self.ports.linger(old.order.port)
        {
            let (port, drain) = (old.order.port, old.order.timeout);
            self.jobs.spawn(async move {
                time::sleep(OLD_PORT).await;
                Done::Lingered { port, tenure, drain, withdrawn: None }
            });
        }
        self.unused = true;
        // What is being restored comes from there.
        if self.restored {
            self.keep(&order.identity.uid);
        }
        Ok(())
    }

    /// From now on this answers for an order; what did so far comes back.
    pub(super) fn answer(
        &mut self,
        order: &Arc<Order>,
        handler: Handler,
        code: Option<Arc<Code>>,
    ) -> Result<Option<Serving>, PortError> {
        let Some(entry) = self.entries.get_mut(&order.identity.uid) else { return Ok(None) };
        let service = Arc::new(Service {
            identity: order.identity.clone(),
            timeout: order.timeout,
            budget: entry.budget.clone(),
            instances: entry.instances.clone(),
            stats: entry.stats.clone(),
            log: entry.gate.log.clone(),
            handler,
        });
        self.ports.serve(order.port, service.clone())?;
        entry.seat.store(Some(service.clone()));
        Ok(entry.serving.replace(Serving { order: order.clone(), code, service, restored: false }))
    }

    /// From now on a service that answers has the hosts of this order.
    pub(super) fn host(&mut self, order: &Order) {
        let entry = self.entries.get_mut(&order.identity.uid).filter(|entry| entry.serving.is_some());
        let Some(entry) = entry else { return };
        let had = mem::replace(&mut entry.hosted, order.hosted.clone());
        self.hosts.serve(had.as_ref(), order.hosted.as_ref(), &entry.seat);
    }

    /// What answers since a restart and cannot be loaded: its port closes, so that clients try another node.
    fn unanswer(&mut self, uid: &str) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let Some(Serving { order, .. }) = entry.serving.take_if(|s| s.restored && s.code.is_none()) else { return };
        entry.seat.store(None);
        self.hosts.serve(entry.hosted.take().as_ref(), None, &entry.seat);
        if let Some(listener) = self.ports.linger(order.port).and_then(|tenure| self.ports.take(order.port, tenure)) {
            tokio::spawn(listener.close(time::Instant::now() + order.timeout));
        }
    }

    /// Keeps what serves for a restart. It serves without that too: a restart that finds no operator would miss it.
    pub(super) fn keep(&mut self, uid: &str) {
        let Some(serving) = self.entries.get(uid).and_then(|entry| entry.serving.as_ref()) else { return };
        let Some(received) = serving.order.received.get() else { return };
        if let Err(error) = self.state.keep(uid, &received) {
            // Said by a metric for as long as it lasts; each second would flood the log.
            if self.config.shared.unkept.load(Relaxed) == 0 {
                tracing::error!(%error, uid, "assignments cannot be kept for a restart: look at the shim's volume `state`");
            }
            self.unkept.insert(uid.to_owned());
            self.config.shared.unkept.store(self.unkept.len() as u64, Relaxed);
        } else {
            serving.order.received.forget();
        }
    }

    pub(super) fn withdraw(&mut self, uid: String) {
        let Some(entry) = self.entries.remove(&uid) else { return };
        self.config.shared.services().remove(&uid);
        if let Err(error) = self.state.forget(&uid) {
            tracing::error!(%error, uid, "the assignment cannot be forgotten");
        }
        let (generation, linger) = self.withdrawn.get(&uid).copied().unwrap_or_default();
        tracing::info!(uid, generation, "withdrawn");
        let tenure = entry.serving.as_ref().and_then(|serving| self.ports.linger(serving.order.port));
        if let Some(serving) = &entry.serving {
            self.lingering.insert(uid.clone(), serving.order.clone());
            if let Some(hosted) = &entry.hosted {
                self.hosts.leave(generation, hosted, entry.seat.clone());
            }
        }
        self.jobs.spawn(async move {
            let (Some(serving), Some(tenure)) = (entry.serving, tenure) else {
                return Done::Withdrawn(uid, generation);
            };
            time::sleep(linger).await;
            let (port, drain) = (serving.order.port, serving.order.timeout);
            Done::Lingered { port, tenure, drain, withdrawn: Some((uid, generation)) }
        });
    }

    /// Removes artifacts that nothing has mapped or wants. Before the operator has said everything, what is unused now
    /// may be wanted in a moment.
    pub(super) fn sweep(&mut self) {
        if !self.synced || self.busy > 0 {
            self.unused = true;
            return;
        }
        let running = self.entries.values().filter_map(|entry| entry.serving.as_ref()).map(|serving| &serving.order);
        let ordered = running
            .chain(self.lingering.values())
            .chain(self.wanted.values())
            .map(|order| order.seal.code_sha256.as_str());
        let mapped = self.shop.loaded.hashes();
        let used: HashSet<_> = ordered.chain(mapped.iter().map(String::as_str)).collect();
        if let Err(error) = self.shop.store.sweep(&used) {
            tracing::warn!(%error, "unused artifacts cannot be removed");
        }
    }

    pub(super) fn measure(&mut self) {
        if Instant::now() < self.measure_after {
            return;
        }
        let (dir, keeper) = (self.config.data_dir.clone(), self.ports.keeper());
        self.jobs.spawn(async move {
            let started = Instant::now();
            let measured = tokio::task::spawn_blocking(move || measure(&dir, keeper)).await;
            let resident = measured.unwrap_or_else(|error| Err(io::Error::other(error)));
            Done::Measured(resident, started.elapsed())
        });
    }
}
