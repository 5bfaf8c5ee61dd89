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
        refusal::Refusal,
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
        refused(e, &services)?;
        counted(e, &services, "wakes", "Loads that a request to a parked service had begun", |s| &s.wakes)?;
        outbound(e, &services)?;
        cpu(e, &services)?;
        memory(e, &services)?;
        counted(e, &services, "cold_starts", "Requests that had to load or to make an instance", |s| &s.cold_starts)?;
        histogram(e, "fetch", "Time to receive and verify an artifact", everything.iter().map(|s| &s.fetch))?;
        histogram(e, "load", "Time to map an artifact", everything.iter().map(|s| &s.load))?;
        histogram(e, "link", "Time to resolve a component's imports", everything.iter().map(|s| &s.link))?;
        histogram(e, "instantiate", "Time to make an instance", everything.iter().map(|s| &s.instantiate))?;
        let help = "Time from a request's first byte to its answer's";
        histogram(e, "first_byte", help, everything.iter().map(|s| &s.first_byte))?;
        gauge(e, "instances_live", "Live instances of all services", None, node.live.now())?;
        gauge(e, "instances_peak", "Most instances live at once since the start", None, node.live.peak())?;
        gauge(e, "instances_limit", "Instances that may be live at once", None, *slots)?;
        let bytes = Some(&Unit::Bytes);
        let help = "Linear memory of all instances that counts: of each what is beyond its first 2 MiB";
        let (held, limit) = node.memory.held();
        gauge(e, "linear_memory_counted", help, bytes, held)?;
        let help = "Linear memory that all instances may have together";
        gauge(e, "linear_memory_limit", help, bytes, limit)?;
        states(e, shared)?;
        gauge(e, "resident", "Resident memory of the process", bytes, shared.resident.load(Relaxed))?;
        let help = "Resident memory that belongs to no service";
        gauge(e, "resident_unattributed", help, bytes, shared.unattributed.load(Relaxed))?;
        let help = "Services that a restart without the operator would miss: their assignments cannot be kept";
        gauge(e, "services_unkept", help, None, shared.unkept.load(Relaxed))?;
        let help = "Times that an idle service was parked because there was no room for more code";
        let counter = ConstCounter::new(shared.evictions.load(Relaxed));
        counter.encode(e.encode_descriptor("evictions", help, None, MetricType::Counter)?)?;
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

/// Only where there are any: of most services there never are.
fn refused(e: &mut DescriptorEncoder<'_>, services: &[Labelled]) -> fmt::Result {
    let help = "Answers of the shim's own, by reason: the name in their Podless-Error header";
    let mut metric = e.encode_descriptor("requests_refused", help, None, MetricType::Counter)?;
    for (namespace, service, stats) in services {
        let mut counts = Refusal::ALL.map(|refusal| (refusal, 0));
        for stats in stats {
            counts.iter_mut().zip(stats.refusals()).for_each(|(sum, (_, count))| sum.1 += count);
        }
        for (refusal, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            let labels = [("namespace", namespace.as_str()), ("service", service), ("reason", refusal.facts().name)];
            ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn memory(e: &mut DescriptorEncoder<'_>, services: &[Labelled]) -> fmt::Result {
    let help = "Linear memory of live instances";
    let mut metric = e.encode_descriptor("service_linear_memory", help, Some(&Unit::Bytes), MetricType::Gauge)?;
    for (namespace, service, stats) in services {
        let sum: u64 = stats.iter().map(|s| s.memory.load(Relaxed)).sum();
        ConstGauge::new(sum).encode(metric.encode_family(&[("namespace", namespace), ("service", service)])?)?;
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

/// Only of services that have taken any.
fn cpu(e: &mut DescriptorEncoder<'_>, services: &[Labelled]) -> fmt::Result {
    let help = "CPU time of a service's instances";
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

    /// Whether a sample of this name is the family's.
    fn is_of(name: &str, family: &str) -> bool {
        name.strip_prefix(family).is_some_and(|suffix| ["", "_total", "_sum", "_count", "_bucket"].contains(&suffix))
    }

    /// A row for each family: its name with its type's suffix, type, unit, labels and what it says.
    fn table(text: &str) -> Vec<String> {
        let families = text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '));
        families
            .map(|(family, help)| {
                let about = |word: &str| {
                    let start = format!("# {word} {family} ");
                    text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or("")
                };
                let suffix = if about("TYPE") == "counter" { "_total" } else { "" };
                let sample = |line: &&str| line.split(['{', ' ']).next().is_some_and(|name| is_of(name, family));
                let mut samples = text.lines().filter(sample).map(|line| {
                    let labels = line.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
                    labels.map_or("", |(labels, _)| labels).split("\",").filter_map(|label| label.split_once('='))
                });
                let labels = samples.next().unwrap_or_else(|| panic!("{family} has no sample"));
                let labels: Vec<_> = labels.map(|(name, _)| name).filter(|name| *name != "le").collect();
                let help = help.trim_end_matches('.');
                let (kind, unit) = (about("TYPE"), about("UNIT"));
                format!("| `{family}{suffix}` | {kind} | {unit} | {} | {help} |", labels.join(", "))
            })
            .collect()
    }

    #[test]
    fn the_documented_table_is_this_one() {
        let shared = Arc::new(Shared::default());
        let stats = Arc::new(Stats::default());
        stats.refused(Refusal::Busy);
        stats.outbound.denied.fetch_add(1, Relaxed);
        stats.in_flight.took(Duration::from_millis(1));
        stats.instantiate.record(Duration::from_micros(30));
        let identity = Identity { uid: "u".into(), namespace: "shop".into(), name: "cart".into() };
        shared.services().insert("u".into(), (Arc::new(identity), stats));
        let lines = Lines::start(std::io::sink()).expect("a thread");
        let node = Arc::new(Node::new(1, 1 << 30, 1));
        let text = Arc::new(Metrics { shared, node, lines, slots: 7, restarts: 2 }).text().expect("text");
        let ours = table(&text);
        let documented =
            include_str!("../../docs/metrics.md").lines().filter(|line| line.starts_with("| `podless_shim"));
        let wanted = ours.join("\n");
        assert_eq!(
            documented.collect::<Vec<_>>().join("\n"),
            wanted,
            "docs/metrics.md should have these rows:\n{wanted}"
        );
    }

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
            shared.services().insert(n.to_string(), (Arc::new(identity), stats));
        }
        shared.resident_services.store(1000, Relaxed);
        shared.parked_services.store(3, Relaxed);
        let lines = Lines::start(std::io::sink()).expect("a thread");
        let metrics = Metrics { shared, node: Arc::new(Node::new(1, 1 << 30, 1)), lines, slots: 7, restarts: 2 };
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
