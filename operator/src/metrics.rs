//! What Prometheus is told. In: what happened; out: the text of /metrics. No IO.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use podless_artifact::Walls;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::{build::Origin, inventory::Inventory};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KeyLabel {
    key: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OriginLabel {
    origin: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WallLabel {
    wall: &'static str,
}

/// The operator's metrics. Clones share their values.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    reconciles: Family<ResultLabel, Counter>,
    reconcile_seconds: Histogram,
    in_flight: Gauge,
    builds: Family<ResultLabel, Counter>,
    artifacts: Family<OriginLabel, Counter>,
    inventory: Family<StateLabel, Gauge>,
    sessions: Gauge,
    services: Gauge,
    leader: Gauge,
    status_writes: Counter,
    takeovers: Counter,
    fenced_writes: Counter,
    link_refusals: Family<ReasonLabel, Counter>,
    ejections: Counter,
    ejected: Gauge,
    slow_turns: Counter,
    slow: Gauge,
    key_renewals: Family<KeyLabel, Counter>,
    overclaims: Counter,
    walls: Family<WallLabel, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let reconciles = Family::default();
        let reconcile_seconds =
            Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]);
        let in_flight = Gauge::default();
        let builds = Family::default();
        let (artifacts, inventory) = (Family::default(), Family::default());
        let (sessions, services, leader) = (Gauge::default(), Gauge::default(), Gauge::default());
        let status_writes = Counter::<u64, AtomicU64>::default();
        let (takeovers, fenced_writes, ejections) = (Counter::default(), Counter::default(), Counter::default());
        let (link_refusals, key_renewals) = (Family::default(), Family::default());
        let (ejected, overclaims) = (Gauge::default(), Counter::default());
        let (slow_turns, slow) = (Counter::default(), Gauge::default());
        let mut r = Registry::with_prefix("podless_operator");
        r.register("reconciles", "Reconciles by result: done, rejected or error", reconciles.clone());
        r.register_with_unit("reconcile", "Time of a reconcile", Unit::Seconds, reconcile_seconds.clone());
        r.register("reconciles_in_flight", "Reconciles that are running", in_flight.clone());
        r.register("builds", "Artifact builds by result: ready, or the reason of the rejection", builds.clone());
        r.register("artifacts", "Artifacts by where they came from: compiled, cached or recalled", artifacts.clone());
        r.register(
            "inventory",
            "WasmServices by what has become of their artifact for this operator's engine: ready, pending or rejected",
            inventory.clone(),
        );
        r.register("shims_connected", "Shims whose link is up", sessions.clone());
        r.register("services", "WasmServices there are", services.clone());
        r.register("leader", "1 on the replica that leads", leader.clone());
        r.register("status_writes", "Writes of a WasmService's or WasmNode's status", status_writes.clone());
        r.register("takeovers", "Times that this replica has become the leader", takeovers.clone());
        r.register("fenced_writes", "Writes given up because the lease was not renewed in time", fenced_writes.clone());
        r.register("link_refusals", "Callers of the link that were turned away, by reason", link_refusals.clone());
        r.register("ejections", "Shims that lost their endpoints because nobody reached them", ejections.clone());
        r.register("shims_ejected", "Shims without endpoints because nobody reaches them", ejected.clone());
        r.register(
            "slow_shims",
            "Shims that lost their endpoints for a while because they were slow",
            slow_turns.clone(),
        );
        r.register("shims_slow", "Shims without endpoints for a while because they are slow", slow.clone());
        r.register("key_renewals", "Keys and certificates made anew: tls, ca or seal", key_renewals.clone());
        r.register("overclaims", "Generations that shims claimed beyond what they were told", overclaims.clone());
        let walls = Family::default();
        r.register("sandbox", "Whether a wall stands around those who compile: seccomp or landlock", walls.clone());
        let registry = Arc::new(r);
        Self {
            registry,
            reconciles,
            reconcile_seconds,
            in_flight,
            builds,
            artifacts,
            inventory,
            sessions,
            services,
            leader,
            status_writes,
            takeovers,
            fenced_writes,
            link_refusals,
            ejections,
            ejected,
            slow_turns,
            slow,
            key_renewals,
            overclaims,
            walls,
        }
    }
}

impl Metrics {
    /// A reconcile has begun.
    pub fn reconcile_began(&self) {
        self.in_flight.inc();
    }

    /// A reconcile has ended after this long: `done`, `rejected` or `error`.
    pub fn reconcile_ended(&self, result: &'static str, took: Duration) {
        self.in_flight.dec();
        self.reconciles.get_or_create(&ResultLabel { result }).inc();
        self.reconcile_seconds.observe(took.as_secs_f64());
    }

    /// A build has ended: `ready`, or the reason why not.
    pub fn build_ended(&self, result: &'static str) {
        self.builds.get_or_create(&ResultLabel { result }).inc();
    }

    /// An artifact was made: by one compilation, however many services want it.
    pub fn artifact_made(&self, origin: Origin) {
        self.artifacts.get_or_create(&OriginLabel { origin: origin.as_str() }).inc();
    }

    /// So many services have their artifact, wait for it, or have none.
    pub fn inventory(&self, Inventory { ready, pending, rejected }: Inventory) {
        for (state, count) in [("ready", ready), ("pending", pending), ("rejected", rejected)] {
            self.inventory.get_or_create(&StateLabel { state }).set(count as i64);
        }
    }

    /// How many there are now.
    pub fn counted(&self, sessions: usize, services: usize) {
        self.sessions.set(sessions as i64);
        self.services.set(services as i64);
    }

    /// This replica leads from now on: a replica that loses the lease ends.
    pub fn leads(&self) {
        self.leader.set(1);
        self.takeovers.inc();
    }

    /// A write was given up because the lease was not renewed in time.
    pub fn write_fenced(&self) {
        self.fenced_writes.inc();
    }

    /// A caller of the link was turned away.
    pub fn link_refused(&self, reason: &'static str) {
        self.link_refusals.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// So many shims were ejected just now, and so many are.
    pub fn ejected(&self, new: usize, all: usize) {
        self.ejections.inc_by(new as u64);
        self.ejected.set(all as i64);
    }

    /// So many shims were found to be slow just now, and so many are.
    pub fn slow(&self, new: usize, all: usize) {
        self.slow_turns.inc_by(new as u64);
        self.slow.set(all as i64);
    }

    /// A key or certificate was made anew: `tls`, `ca` or `seal`.
    pub fn key_renewed(&self, key: &'static str) {
        self.key_renewals.get_or_create(&KeyLabel { key }).inc();
    }

    /// A shim claimed so many generations that it was not told.
    pub fn overclaimed(&self, generations: usize) {
        self.overclaims.inc_by(generations as u64);
    }

    /// These walls stand around those who compile.
    pub fn walls(&self, Walls { seccomp, landlock }: Walls) {
        for (wall, stands) in [("seccomp", seccomp), ("landlock", landlock)] {
            self.walls.get_or_create(&WallLabel { wall }).set(stands.into());
        }
    }

    /// A status was written.
    pub fn status_written(&self) {
        self.status_writes.inc();
    }

    /// The text of /metrics.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_units_are_as_documented() {
        let metrics = Metrics::default();
        metrics.reconcile_began();
        metrics.reconcile_ended("done", Duration::from_millis(3));
        metrics.build_ended("ImportDenied");
        metrics.artifact_made(Origin::Recalled);
        metrics.inventory(Inventory { ready: 7, pending: 1, rejected: 0 });
        metrics.leads();
        metrics.link_refused("expired");
        metrics.ejected(1, 2);
        metrics.slow(1, 3);
        metrics.key_renewed("tls");
        metrics.overclaimed(3);
        metrics.walls(Walls { seccomp: true, landlock: false });
        let text = metrics.text();
        for line in [
            "podless_operator_reconciles_total{result=\"done\"} 1",
            "podless_operator_reconcile_seconds_bucket{le=\"0.005\"} 1",
            "podless_operator_builds_total{result=\"ImportDenied\"} 1",
            "podless_operator_artifacts_total{origin=\"recalled\"} 1",
            "podless_operator_inventory{state=\"ready\"} 7",
            "podless_operator_leader 1",
            "podless_operator_takeovers_total 1",
            "podless_operator_link_refusals_total{reason=\"expired\"} 1",
            "podless_operator_ejections_total 1",
            "podless_operator_shims_ejected 2",
            "podless_operator_slow_shims_total 1",
            "podless_operator_shims_slow 3",
            "podless_operator_key_renewals_total{key=\"tls\"} 1",
            "podless_operator_fenced_writes_total 0",
            "podless_operator_overclaims_total 3",
            "podless_operator_sandbox{wall=\"seccomp\"} 1",
            "podless_operator_sandbox{wall=\"landlock\"} 0",
            "podless_operator_reconciles_in_flight 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
