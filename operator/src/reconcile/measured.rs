//! What the shims have measured, for people. In: reports; out: sums, averages and quantiles, and whether they have
//! moved enough to be worth a write. Pure.

use std::collections::HashMap;

use podless_crds::{ColdStart, Density, Quantiles, Shed, WasmServiceStatus};
use podless_link::{
    SHED,
    histogram::{merge, quantile},
    v1::{Histogram, Phases, ServiceReport},
};

/// Bytes that differ by less than this share are the same.
const BYTES: f64 = 0.05;
/// Durations that differ by less than this share are the same: a bucket of the histogram is a tenth wide.
const DURATIONS: f64 = 0.15;

/// The measured part of a service's status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Most instances that were live at once, all nodes together.
    pub instances: i32,
    /// Memory; `None` while no shim has reported the service.
    pub density: Option<Density>,
    /// Cold starts; `None` before the first.
    pub cold_start: Option<ColdStart>,
    /// Requests that were turned away or ended, by reason.
    pub shed: Vec<Shed>,
}

/// A microsecond count for people, by two significant digits: `850µs`, `1.2ms`, `35s`.
pub fn duration(micros: f64) -> String {
    let micros = significant(micros, 2);
    let (value, unit) = match micros {
        m if m < 1e3 => (m, "µs"),
        m if m < 1e6 => (m / 1e3, "ms"),
        m => (m / 1e6, "s"),
    };
    let digits = usize::from(value < 10.0 && value.fract() > 1e-6);
    format!("{value:.digits$}{unit}")
}

/// Reads what [`duration`] has written.
fn micros(text: &str) -> Option<f64> {
    let unit = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let factor = match &text[unit..] {
        "µs" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return None,
    };
    Some(text[..unit].parse::<f64>().ok()? * factor)
}

/// Rounded to this many significant digits.
pub fn significant(value: f64, digits: i32) -> f64 {
    if value.is_nan() || value <= 0.0 {
        return 0.0;
    }
    let unit = 10f64.powi(value.log10().floor() as i32 + 1 - digits);
    if unit >= 1.0 { (value / unit).round() * unit } else { (value * unit.recip()).round() / unit.recip() }
}

/// A count or size for status, rounded.
pub fn rounded(value: u64, digits: i32) -> i64 {
    significant(value as f64, digits) as i64
}

/// Median and 99th percentile of histograms put together; for several phases in a row, of each, summed up. The sum of
/// percentiles is the percentile of the sum only when the phases are slow together: it is never too small.
pub fn quantiles<'a>(phases: impl IntoIterator<Item = Vec<&'a Histogram>>) -> Option<Quantiles> {
    let mut sum = None;
    for histograms in phases {
        let mut counts = HashMap::new();
        for histogram in histograms {
            merge(&mut counts, &histogram.counts);
        }
        if let (Some(p50), Some(p99)) = (quantile(&counts, 0.5), quantile(&counts, 0.99)) {
            let (sum50, sum99) = sum.unwrap_or((0.0, 0.0));
            sum = Some((sum50 + p50, sum99 + p99));
        }
    }
    sum.map(|(p50, p99)| Quantiles { p50: duration(p50), p99: duration(p99) })
}

/// What all shims together have measured of one service.
pub fn measure(reports: &[&ServiceReport]) -> Measured {
    if reports.is_empty() {
        return Measured::default();
    }
    let sum = |of: fn(&ServiceReport) -> u64| reports.iter().fold(0u64, |all, r| all.saturating_add(of(r)));
    let peak = sum(|r| u64::from(r.peak_instances));
    // Each shim's average counts by how many instances it is an average of.
    let weight = |r: &ServiceReport| f64::from(r.peak_instances.max(1));
    let weighed: Vec<_> = reports.iter().filter(|r| r.bytes_per_instance > 0).collect();
    let total: f64 = weighed.iter().map(|r| weight(r)).sum();
    let average: f64 = weighed.iter().map(|r| r.bytes_per_instance as f64 * weight(r) / total).sum();
    let cold_starts = sum(|r| r.cold_starts);
    let phase = |of: fn(&Phases) -> Option<&Histogram>| -> Vec<&Histogram> {
        reports.iter().filter_map(|r| of(r.phases.as_ref()?)).collect()
    };
    let load = || quantiles([phase(|p| p.fetch.as_ref()), phase(|p| p.load.as_ref()), phase(|p| p.link.as_ref())]);
    Measured {
        instances: i32::try_from(rounded(peak, 2)).unwrap_or(i32::MAX),
        density: Some(Density {
            nodes: i32::try_from(reports.len()).unwrap_or(i32::MAX),
            resident_bytes: rounded(sum(|r| r.resident_bytes), 3),
            bytes_per_instance: (total > 0.0).then(|| significant(average, 3) as i64),
        }),
        cold_start: (cold_starts > 0).then(|| ColdStart {
            count: rounded(cold_starts, 2),
            load: load(),
            instantiate: quantiles([phase(|p| p.instantiate.as_ref())]),
            first_byte: quantiles([phase(|p| p.first_byte.as_ref())]),
        }),
        shed: shed(reports),
    }
}

/// Only reasons that there are: what comes from a node is not believed blindly. One digit, so that it is rarely news.
fn shed(reports: &[&ServiceReport]) -> Vec<Shed> {
    let count =
        |reason: &str| reports.iter().filter_map(|r| r.shed.get(reason)).fold(0u64, |n, m| n.saturating_add(*m));
    let each = SHED.into_iter().map(|reason| Shed { reason: reason.to_owned(), count: rounded(count(reason), 1) });
    each.filter(|shed| shed.count > 0).collect()
}

impl Measured {
    /// The measured part of a status.
    pub fn of(status: &WasmServiceStatus) -> Self {
        Self {
            instances: status.instances,
            density: status.density.clone(),
            cold_start: status.cold_start.clone(),
            shed: status.shed.clone(),
        }
    }

    /// Whether this is news to somebody who knows `old`.
    pub fn moved_from(&self, old: &Self) -> bool {
        let Self { instances, density, cold_start, shed } = self;
        let density_moved = match (density, &old.density) {
            (Some(new), Some(old)) => {
                let Density { nodes, resident_bytes, bytes_per_instance } = new;
                *nodes != old.nodes
                    || bytes_moved(*resident_bytes, old.resident_bytes)
                    || bytes_moved(bytes_per_instance.unwrap_or(0), old.bytes_per_instance.unwrap_or(0))
            }
            (None, None) => false,
            _ => true,
        };
        let cold_moved = match (cold_start, &old.cold_start) {
            (Some(new), Some(old)) => {
                let ColdStart { count, load, instantiate, first_byte } = new;
                *count != old.count
                    || quantiles_moved(load.as_ref(), old.load.as_ref())
                    || quantiles_moved(instantiate.as_ref(), old.instantiate.as_ref())
                    || quantiles_moved(first_byte.as_ref(), old.first_byte.as_ref())
            }
            (None, None) => false,
            _ => true,
        };
        *instances != old.instances || density_moved || cold_moved || *shed != old.shed
    }
}

/// Whether a size has moved by more than people care about.
pub fn bytes_moved(new: i64, old: i64) -> bool {
    moved(new as f64, old as f64, BYTES)
}

fn moved(new: f64, old: f64, share: f64) -> bool {
    (new - old).abs() > share * old.abs()
}

/// Whether quantiles have moved by more than people care about.
pub fn quantiles_moved(new: Option<&Quantiles>, old: Option<&Quantiles>) -> bool {
    let (Some(new), Some(old)) = (new, old) else { return new != old };
    [(&new.p50, &old.p50), (&new.p99, &old.p99)].into_iter().any(|(new, old)| match (micros(new), micros(old)) {
        (Some(new), Some(old)) => moved(new, old, DURATIONS),
        _ => new != old,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use podless_link::histogram::bucket_of;
    use proptest::prelude::*;

    #[test]
    fn durations_for_people() {
        for (micros, want) in [
            (0.0, "0µs"),
            (7.0, "7µs"),
            (93.4, "93µs"),
            (847.0, "850µs"),
            (999.0, "1ms"),
            (1234.0, "1.2ms"),
            (12_345.0, "12ms"),
            (2e6, "2s"),
            (61.4e6, "61s"),
        ] {
            assert_eq!(duration(micros), want, "{micros}");
        }
    }

    proptest! {
        #[test]
        fn a_duration_is_read_as_it_was_written(value in 1.0..4e9f64) {
            let text = duration(value);
            let read = micros(&text).expect("its own text");
            prop_assert!((read - value).abs() <= value * 0.051, "{value} became {text}");
            prop_assert_eq!(duration(read), text);
        }

        #[test]
        fn rounding_keeps_its_digits(value in 1..u64::MAX / 2) {
            let error = (rounded(value, 2) as f64 - value as f64).abs();
            prop_assert!(error <= value as f64 * 0.051);
            if value < 100 {
                prop_assert_eq!(rounded(value, 2), value as i64);
            }
        }
    }

    fn histogram(micros: &[u64]) -> Option<Histogram> {
        let mut counts = HashMap::new();
        for &m in micros {
            merge(&mut counts, &HashMap::from([(bucket_of(m) as u32, 1)]));
        }
        Some(Histogram { counts })
    }

    fn report(peak: u32, bytes_per_instance: u64, cold_starts: u64, first_byte: &[u64]) -> ServiceReport {
        let phases = Phases {
            fetch: histogram(&[8000]),
            load: histogram(&[1000]),
            link: histogram(&[1000]),
            instantiate: histogram(first_byte),
            first_byte: histogram(first_byte),
        };
        ServiceReport {
            service_uid: "u".into(),
            resident_bytes: 1_000_000,
            bytes_per_instance,
            peak_instances: peak,
            cold_starts,
            phases: Some(phases),
            ..Default::default()
        }
    }

    #[test]
    fn shims_are_put_together() {
        let reports = [report(3, 40_000, 2, &[100, 200]), report(1, 80_000, 1, &[300])];
        let measured = measure(&reports.each_ref());
        assert_eq!(measured.instances, 4);
        let density = measured.density.expect("a density");
        assert_eq!((density.nodes, density.resident_bytes), (2, 2_000_000));
        assert_eq!(density.bytes_per_instance, Some(50_000), "weighed by instances");
        let cold = measured.cold_start.expect("cold starts");
        assert_eq!(cold.count, 3);
        assert_eq!(cold.load.expect("a load").p50, "9.9ms", "fetch + load + link");
        let first = cold.first_byte.expect("first bytes");
        assert_eq!((first.p50.as_str(), first.p99.as_str()), ("200µs", "300µs"));
        assert_eq!(measure(&[]), Measured::default());
    }

    #[test]
    fn what_was_shed_is_told_by_one_digit_and_by_the_names_that_there_are() {
        let report = |counts: &[(&str, u64)]| ServiceReport {
            shed: counts.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
            ..Default::default()
        };
        let reports =
            [report(&[("timeout", 31), ("busy", 0)]), report(&[("timeout", 3), ("memory", 7), ("made up", 9)])];
        let measured = measure(&reports.each_ref());
        let shed = |reason: &str, count| Shed { reason: reason.to_owned(), count };
        assert_eq!(measured.shed, [shed("memory", 7), shed("timeout", 30)]);
        let now = |timeouts| [report(&[("timeout", timeouts)]), report(&[("memory", 7)])];
        let moved = |timeouts| measure(&now(timeouts).each_ref()).moved_from(&measured);
        assert!(!moved(32) && moved(36));
    }

    #[test]
    fn only_news_is_news() {
        let base = measure(&[&report(3, 40_000, 300, &[100])]);
        let differs = |report: ServiceReport| measure(&[&report]).moved_from(&base);
        assert!(!differs(report(3, 40_000, 300, &[100])));
        assert!(!differs(report(3, 41_000, 301, &[105])), "within rounding");
        assert!(differs(report(4, 40_000, 300, &[100])), "instances");
        assert!(differs(report(3, 50_000, 300, &[100])), "bytes");
        assert!(differs(report(3, 40_000, 310, &[100])), "count");
        assert!(differs(report(3, 40_000, 300, &[150])), "duration");
        assert!(Measured::default().moved_from(&base) && base.moved_from(&Measured::default()));
    }
}
