//! The report to the operator: counters, what is resident and what is trusted in, one message out. Pure.

use std::{collections::HashMap, sync::atomic::Ordering::Relaxed};

use podless_link::v1;

use super::{Entry, resident::Resident};
use crate::serve::stats::Level;

/// Composes the report. An artifact's bytes are shared out evenly among the services that run it.
pub(super) fn compose<'a>(
    entries: impl Iterator<Item = (&'a String, &'a mut Entry)>,
    resident: &Resident,
    live: &Level,
    trust: String,
) -> v1::Report {
    let entries: Vec<_> = entries.collect();
    let mut sharers: HashMap<String, u64> = HashMap::new();
    for (_, entry) in &entries {
        if let Some(file) = entry.serving.as_ref().and_then(super::Serving::file) {
            *sharers.entry(file).or_default() += 1;
        }
    }
    let services: Vec<_> = entries
        .into_iter()
        .map(|(uid, entry)| {
            let file = entry.serving.as_ref().and_then(super::Serving::file).unwrap_or_default();
            let share = resident.artifacts.get(&file).copied().unwrap_or_default();
            if let Some(one) = share.memory.checked_div(share.slots) {
                entry.bytes_per_instance = entry.bytes_per_instance.max(one);
            }
            let stats = &entry.stats;
            v1::ServiceReport {
                service_uid: uid.clone(),
                generation: entry.proven().map_or(0, |serving| serving.order.generation),
                resident_bytes: share.bytes() / sharers.get(&file).copied().unwrap_or(1),
                bytes_per_instance: entry.bytes_per_instance,
                live_instances: stats.instances.now(),
                peak_instances: stats.instances.peak(),
                in_flight: stats.in_flight.now(),
                requests: stats.requests(),
                rejected: stats.rejected(),
                cold_starts: stats.cold_starts.load(Relaxed),
                phases: Some(stats.phases()),
                shed: stats.shed(),
            }
        })
        .collect();
    let attributed = services.iter().map(|service| service.resident_bytes).sum();
    v1::Report {
        memory: Some(v1::Memory {
            resident_bytes: resident.total,
            unattributed_bytes: resident.total.saturating_sub(attributed),
        }),
        live_instances: live.now(),
        peak_instances: live.peak(),
        services,
        trust,
    }
}
