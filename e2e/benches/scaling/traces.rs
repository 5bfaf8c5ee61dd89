//! Figure: replicas and latency over time while a load comes and goes, beside a simulated Knative under the same load.
//! Measured: IO; told: pure.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{
    bench::Bench,
    kpa::simulate,
    plot::{Chart, Draw, Ink, Line, Panel},
    scaled::{Scaled, TAKES, TARGET, Windows},
    shapes::{SECONDS, SHAPES, Shape},
    stats::{Sent, Spread, Stretch, millis, over_time},
};

/// The default window of a minute, as compressed as the loads are.
const WINDOWS: Windows = Windows { stable: 12, parked_after: 12 };

/// What became of one load.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Run {
    /// Replicas that serve, since when, in seconds.
    pub(crate) replicas: Vec<(f64, f64)>,
    /// Latency in milliseconds, second by second.
    pub(crate) over_time: Vec<Stretch>,
    /// Latency in milliseconds of all requests.
    pub(crate) latency: Spread,
    pub(crate) lost: usize,
    /// Why the first was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) first_lost: Option<String>,
    pub(crate) most: f64,
    /// Replicas, on average over the time of the load.
    pub(crate) mean: f64,
}

/// One load, and both runs.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Trace {
    pub(crate) name: String,
    /// Replicas that the load fills as they are to be, by seconds.
    pub(crate) needed: Vec<(f64, f64)>,
    pub(crate) podless: Run,
    /// No measurement.
    pub(crate) simulated: Run,
}

/// Plays each shape.
pub(crate) async fn measure(bench: &Bench) -> Result<Vec<Trace>> {
    let (shapes, seconds) = bench.times((&SHAPES[..], SECONDS), (&SHAPES[..2], 25.0));
    let scaled = Scaled::create(bench, "bench-traces", WINDOWS).await?;
    let mut traces = vec![];
    for Shape { name, in_flight } in shapes.iter().copied() {
        bench.doing(format!("traces: {name}, {seconds:.0} s"));
        let seen = scaled.follow(seconds, in_flight).await?;
        let replicas = seen.replicas.iter().map(|(at, now)| (*at, f64::from(now.ready))).collect();
        let model = simulate(&WINDOWS.kpa(), seconds, TAKES, |at| in_flight(at) / TAKES);
        let pods = model.pods.iter().map(|(at, pods)| (*at, f64::from(*pods))).collect();
        let times = (0..=(seconds * 4.0) as u32).map(|quarter| f64::from(quarter) / 4.0);
        traces.push(Trace {
            name: name.to_owned(),
            needed: times.map(|at| (at, in_flight(at) / TARGET)).collect(),
            podless: run(replicas, &seen.sent, seconds)?,
            simulated: run(pods, &model.sent, seconds)?,
        });
    }
    scaled.delete().await?;
    Ok(traces)
}

/// Sums up a run; what happens after the load is left out.
fn run(mut replicas: Vec<(f64, f64)>, sent: &[Sent], seconds: f64) -> Result<Run> {
    replicas.retain(|(at, _)| *at <= seconds);
    let ends = replicas.iter().skip(1).map(|(at, _)| *at).chain([seconds]);
    let held: f64 = replicas.iter().zip(ends).map(|((since, count), until)| count * (until - since)).sum();
    let mut lost = sent.iter().filter_map(|sent| sent.took.clone().err());
    let first_lost = lost.next();
    Ok(Run {
        over_time: over_time(sent, 1.0),
        latency: Spread::of(sent.iter().filter_map(|sent| sent.took.clone().ok()))?,
        lost: usize::from(first_lost.is_some()) + lost.count(),
        first_lost,
        most: replicas.iter().map(|(_, count)| *count).fold(0.0, f64::max),
        mean: held / seconds,
        replicas,
    })
}

/// In a line.
pub(crate) fn line(traces: &[Trace]) -> String {
    let sent: usize = traces.iter().map(|trace| trace.podless.latency.count + trace.podless.lost).sum();
    let lost: usize = traces.iter().map(|trace| trace.podless.lost).sum();
    format!("traces: {} shapes, {lost} of {sent} requests lost", traces.len())
}

/// In the page.
pub(crate) fn tell(traces: &[Trace]) -> String {
    let mut out = format!(
        "## While a load comes and goes\n\n\
         Loads of a minute each, on the same service: a replica takes 10 requests in flight and is to have {TARGET}; each\n\
         takes {:.0} ms. The window is {} s, as compressed as the loads are, for both; the panic window 2 s.\n\n\
         **The Knative beside it is simulated** (`e2e/benches/scaling/kpa.rs`), not measured: its autoscaler's decision\n\
         every 2 s, on pods that start in 2 s, with an ideal activator and a network that takes no time. Real ones are\n\
         slower. Its time between decisions and its pods' start are not compressed, and so weigh more than with a whole\n\
         window: requests that wait for the first pods count, and ask for more of them.\n\n\
         | load | | p50 | p99 | slowest | lost | most replicas | replicas on average |\n|---|---|---|---|---|---|---|---|\n",
        TAKES * 1000.0,
        WINDOWS.stable
    );
    for Trace { name, podless, simulated, .. } in traces {
        for (who, run) in [("Podless", podless), ("Knative, simulated", simulated)] {
            let Run { latency: Spread { median, p99, max, count, .. }, lost, most, mean, .. } = run;
            let [median, p99, max] = [*median, *p99, *max].map(millis);
            let lost = format!("{lost} of {}", count + lost);
            out += &format!("| {name} | {who} | {median} | **{p99}** | {max} | {lost} | {most} | {mean:.1} |\n");
        }
    }
    out.push('\n');
    for Trace { name, .. } in traces {
        out += &format!("![{name}](figures/trace-{name}.svg)\n\n");
    }
    out + KNATIVE
}

/// What Knative says of itself, and where.
const KNATIVE: &str = "\
Knative's own load test ([source](https://github.com/knative/serving/blob/0d73dfe0f295b9ce6bdb9755d88a1c845b4b82a8/test/performance/benchmarks/load-test/main.go))\n\
sends 1,000, then 2,000, then 3,000 requests a second of 100 ms each, two minutes of each, to a service at zero. It passes when\n\
the p95 of all of them is at most 115 ms, the slowest takes at most 10 s, and none fails. These are the limits that it must\n\
keep, on a cluster of its own; this machine is too small for that load.\n\n";

impl Trace {
    /// As a picture.
    pub(crate) fn chart(&self) -> Chart {
        let line = |name: &str, ink, draw, points: Vec<(f64, f64)>| Line { name: name.to_owned(), ink, draw, points };
        let p99 = |run: &Run| run.over_time.iter().map(|stretch| (stretch.at, stretch.p99)).collect();
        Chart {
            title: format!("Load: {}", self.name),
            x: "seconds".to_owned(),
            x_powers: false,
            panels: vec![
                Panel {
                    y: "replicas".to_owned(),
                    powers: false,
                    lines: vec![
                        line("the load needs", Ink::Given, Draw::Area, self.needed.clone()),
                        line("Knative, simulated", Ink::Other, Draw::Steps, self.simulated.replicas.clone()),
                        line("Podless", Ink::Ours, Draw::Steps, self.podless.replicas.clone()),
                    ],
                },
                Panel {
                    y: "p99 of a second, ms".to_owned(),
                    powers: true,
                    lines: vec![
                        line("Knative, simulated", Ink::Other, Draw::Joined, p99(&self.simulated)),
                        line("Podless", Ink::Ours, Draw::Joined, p99(&self.podless)),
                    ],
                },
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_counts_what_was_held_and_what_was_lost() -> Result<()> {
        let sent = [Ok(200.0), Err("refused".to_owned()), Err("reset".to_owned())].map(|took| Sent { at: 1.0, took });
        let run = run(vec![(0.0, 0.0), (5.0, 4.0), (8.0, 2.0), (12.0, 9.0)], &sent, 10.0)?;
        assert_eq!((run.lost, run.first_lost.as_deref(), run.latency.count), (2, Some("refused"), 1));
        assert!((run.mean - 1.6).abs() < 1e-9, "4 for 3 s and 2 for 2 s, in 10 s: {}", run.mean);
        assert!((run.most - 4.0).abs() < 1e-9, "what comes after the load does not count");
        Ok(())
    }
}
