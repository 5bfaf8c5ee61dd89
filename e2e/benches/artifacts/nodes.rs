//! Figure: compiled once and handed out, or compiled on every node, as hosts do that get the component itself. Measured:
//! IO; told: pure.

use std::{
    fs::{self, File},
    io::{Read, Seek, Write},
    path::Path,
    time::Instant,
};

use anyhow::{Result, ensure};
use podless_e2e::figures::{
    plot::{Chart, Draw, Ink, Line, Panel},
    stats::{Spread, millis},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::languages::{Workshop, component};

/// Both ways for the same component and number of nodes.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Nodes {
    pub(crate) guest: String,
    /// Milliseconds of work until so many nodes have the code, by the median round: the first has one.
    pub(crate) once: Vec<f64>,
    /// The same when each node compiles.
    pub(crate) each: Vec<f64>,
    /// Milliseconds until all have it, over the rounds.
    pub(crate) once_spread: Spread,
    pub(crate) each_spread: Spread,
}

/// Adds up the work of so many nodes, one after another: here they would share the cores.
pub(crate) async fn measure(nodes: usize, rounds: usize) -> Result<Nodes> {
    let guest = "crud";
    let component = component(guest)?;
    let (mut once, mut each) = (vec![], vec![]);
    for _ in 0..rounds {
        let (workshop, started) = (Workshop::new()?, Instant::now());
        let made = workshop.build(&component).await?;
        let mut way = vec![];
        for node in 0..nodes {
            receive(made.code(), &made.seal().code_sha256, &workshop.folder.path().join(format!("node-{node}")))?;
            way.push(started.elapsed().as_secs_f64() * 1000.0);
        }
        once.push(way);

        let (mut spent, mut way) = (0.0, vec![]);
        for _ in 0..nodes {
            let (workshop, started) = (Workshop::new()?, Instant::now());
            ensure!(!workshop.build(&component).await?.cache_hit(), "it was there");
            spent += started.elapsed().as_secs_f64() * 1000.0;
            way.push(spent);
        }
        each.push(way);
    }
    let all = |ways: &[Vec<f64>]| Spread::of(ways.iter().filter_map(|way| way.last().copied()));
    Ok(Nodes {
        guest: guest.to_owned(),
        once_spread: all(&once)?,
        each_spread: all(&each)?,
        once: middle(once),
        each: middle(each),
    })
}

/// What a shim does with code that comes: hashed and written on the way, then named.
fn receive(mut code: &File, sha256: &str, to: &Path) -> Result<()> {
    code.rewind()?;
    let unfinished = to.with_extension("new");
    let (mut file, mut hash, mut buffer) = (File::create(&unfinished)?, Sha256::new(), vec![0; 256 << 10]);
    loop {
        let read = code.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        file.write_all(&buffer[..read])?;
    }
    ensure!(hex::encode(hash.finalize()) == sha256, "other bytes came");
    Ok(fs::rename(unfinished, to)?)
}

/// The round with the median end.
fn middle(mut ways: Vec<Vec<f64>>) -> Vec<f64> {
    let end = |way: &Vec<f64>| way.last().copied().unwrap_or_default();
    ways.sort_by(|one, other| end(one).total_cmp(&end(other)));
    ways.swap_remove(ways.len() / 2)
}

impl Nodes {
    fn ratio(&self) -> f64 {
        self.each_spread.median / self.once_spread.median
    }

    /// In a line.
    pub(crate) fn line(&self) -> String {
        let (once, each) = (millis(self.once_spread.median), millis(self.each_spread.median));
        format!("{} for {} nodes: once {once}, on each {each}: {:.1} times", self.guest, self.once.len(), self.ratio())
    }

    /// In the page.
    pub(crate) fn tell(&self) -> String {
        format!(
            "## Once, or on every node\n\n\
             The work until {} nodes have the machine code of [crud](../examples/crud), added up, {} rounds in turns: compiled\n\
             once, then written and hashed by each node; or compiled by each node, as hosts do that get the component itself.\n\n\
             | | min / **median** / max |\n|---|---|\n| once, and handed out | {} |\n| on every node | {} |\n\n\
             Compiling on every node is {:.1} times the work; and it is done where services are served, when they start.\n\n\
             ![By nodes](figures/artifacts-nodes.svg)\n\n",
            self.once.len(),
            self.once_spread.count,
            self.once_spread.tell(),
            self.each_spread.tell(),
            self.ratio()
        )
    }

    /// As a picture.
    pub(crate) fn chart(&self) -> Chart {
        let line = |name: &str, ink, way: &[f64]| Line {
            name: name.to_owned(),
            ink,
            draw: Draw::Dots,
            points: way.iter().enumerate().map(|(node, at)| ((node + 1) as f64, at / 1000.0)).collect(),
        };
        Chart {
            title: "Work until all nodes have the machine code".to_owned(),
            x: "nodes".to_owned(),
            x_powers: false,
            panels: vec![Panel {
                y: "seconds".to_owned(),
                powers: false,
                lines: vec![
                    line("on every node", Ink::Other, &self.each),
                    line("once, and handed out", Ink::Ours, &self.once),
                ],
            }],
        }
    }
}
