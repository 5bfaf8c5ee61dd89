//! Figure: from a step of load to room for it, from a parked service to 1, 2, … 10 replicas' worth. Measured: IO; told: pure.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{
    bench::Bench,
    kpa::simulate,
    plot::{Chart, Draw, Ink, Line, Panel},
    scaled::{Followed, Scaled, TAKES, TARGET, Windows},
    stats::{Spread, millis, over_time},
    watch::Replicas,
};

const WINDOWS: Windows = Windows { stable: 6, parked_after: 2 };
/// Seconds that a load lasts.
const LASTS: f64 = 6.0;
/// Seconds of a stretch over which latency is looked at.
const STRETCH: f64 = 0.25;

/// A step to one number of replicas' worth of load.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Step {
    pub(crate) replicas: u32,
    /// Requests in flight.
    pub(crate) in_flight: f64,
    /// Milliseconds until status wanted so many.
    pub(crate) desired: Spread,
    /// Milliseconds until so many were placed and served.
    pub(crate) ready: Spread,
    /// Milliseconds until no stretch had a p99 of more than twice the warm one.
    pub(crate) calm: Spread,
    /// Milliseconds of all requests.
    pub(crate) latency: Spread,
    pub(crate) lost: usize,
    /// Milliseconds until a simulated Knative had as many pods ready, if it ever had.
    pub(crate) simulated: Option<f64>,
}

/// The steps, each from a parked service.
pub(crate) async fn measure(bench: &Bench) -> Result<Vec<Step>> {
    let rounds = bench.times(2, 1);
    let wanted: &[u32] = bench.times(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], &[1, 5, 10]);
    let scaled = Scaled::create(bench, "bench-steps", WINDOWS).await?;
    let mut steps = vec![];
    for replicas in wanted.iter().copied() {
        // A little less than fills them, so that chance asks for no further one.
        let in_flight = TARGET * f64::from(replicas) - TARGET / 2.0;
        let (mut desired, mut ready, mut calm, mut latency, mut lost) = (vec![], vec![], vec![], vec![], 0);
        for round in 1..=rounds {
            bench.doing(format!("steps: to {replicas} replicas, round {round} of {rounds}"));
            let seen = scaled.follow(LASTS, move |_| in_flight).await?;
            let goal = i32::try_from(replicas)?;
            let since = |reached: &dyn Fn(&Followed) -> Option<f64>, what| {
                reached(&seen)
                    .map(|at| at * 1000.0)
                    .with_context(|| format!("{replicas} were never {what}: {:?}", seen.replicas))
            };
            let first = |seen: &Followed, of: fn(&Replicas) -> i32| {
                seen.replicas.iter().find(|(_, now)| of(now) >= goal).map(|(at, _)| *at)
            };
            desired.push(since(&|seen| first(seen, |now| now.desired), "wanted")?);
            ready.push(since(&|seen| first(seen, |now| now.ready), "ready")?);
            calm.push(calm_after(&seen) * 1000.0);
            latency.extend(seen.sent.iter().filter_map(|sent| sent.took.clone().ok()));
            lost += seen.sent.iter().filter(|sent| sent.took.is_err()).count();
        }
        steps.push(Step {
            replicas,
            in_flight,
            desired: Spread::of(desired)?,
            ready: Spread::of(ready)?,
            calm: Spread::of(calm)?,
            latency: Spread::of(latency)?,
            lost,
            simulated: simulated(replicas, in_flight),
        });
    }
    scaled.delete().await?;
    Ok(steps)
}

/// The end of the last stretch whose p99 was more than twice the warm one, which is that of the last second.
fn calm_after(seen: &Followed) -> f64 {
    let warm = seen.sent.iter().filter(|sent| sent.at >= LASTS - 1.0).filter_map(|sent| sent.took.clone().ok());
    let warm = Spread::of(warm).map_or(f64::MAX, |warm| warm.p99);
    over_time(&seen.sent, STRETCH).iter().rfind(|stretch| stretch.p99 > 2.0 * warm).map_or(0.0, |stretch| stretch.at)
}

/// Milliseconds until a simulated Knative has so many pods ready.
fn simulated(replicas: u32, in_flight: f64) -> Option<f64> {
    let simulated = simulate(&WINDOWS.kpa(), LASTS, TAKES, |_| in_flight / TAKES);
    simulated.pods.iter().find(|(_, pods)| *pods >= replicas).map(|(at, _)| at * 1000.0)
}

/// In a line.
pub(crate) fn line(steps: &[Step]) -> String {
    let last = steps.last().map(|step| format!("0 to {}: ready after {}", step.replicas, step.ready.tell()));
    let lost: usize = steps.iter().map(|step| step.lost).sum();
    format!("steps: {}; {lost} requests lost", last.unwrap_or_default())
}

/// In the page.
pub(crate) fn tell(steps: &[Step]) -> String {
    let mut out = format!(
        "## From a step of load to room for it\n\n\
         A parked service meets a load at once, of 1 to 10 replicas' worth: {TARGET} requests in flight for each, of 10 that\n\
         one takes ({:.0} ms each, and each on a connection of its own). *Desired* and *ready* are those of `status`, by a\n\
         watch: *ready* ones are placed, and their shims serve. *Calm*: from then on the p99 of each quarter of a second is\n\
         less than twice the warm one. A node serves what arrives before its replicas are placed, so it may be calm before\n\
         they are ready. Beside it the pods of a **simulated** Knative with the same settings, whose pods start in 2 s\n\
         (see below). min / **median** / max of {} rounds.\n\n\
         | replicas | in flight | desired | ready | calm | slowest request | lost | simulated Knative: ready |\n\
         |---|---|---|---|---|---|---|---|\n",
        TAKES * 1000.0,
        steps.first().map_or(0, |step| step.ready.count),
    );
    for Step { replicas, in_flight, desired, ready, calm, latency, lost, simulated } in steps {
        let [desired, ready, calm] = [desired, ready, calm].map(Spread::tell);
        let (slowest, simulated) = (millis(latency.max), simulated.map_or("never".to_owned(), millis));
        out += &format!(
            "| {replicas} | {in_flight:.1} | {desired} | {ready} | {calm} | {slowest} | {lost} | {simulated} |\n"
        );
    }
    out + "\n![Steps](figures/steps.svg)\n\n"
}

/// As a picture.
pub(crate) fn chart(steps: &[Step]) -> Chart {
    let line = |name: &str, ink, of: fn(&Step) -> Option<f64>| {
        let point = |step: &Step| Some((f64::from(step.replicas), of(step)? / 1000.0));
        Line { name: name.to_owned(), ink, draw: Draw::Dots, points: steps.iter().filter_map(point).collect() }
    };
    Chart {
        title: "From a step of load to room for it, from a parked service".to_owned(),
        x: "replicas' worth of load".to_owned(),
        x_powers: false,
        panels: vec![Panel {
            y: "seconds".to_owned(),
            powers: false,
            lines: vec![
                line("desired", Ink::OursToo, |step| Some(step.desired.median)),
                line("ready", Ink::Ours, |step| Some(step.ready.median)),
                line("calm", Ink::Given, |step| Some(step.calm.median)),
                line("simulated Knative, pods start in 2 s: ready", Ink::Other, |step| step.simulated),
            ],
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Sent;

    #[test]
    fn it_is_calm_when_the_last_slow_stretch_is_over() {
        let slow = |at: f64| if at < 1.1 { 900.0 } else { 200.0 };
        let sent = (0..600).map(|n| f64::from(n) / 100.0).map(|at| Sent { at, took: Ok(slow(at)) }).collect();
        let calm = calm_after(&Followed { sent, replicas: vec![] });
        assert!((calm - 1.25).abs() < 1e-9, "{calm}");
        assert!(calm_after(&Followed { sent: vec![], replicas: vec![] }).abs() < 1e-9);
    }

    #[test]
    fn a_simulated_pod_is_not_ready_before_it_has_started() {
        for replicas in 1..=10 {
            let ready = simulated(replicas, TARGET * f64::from(replicas)).expect("there is time enough");
            assert!((2000.0..=8000.0).contains(&ready), "{replicas}: {ready}");
        }
    }
}
