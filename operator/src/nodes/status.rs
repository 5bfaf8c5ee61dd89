//! A WasmNode's status. In: what its shim said; out: the status, and whether it is news. Pure.

use std::collections::HashMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use podless_crds::{
    ConditionType, NodeCapacity, NodeColdStart, NodeDensity, Reason, ServiceShare, Status, WasmNodeStatus,
    set_condition,
};
use podless_link::v1::{Capacity, Hello, Histogram, Phases, Report, ServiceReport};

use crate::{
    eject::Slow,
    reconcile::{
        events::{Notice, notices},
        measured::{bytes_moved, quantiles, quantiles_moved, rounded},
    },
};

/// Services that status names.
const TOP: usize = 10;

/// What a shim has said.
pub(crate) struct Said<'a> {
    /// When it connected.
    pub(crate) hello: &'a Hello,
    /// Since then.
    pub(crate) report: Option<&'a Report>,
    /// By service uid.
    pub(crate) services: &'a HashMap<String, ServiceReport>,
    /// Whether it runs what the operator compiles for.
    pub(crate) matches: bool,
    /// Why it gets no new connections for a while, if it does not.
    pub(crate) slow: Option<&'a Slow>,
}

/// The status of a node whose shim is connected. `name_of` gives namespace and name of a service's uid.
pub(crate) fn connected(
    old: &WasmNodeStatus,
    said: &Said<'_>,
    name_of: impl Fn(&str) -> Option<(String, String)>,
    now: &Time,
) -> WasmNodeStatus {
    let mut new = old.clone();
    let Hello { version, fingerprint, target, capacity, known: _ } = said.hello;
    (new.version, new.fingerprint, new.target) = (version.clone(), fingerprint.clone(), target.clone());
    if let Some(capacity) = capacity {
        new.capacity = fits(capacity);
    }
    if let Some(report) = said.report {
        new.density = density(report, said.services);
        new.cold_start = cold_start(said.services);
        new.top = top(said.services, name_of);
    }
    let (status, reason, message) = match (said.matches, said.slow) {
        (true, None) => (Status::True, Reason::ShimConnected, "the shim is connected".to_owned()),
        (true, Some(slow)) => {
            (Status::False, Reason::Slow, format!("the shim is {slow}; what is connected is served on"))
        }
        (false, _) => (
            Status::False,
            Reason::EngineMismatch,
            format!(
                "the shim ({version}) runs engine {fingerprint}, the operator compiles for another: \
                 run both from one release; what it has loaded goes on serving"
            ),
        ),
    };
    set_condition(&mut new.conditions, ConditionType::Ready, status, reason, &message, None, now);
    new
}

fn fits(capacity: &Capacity) -> NodeCapacity {
    let Capacity { instances, bounded_by, services } = capacity;
    NodeCapacity {
        instances: int(*instances),
        bounded_by: bounded_by.clone(),
        more: more(bounded_by).map(str::to_owned),
        services: (*services > 0).then(|| int(*services)),
    }
}

/// What to raise where this bounds the instances.
fn more(bounded_by: &str) -> Option<&'static str> {
    Some(match bounded_by {
        "pool" => "raise the chart's shim.instances, to 30000 at most",
        "maxMapCount" => "raise the node's vm.max_map_count, as charts/node-tuning.yaml does",
        "memory" => "raise the chart's shim.resources.limits.memory, or set shim.instances",
        "addressSpace" => "raise the limit of the shim's address space (RLIMIT_AS), which the container's runtime sets",
        _ => return None,
    })
}

/// The status of a node whose shim is not connected: what it said last stays.
pub(crate) fn disconnected(old: &WasmNodeStatus, now: &Time) -> WasmNodeStatus {
    let mut new = old.clone();
    let message = "the shim's link is down; what it has loaded goes on serving: look at its pod and its log";
    let (status, reason) = (Status::False, Reason::ShimDisconnected);
    set_condition(&mut new.conditions, ConditionType::Ready, status, reason, message, None, now);
    new
}

/// What to tell the user: that a shim has become slow, and that it is so no more. The rest is told by its pod.
pub(crate) fn turns(old: &WasmNodeStatus, new: &WasmNodeStatus) -> Vec<Notice> {
    let slow = |status: &WasmNodeStatus| status.conditions.iter().any(|c| c.reason == Reason::Slow.as_str());
    if slow(old) == slow(new) { vec![] } else { notices(&old.conditions, &new.conditions) }
}

/// Whether `new` says something that is worth a write. Live instances change with every request, and are not.
pub(crate) fn is_news(new: &WasmNodeStatus, old: &WasmNodeStatus) -> bool {
    let WasmNodeStatus { conditions, version, target, fingerprint, capacity, density, cold_start, top } = new;
    let facts = (conditions, version, target, fingerprint, capacity)
        != (&old.conditions, &old.version, &old.target, &old.fingerprint, &old.capacity);
    let NodeDensity {
        services,
        live_instances: _,
        peak_instances,
        resident_bytes,
        unattributed_bytes,
        bytes_per_service,
        bytes_per_instance,
    } = density;
    let density = *services != old.density.services
        || *peak_instances != old.density.peak_instances
        || bytes_moved(*resident_bytes, old.density.resident_bytes)
        || bytes_moved(*unattributed_bytes, old.density.unattributed_bytes)
        || bytes_moved(bytes_per_service.unwrap_or(0), old.density.bytes_per_service.unwrap_or(0))
        || bytes_moved(bytes_per_instance.unwrap_or(0), old.density.bytes_per_instance.unwrap_or(0));
    let cold = match (cold_start, &old.cold_start) {
        (Some(new), Some(old)) => {
            let NodeColdStart { count, fetch, load, link, instantiate, first_byte } = new;
            *count != old.count
                || quantiles_moved(fetch.as_ref(), old.fetch.as_ref())
                || quantiles_moved(load.as_ref(), old.load.as_ref())
                || quantiles_moved(link.as_ref(), old.link.as_ref())
                || quantiles_moved(instantiate.as_ref(), old.instantiate.as_ref())
                || quantiles_moved(first_byte.as_ref(), old.first_byte.as_ref())
        }
        (None, None) => false,
        _ => true,
    };
    let names = |top: &[ServiceShare]| {
        let mut names: Vec<_> = top.iter().map(|s| (s.namespace.clone(), s.name.clone())).collect();
        names.sort();
        names
    };
    facts || density || cold || names(top) != names(&old.top)
}

fn int(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

fn few(value: u32) -> i32 {
    i32::try_from(rounded(u64::from(value), 2)).unwrap_or(i32::MAX)
}

fn density(report: &Report, services: &HashMap<String, ServiceReport>) -> NodeDensity {
    let memory = report.memory.unwrap_or_default();
    // Of what is parked nothing is here.
    let count = services.values().filter(|s| s.resident_bytes > 0).count() as u64;
    // Code is what is left when the live instances are taken away.
    let code = |s: &ServiceReport| {
        s.resident_bytes.saturating_sub(s.bytes_per_instance.saturating_mul(u64::from(s.live_instances)))
    };
    let code: u64 = services.values().map(code).fold(0, u64::saturating_add);
    let weighed = || services.values().filter(|s| s.bytes_per_instance > 0);
    let weight = |s: &ServiceReport| u128::from(s.peak_instances.max(1));
    let total: u128 = weighed().map(weight).sum();
    let bytes: u128 = weighed().map(|s| u128::from(s.bytes_per_instance) * weight(s)).sum();
    NodeDensity {
        services: i32::try_from(count).unwrap_or(i32::MAX),
        live_instances: few(report.live_instances),
        peak_instances: few(report.peak_instances),
        resident_bytes: rounded(memory.resident_bytes, 3),
        unattributed_bytes: rounded(memory.unattributed_bytes, 3),
        bytes_per_service: code.checked_div(count).map(|bytes| rounded(bytes, 3)),
        bytes_per_instance: bytes.checked_div(total).map(|b| rounded(u64::try_from(b).unwrap_or(u64::MAX), 3)),
    }
}

fn cold_start(services: &HashMap<String, ServiceReport>) -> Option<NodeColdStart> {
    let count = services.values().fold(0u64, |all, s| all.saturating_add(s.cold_starts));
    let phase = |of: fn(&Phases) -> Option<&Histogram>| {
        quantiles([services.values().filter_map(|s| of(s.phases.as_ref()?)).collect()])
    };
    let cold = NodeColdStart {
        count: rounded(count, 2),
        fetch: phase(|p| p.fetch.as_ref()),
        load: phase(|p| p.load.as_ref()),
        link: phase(|p| p.link.as_ref()),
        instantiate: phase(|p| p.instantiate.as_ref()),
        first_byte: phase(|p| p.first_byte.as_ref()),
    };
    (cold != NodeColdStart::default()).then_some(cold)
}

fn top(
    services: &HashMap<String, ServiceReport>,
    name_of: impl Fn(&str) -> Option<(String, String)>,
) -> Vec<ServiceShare> {
    let mut all: Vec<_> = services.values().collect();
    all.sort_by(|a, b| b.resident_bytes.cmp(&a.resident_bytes).then_with(|| a.service_uid.cmp(&b.service_uid)));
    let share = |s: &ServiceReport| {
        let (namespace, name) = name_of(&s.service_uid)?;
        Some(ServiceShare { namespace, name, resident_bytes: rounded(s.resident_bytes, 3) })
    };
    all.into_iter().filter_map(share).take(TOP).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;
    use podless_link::v1::Memory;

    fn now() -> Time {
        Time(Timestamp::UNIX_EPOCH)
    }

    fn status(old: &WasmNodeStatus, resident: u64, services: u32, matches: bool) -> WasmNodeStatus {
        of_shim(old, resident, services, matches, None)
    }

    fn of_shim(
        old: &WasmNodeStatus,
        resident: u64,
        services: u32,
        matches: bool,
        slow: Option<&Slow>,
    ) -> WasmNodeStatus {
        let hello = Hello {
            version: "0.1.0".into(),
            fingerprint: "f".into(),
            target: "t".into(),
            capacity: Some(Capacity { instances: 1000, bounded_by: "memory".into(), services: 9_000 }),
            known: vec![],
        };
        let memory = Memory { resident_bytes: resident, unattributed_bytes: resident / 2 };
        let report = Report { memory: Some(memory), live_instances: 3, peak_instances: 12, ..Default::default() };
        let service = |i: u32| ServiceReport {
            service_uid: i.to_string(),
            resident_bytes: 1_000_000 + u64::from(i) * 1000,
            bytes_per_instance: 50_000,
            live_instances: 2,
            peak_instances: 4,
            ..Default::default()
        };
        let services: HashMap<_, _> = (0..services).map(|i| (i.to_string(), service(i))).collect();
        let said = Said { hello: &hello, report: Some(&report), services: &services, matches, slow };
        connected(old, &said, |uid| Some(("n".into(), uid.into())), &now())
    }

    #[test]
    fn a_report_becomes_a_status() {
        let status = status(&WasmNodeStatus::default(), 123_456_789, 12, true);
        assert_eq!(status.density.resident_bytes, 123_000_000);
        assert_eq!((status.density.services, status.density.peak_instances), (12, 12));
        assert_eq!(status.density.bytes_per_service, Some(906_000));
        assert_eq!(status.density.bytes_per_instance, Some(50_000));
        assert_eq!(status.cold_start, None, "nothing was started");
        assert_eq!((status.capacity.instances, status.capacity.services), (1000, Some(9000)));
        assert!(status.capacity.more.is_some_and(|more| more.contains("limits.memory")), "it says what to raise");
        assert_eq!(status.top.len(), 10);
        assert_eq!((status.top[0].name.as_str(), status.top[0].resident_bytes), ("11", 1_010_000));
        assert_eq!((status.conditions[0].type_.as_str(), status.conditions[0].status.as_str()), ("Ready", "True"));
    }

    #[test]
    fn who_is_slow_is_told_of_with_figures_once() {
        let slow = Slow::example();
        let of = |old: &WasmNodeStatus, slow| of_shim(old, 100_000_000, 3, true, slow);
        let fast = of(&WasmNodeStatus::default(), None);
        let turned = of(&fast, Some(&slow));
        let ready = &turned.conditions[0];
        assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "Slow"));
        assert!(ready.message.contains("11 times slower than 2 others"), "{}", ready.message);
        assert!(is_news(&turned, &fast));
        let told = |old: &WasmNodeStatus, new: &WasmNodeStatus| {
            turns(old, new).into_iter().map(|n| (n.warning, n.reason)).collect::<Vec<_>>()
        };
        assert_eq!(told(&fast, &turned), [(true, "Slow".to_owned())]);
        let (still, over, gone) = (of(&turned, Some(&slow)), of(&turned, None), disconnected(&fast, &now()));
        assert_eq!(told(&turned, &still), []);
        assert_eq!(told(&turned, &over), [(false, "ShimConnected".to_owned())]);
        assert_eq!(told(&fast, &gone), [], "its pod tells that");
    }

    #[test]
    fn only_news_is_written() {
        let old = status(&WasmNodeStatus::default(), 100_000_000, 3, true);
        assert!(!is_news(&status(&old, 104_000_000, 3, true), &old), "4% more");
        assert!(is_news(&status(&old, 106_000_000, 3, true), &old), "6% more");
        assert!(is_news(&status(&old, 100_000_000, 4, true), &old), "a service more");
        assert!(is_news(&status(&old, 100_000_000, 3, false), &old), "another engine");
        let gone = disconnected(&old, &now());
        assert!(is_news(&gone, &old));
        assert_eq!(gone.density, old.density, "what it said last stays");
        assert!(!is_news(&disconnected(&gone, &now()), &gone));
    }
}
