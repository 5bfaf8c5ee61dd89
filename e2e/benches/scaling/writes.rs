//! Figure: what Podless writes to the API server while a load is steady. Measured: IO, from the audit log; told: pure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use k8s_openapi::jiff::Timestamp;
use podless_e2e::RELEASE_NAMESPACE;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    bench::{Bench, is_awake, is_parked, names, register, targets, until},
    client::{ITEM, in_turn, load},
};

const SERVICES: usize = 20;
/// Requests a second, all services together.
const RATE: f64 = 60.0;
/// Seconds of the load before it is looked at: by then every replica is where it belongs.
const BEFORE: f64 = 20.0;
const PATIENCE: Duration = Duration::from_secs(120);

/// Writes within a minute.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Writes {
    pub(crate) services: usize,
    pub(crate) requests_a_second: f64,
    /// Seconds that were looked at.
    pub(crate) seconds: f64,
    /// Writes by verb and resource.
    pub(crate) by: BTreeMap<String, usize>,
    pub(crate) lost: usize,
}

/// Sends a constant load and reads the audit log afterwards.
pub(crate) async fn measure(bench: &Bench) -> Result<Writes> {
    let seconds = bench.times(60.0, 15.0);
    let namespace = bench.cluster.namespace("bench-writes").await?;
    let image = bench.cluster.registry.push_guest("crud", "bench/writes:1").await?;
    let names = names(SERVICES);
    register(&namespace, &names, |_| json!({"image": image})).await?;
    until(&namespace, "parked", SERVICES, PATIENCE, is_parked).await?;
    let targets = targets(&namespace, &names).await?;
    in_turn(&targets, ITEM, 1).await?;
    until(&namespace, "awake", SERVICES, PATIENCE, is_awake).await?;
    bench.doing(format!("writes: {:.0} s of a steady load", BEFORE + seconds));
    let begin = Timestamp::now() + Duration::from_secs_f64(BEFORE);
    let end = begin + Duration::from_secs_f64(seconds);
    let sent = load(targets, ITEM, BEFORE + seconds, Instant::now(), |_| RATE).await?;
    let log = tokio::fs::read_to_string(bench.cluster.harness(&["audit"]).await?).await?;
    namespace.delete().await?;
    Ok(Writes {
        services: SERVICES,
        requests_a_second: RATE,
        seconds,
        by: writes_between(&log, begin, end)?,
        lost: sent.iter().filter(|sent| sent.took.is_err()).count(),
    })
}

/// The writes of the release's accounts, by verb and resource.
fn writes_between(log: &str, begin: Timestamp, end: Timestamp) -> Result<BTreeMap<String, usize>> {
    let account = format!("system:serviceaccount:{RELEASE_NAMESPACE}:");
    let mut by = BTreeMap::new();
    // The last line may be being written.
    for line in log.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let entry: Value = serde_json::from_str(line)?;
        let at: Timestamp = entry["requestReceivedTimestamp"].as_str().context("a time")?.parse()?;
        let ours = entry["user"]["username"].as_str().is_some_and(|name| name.starts_with(&account));
        if !ours || at < begin || at >= end {
            continue;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (resource, sub) = (text(&entry["objectRef"]["resource"]), text(&entry["objectRef"]["subresource"]));
        let resource = if sub.is_empty() { resource } else { format!("{resource}/{sub}") };
        *by.entry(format!("{} {resource}", text(&entry["verb"]))).or_insert(0) += 1;
    }
    Ok(by)
}

impl Writes {
    fn a_minute(&self) -> f64 {
        self.by.values().sum::<usize>() as f64 * 60.0 / self.seconds
    }

    /// In a line.
    pub(crate) fn line(&self) -> String {
        format!("writes: {:.0} a minute with {} services under load", self.a_minute(), self.services)
    }

    /// In the page.
    pub(crate) fn tell(&self) -> String {
        let mut out = format!(
            "## Writes to the API server\n\n\
             {} services that follow their load get {} requests a second together, {:.0} s long. The API server's audit log has\n\
             what the accounts of Podless wrote meanwhile: **{:.1} writes a minute**, {:.2} for each service. Shims write nothing,\n\
             they have no rights. {} requests were lost.\n\n| write | a minute |\n|---|---|\n",
            self.services,
            self.requests_a_second,
            self.seconds,
            self.a_minute(),
            self.a_minute() / self.services as f64,
            self.lost,
        );
        for (what, count) in &self.by {
            out += &format!("| {what} | {:.1} |\n", *count as f64 * 60.0 / self.seconds);
        }
        out + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_release_wrote_in_that_time_counts() -> Result<()> {
        let line = |user: &str, second: u32, sub: &str| {
            let at = format!("2026-01-01T00:00:{second:02}.5Z");
            let reference = json!({"resource": "wasmservices", "subresource": sub});
            json!({"user": {"username": user}, "requestReceivedTimestamp": at, "verb": "patch", "objectRef": reference})
        };
        let ours = format!("system:serviceaccount:{RELEASE_NAMESPACE}:podless-operator");
        let lines = [
            line(&ours, 9, ""),
            line(&ours, 10, ""),
            line(&ours, 11, "status"),
            line(&ours, 19, "status"),
            line("kubernetes-admin", 12, ""),
            line(&ours, 20, ""),
        ];
        let log: String = lines.iter().map(|line| format!("{line}\n")).collect::<String>() + "{\"half";
        let time = |second: u32| format!("2026-01-01T00:00:{second:02}Z").parse();
        let by = writes_between(&log, time(10)?, time(20)?)?;
        assert_eq!(
            by,
            [("patch wasmservices", 1), ("patch wasmservices/status", 2)].map(|(w, n)| (w.to_owned(), n)).into()
        );
        Ok(())
    }
}
