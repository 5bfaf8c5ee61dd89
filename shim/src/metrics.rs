//! `/metrics`: counters in, Prometheus' text out. Nothing is counted twice for it: the hot path's own counters are read
//! when Prometheus asks.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use podless_host::{log::Lines, outbound::Counts};
use podless_link::histogram::value_of;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};

use crate::{
    serve::{
        Node,
        stats::{Histogram, Stats},
    },
    shared::Shared,
};

/// Services that have series of their own; the others are one more, so that a node of thousands stays bounded.
const SERVICES: usize = 1000;
/// Name of the sum of the others.
const OTHERS: &str = "_others";
/// Upper ends of the histograms' buckets, in seconds.
const BUCKETS: [f64; 16] = [
    0.000_01,
    0.000_025,
    0.000_05,
    0.000_1,
    0.000_25,
    0.000_5,
    0.001,
    0.002_5,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.5,
    2.5,
    f64::MAX,
];

/// What is measured.
pub(crate) struct Metrics {
    /// The control loop's view.
    pub(crate) shared: Arc<Shared>,
    /// The node.
    pub(crate) node: Arc<Node>,
    /// The guests' log.
    pub(crate) lines: Lines,
    /// Instances that may be live at once.
    pub(crate) slots: u32,
    /// Processes that served before this one.
    pub(crate) restarts: u32,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// The text for Prometheus.
    pub(crate) fn text(self: Arc<Self>) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("podless_shim");
        registry.register_collector(Box::new(Scrape(self)));
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

#[derive(Debug)]
struct Scrape(Arc<Metrics>);

type Labelled = (String, String, Vec<Arc<Stats>>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Metrics { shared, node, lines, slots, restarts } = &*self.0;
        let services = labelled(shared);
        let everything = services.iter().flat_map(|(_, _, stats)| stats.iter().map(AsRef::as_ref)).collect::<Vec<_>>();
        let e = &mut encoder;
        answers(e, &services)?;
        per_service(e, &services, "requests_in_flight", "Requests being answered", |s| s.in_flight.now())?;
        per_service(e, &services, "instances", "Live instances", |s| s.instances.now())?;
        counted(e, &services, "requests_rejected", "Requests that were refused for want of capacity", |s| &s.rejected)?;
        counted(e, &services, "requests_stopped", "Requests to a service that is stopped", |s| &s.stopped)?;
        counted(e, &services, "wakes", "Loads that a request to a parked service had begun", |s| &s.wakes)?;
        outbound(e, &services)?;
        cpu(e, &services)?;
        histogram(e, "instantiate", "Time to make an instance", everything.iter().map(|s| &s.instantiate))?;
        let help = "Time from a request's first byte to its answer's";
        histogram(e, "first_byte", help, everything.iter().map(|s| &s.first_byte))?;
        gauge(e, "instances_live", "Live instances of all services", None, node.live.now())?;
        gauge(e, "instances_peak", "Most instances live at once since the start", None, node.live.peak())?;
        gauge(e, "instances_limit", "Instances that may be live at once", None, *slots)?;
        states(e, shared)?;
        let bytes = Some(&Unit::Bytes);
        gauge(e, "resident", "Resident memory of the process", bytes, shared.resident.load(Relaxed))?;
        let help = "Resident memory that belongs to no service";
        gauge(e, "resident_unattributed", help, bytes, shared.unattributed.load(Relaxed))?;
        let help = "Services that a restart without the operator would miss: their assignments cannot be kept";
        gauge(e, "services_unkept", help, None, shared.unkept.load(Relaxed))?;
        gauge(
            e,
            "link_connected",
            "1 while a session with the operator is open",
            None,
            u32::from(shared.linked.load(Relaxed)),
        )?;
        let help = "Times that the supervisor started the serving process again";
        let counter = ConstCounter::new(u64::from(*restarts));
        counter.encode(e.encode_descriptor("restarts", help, None, MetricType::Counter)?)?;
        let counter = ConstCounter::new(lines.dropped());
        let help = "Lines of guests' output that were dropped";
        counter.encode(e.encode_descriptor("log_lines_dropped", help, None, MetricType::Counter)?)
    }
}

fn labelled(shared: &Shared) -> Vec<Labelled> {
    let services = shared.services();
    let mut each = services.values().map(|(identity, stats)| (identity, stats.clone()));
    let mut labelled: Vec<Labelled> = each
        .by_ref()
        .take(SERVICES)
        .map(|(identity, stats)| (identity.namespace.clone(), identity.name.clone(), vec![stats]))
        .collect();
    let others: Vec<_> = each.map(|(_, stats)| stats).collect();
    if !others.is_empty() {
        labelled.push((OTHERS.to_owned(), OTHERS.to_owned(), others));
    }
    labelled
}

fn answers(e: &mut DescriptorEncoder<'_>, services: &[Labelled]) -> fmt::Result {
    let mut metric = e.encode_descriptor("requests", "Answers by class of their code", None, MetricType::Counter)?;
    for (namespace, service, stats) in services {
        for (class, code) in ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().enumerate() {
            let count: u64 = stats.iter().filter_map(|s| s.answers.get(class)).map(|n| n.load(Relaxed)).sum();
            let labels = [("namespace", namespace.as_str()), ("service", service), ("code", code)];
            ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn counted(
    e: &mut DescriptorEncoder<'_>,
    services: &[Labelled],
    name: &str,
    help: &str,
    counter: impl Fn(&Stats) -> &AtomicU64,
) -> fmt::Result {
    let mut metric = e.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (namespace, service, stats) in services {
        let count: u64 = stats.iter().map(|s| counter(s).load(Relaxed)).sum();
        ConstCounter::new(count).encode(metric.encode_family(&[("namespace", namespace), ("service", service)])?)?;
    }
    Ok(())
}

/// Only of services that have sent any: most never do.
fn outbound(e: &mut DescriptorEncoder<'_>, services: &[Labelled]) -> fmt::Result {
    let help = "Requests of services to other servers, by how they went";
    let mut metric = e.encode_descriptor("outbound_requests", help, None, MetricType::Counter)?;
    for (namespace, service, stats) in services {
        let sum =
            |count: fn(&Counts) -> &AtomicU64| stats.iter().map(|s| count(&s.outbound).load(Relaxed)).sum::<u64>();
        let counts =
            [("answered", sum(|c| &c.answered)), ("denied", sum(|c| &c.denied)), ("failed", sum(|c| &c.failed))];
        for (result, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            let labels = [("namespace", namespace.as_str()), ("service", service), ("result", result)];
            ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// Only of services of which it is counted: those that are scaled by it.
fn cpu(e: &mut DescriptorEncoder<'_>, services: &[Labelled]) -> fmt::Result {
    let help = "CPU time of the instances of services that are scaled by it";
    let mut metric = e.encode_descriptor("service_cpu", help, Some(&Unit::Seconds), MetricType::Counter)?;
    for (namespace, service, stats) in services {
        let sum: Duration = stats.iter().map(|s| s.in_flight.cpu()).sum();
        if !sum.is_zero() {
            let labels = [("namespace", namespace.as_str()), ("service", service)];
            ConstCounter::new(sum.as_secs_f64()).encode(metric.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn states(e: &mut DescriptorEncoder<'_>, shared: &Shared) -> fmt::Result {
    let help =
        "Services that are known: resident, parked until a request comes, or neither of them (stopped, not loaded)";
    let mut metric = e.encode_descriptor("services", help, None, MetricType::Gauge)?;
    let (resident, parked) = (shared.resident_services.load(Relaxed), shared.parked_services.load(Relaxed));
    let neither = (shared.services().len() as u64).saturating_sub(resident + parked);
    for (state, count) in [("resident", resident), ("parked", parked), ("none", neither)] {
        ConstGauge::new(count).encode(metric.encode_family(&[("state", state)])?)?;
    }
    Ok(())
}

fn per_service(
    e: &mut DescriptorEncoder<'_>,
    services: &[Labelled],
    name: &str,
    help: &str,
    value: impl Fn(&Stats) -> u32,
) -> fmt::Result {
    let mut metric = e.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (namespace, service, stats) in services {
        let sum: u32 = stats.iter().map(|s| value(s)).sum();
        ConstGauge::new(sum).encode(metric.encode_family(&[("namespace", namespace), ("service", service)])?)?;
    }
    Ok(())
}

fn gauge<N>(e: &mut DescriptorEncoder<'_>, name: &str, help: &str, unit: Option<&Unit>, value: N) -> fmt::Result
where
    ConstGauge<N>: EncodeMetric,
{
    ConstGauge::new(value).encode(e.encode_descriptor(name, help, unit, MetricType::Gauge)?)
}

fn histogram<'a>(
    e: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    histograms: impl Iterator<Item = &'a Histogram>,
) -> fmt::Result {
    let mut counts = BUCKETS.map(|end| (end, 0));
    let mut seconds = 0.0;
    for histogram in histograms {
        seconds += histogram.sum().as_secs_f64();
        for (bucket, count) in histogram.counts() {
            let value = value_of(bucket as usize) / 1e6;
            if let Some((_, total)) = counts.iter_mut().find(|(end, _)| value <= *end) {
                *total += count;
            }
        }
    }
    let total = counts.iter().map(|(_, count)| count).sum();
    let mut metric = e.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
    metric.encode_histogram::<NoLabelSet>(seconds, total, &counts, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::service::Identity;

    #[test]
    fn the_text_has_what_was_counted() {
        let shared = Arc::new(Shared::default());
        for n in 0..SERVICES + 5 {
            let stats = Arc::new(Stats::default());
            stats.answered(http::StatusCode::OK);
            stats.instantiate.record(Duration::from_micros(30));
            if n == 1 {
                stats.in_flight.took(Duration::from_millis(1250));
            }
            let identity = Identity { uid: n.to_string(), namespace: "shop".into(), name: format!("s{n}") };
            shared.services().insert(n.to_string(), (identity, stats));
        }
        shared.resident_services.store(1000, Relaxed);
        shared.parked_services.store(3, Relaxed);
        let lines = Lines::start(std::io::sink()).expect("a thread");
        let metrics = Metrics { shared, node: Arc::new(Node::new(1, 1)), lines, slots: 7, restarts: 2 };
        let text = Arc::new(metrics).text().expect("text");
        for line in [
            "podless_shim_requests_total{namespace=\"shop\",service=\"s0\",code=\"2xx\"} 1",
            "podless_shim_requests_total{namespace=\"_others\",service=\"_others\",code=\"2xx\"} 5",
            "podless_shim_instances_limit 7",
            "podless_shim_services{state=\"resident\"} 1000",
            "podless_shim_services{state=\"parked\"} 3",
            "podless_shim_services{state=\"none\"} 2",
            "podless_shim_wakes_total{namespace=\"shop\",service=\"s0\"} 0",
            "podless_shim_instantiate_seconds_bucket{le=\"0.000025\"} 0",
            "podless_shim_instantiate_seconds_bucket{le=\"0.00005\"} 1005",
            "podless_shim_instantiate_seconds_count 1005",
            "podless_shim_service_cpu_seconds_total{namespace=\"shop\",service=\"s1\"} 1.25",
            "podless_shim_resident_bytes 0",
            "podless_shim_restarts_total 2",
            "podless_shim_log_lines_dropped_total 0",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line} in\n{}", &text[text.len().saturating_sub(6000)..]);
        }
        let counted = text.lines().filter(|line| line.starts_with("podless_shim_service_cpu_seconds_total")).count();
        assert_eq!(counted, 1, "of the others it is not counted");
    }
}
