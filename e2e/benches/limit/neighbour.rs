//! Figure: a service beside neighbours that compute for ever. Measured: IO; told: pure.

use std::time::Duration;

use anyhow::{Result, ensure};
use podless_e2e::figures::{
    plot::{Chart, Draw, Ink, Line, Panel},
    stats::{Sent, Stretch, millis, over_time},
};
use podless_link::v1::Assignment;
use serde::{Deserialize, Serialize};

use super::{
    Bench,
    cores::on,
    crud::item,
    guests::{CRUD, PROBE},
    load::{self, Load, request},
    operator::Operator,
    shim::{Shim, address},
};

/// Latency over time of a service whose neighbours get loud.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Neighbour {
    /// Requests that compute for ever, all at once.
    pub(crate) loops: usize,
    /// Seconds since the start: when these come, and when their time is over.
    pub(crate) from: f64,
    pub(crate) until: f64,
    pub(crate) over_time: Vec<Stretch>,
}

const LOOPS: usize = 100;
/// Connections of the service that is looked at.
const CONNECTIONS: usize = 8;

/// Loads a service, and lets the neighbours loose for the middle third.
pub(crate) async fn measure(bench: &Bench) -> Result<Neighbour> {
    let operator = Operator::start().await?;
    let _shim = Shim::start(&operator, Some(bench.cores.server)).await?;
    let third = bench.time(5.0, 1.5);
    let quiet = operator.assignment("quiet", &CRUD.code()?, 20_000)?;
    let loud = operator.assignment("loud", &PROBE.code()?, 20_001)?;
    let millis = u64::try_from(third.as_millis())?;
    let loud = Assignment { timeout_millis: millis, namespace: "loud".to_owned(), ..loud };
    operator.assign(&[quiet, loud]).await?;
    let load = Load { address: address(20_000), request: item(), connections: CONNECTIONS, time: third * 3 };
    let asked = on(Some(bench.cores.client), move || load::run(&load));
    let loops = async {
        tokio::time::sleep(third).await;
        on(None, || load::hold(address(20_001), &request("GET", "/spin", b""), LOOPS)).await
    };
    let (outcome, held) = tokio::join!(asked, loops);
    let (outcome, _held) = (outcome?, held?);
    ensure!(outcome.failures == 0, "{} requests failed", outcome.failures);
    let sent: Vec<_> =
        outcome.answers.iter().map(|(at, took)| Sent { at: f64::from(*at), took: Ok(f64::from(*took)) }).collect();
    let stretch = Duration::from_millis(250).as_secs_f64();
    let (from, until) = (third.as_secs_f64(), 2.0 * third.as_secs_f64());
    Ok(Neighbour { loops: LOOPS, from, until, over_time: over_time(&sent, stretch) })
}

impl Neighbour {
    /// Latency before, and while they compute: the middle of the stretches' p99.
    fn p99(&self) -> [f64; 2] {
        let middle = |from: f64, until: f64| {
            let inside = |stretch: &&Stretch| stretch.at > from + 0.25 && stretch.at <= until;
            let mut all: Vec<_> = self.over_time.iter().filter(inside).map(|stretch| stretch.p99).collect();
            all.sort_by(f64::total_cmp);
            all.get(all.len() / 2).copied().unwrap_or_default()
        };
        [middle(0.0, self.from), middle(self.from, self.until)]
    }

    /// In a line.
    pub(crate) fn line(&self) -> String {
        let [before, while_loud] = self.p99().map(millis);
        format!("beside {} loops without an end: p99 {while_loud}, before {before}", self.loops)
    }

    /// In the page.
    pub(crate) fn tell(&self) -> String {
        let [before, while_loud] = self.p99();
        format!(
            "## Noisy neighbours\n\n\
             [crud](../../examples/crud) with {CONNECTIONS} connections that ask all the time, on one core; after a third of the time a\n\
             service of another namespace gets {} requests that compute for ever, until their time is over at two thirds.\n\
             p99 of a quarter of a second, in the middle: {} before, {} beside them, {:.1} times.\n\n\
             ![Over time](figures/neighbour.svg)\n\n",
            self.loops,
            millis(before),
            millis(while_loud),
            while_loud / before
        )
    }

    /// As a picture.
    pub(crate) fn chart(&self) -> Chart {
        let line = |name: &str, ink, of: fn(&Stretch) -> f64| Line {
            name: name.to_owned(),
            ink,
            draw: Draw::Joined,
            points: self.over_time.iter().map(|stretch| (stretch.at, of(stretch))).collect(),
        };
        let loud = [(0.0, 0.0), (self.from, self.loops as f64), (self.until, 0.0)];
        Chart {
            title: "Beside loops without an end".to_owned(),
            x: "seconds".to_owned(),
            x_powers: false,
            panels: vec![
                Panel {
                    y: "milliseconds".to_owned(),
                    powers: true,
                    lines: vec![line("p99", Ink::Ours, |s| s.p99), line("p50", Ink::OursToo, |s| s.median)],
                },
                Panel {
                    y: "loops".to_owned(),
                    powers: false,
                    lines: vec![Line {
                        name: "loops".to_owned(),
                        ink: Ink::Given,
                        draw: Draw::Steps,
                        points: loud.to_vec(),
                    }],
                },
            ],
        }
    }
}
