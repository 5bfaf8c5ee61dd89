//! The page and the pictures. In: all figures; out: their texts. Pure.

use podless_e2e::figures::{Machine, command, plot};
use serde::{Deserialize, Serialize};

use super::{
    compile::{self, Compiled},
    load::{self, Loads},
    nodes::Nodes,
    ready::{self, Pulled},
    rebuild::Rebuild,
};

/// All of a run: what `artifacts.json` has. Times are milliseconds, sizes bytes.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Figures {
    pub(crate) machine: Machine,
    pub(crate) compile: Vec<Compiled>,
    pub(crate) nodes: Nodes,
    pub(crate) rebuild: Rebuild,
    pub(crate) ready: Vec<Pulled>,
    pub(crate) load: Loads,
}

impl command::Figures for Figures {
    const FILE: &'static str = "figures/artifacts.json";
    const PAGE: &'static str = "artifact-figures.md";

    fn page(&self) -> String {
        let Self { machine, compile, nodes, rebuild, ready, load } = self;
        let Machine { date, processor, cores, memory_bytes, kernel, kubernetes, nodes: count, profile, quick } =
            machine;
        let gigabytes = memory_bytes >> 30;
        let quick =
            if *quick { "**From a quick run: it shows that the benchmark works, and no more.**\n\n" } else { "" };
        let head = format!(
            "<!-- Made by `make bench-artifacts` from figures/artifacts.json. -->\n\
             # Artifacts, measured\n\n{quick}\
             By `make bench-artifacts PROFILE={profile}` on {date}: Kubernetes {kubernetes} with {count} nodes and the registry on\n\
             one machine ({processor}, {cores} cores, {gigabytes} GiB, Linux {kernel}). Operator, its compiling child and shim are\n\
             built with profile `{profile}`. All numbers: [figures/artifacts.json](figures/artifacts.json).\n\n"
        );
        [head, compile::tell(compile), nodes.tell(), ready::tell(ready), load::tell(load), rebuild.tell()]
            .concat()
            .trim_end()
            .to_owned()
            + "\n"
    }

    fn pictures(&self) -> Vec<(String, String)> {
        let charts = [("artifacts-compile", compile::chart(&self.compile)), ("artifacts-nodes", self.nodes.chart())];
        charts.into_iter().map(|(name, chart)| (name.to_owned(), plot::svg(&chart))).collect()
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Result;
    use serde_json::json;

    use super::{command::Figures as _, *};

    #[test]
    fn the_page_has_every_figure_and_shows_all_pictures() -> Result<()> {
        let spread = json!({"count": 3, "min": 1.0, "median": 2.0, "p99": 3.0, "max": 3.0});
        let figures: Figures = serde_json::from_value(json!({
            "machine": {
                "date": "2026-01-01", "processor": "P", "cores": 2, "memoryBytes": 1u64 << 34, "kernel": "6.1",
                "kubernetes": "v1", "nodes": 3, "profile": "dist", "quick": true,
            },
            "compile": [{
                "name": "Python", "componentBytes": 18 << 20, "codeBytes": 30 << 20, "took": spread, "compiled": spread,
            }],
            "nodes": {
                "guest": "crud", "once": [1.0, 1.5], "each": [1.0, 3.0], "onceSpread": spread,
                "eachSpread": {"count": 3, "min": 1.0, "median": 18.0, "p99": 20.0, "max": 20.0},
            },
            "rebuild": {"artifacts": 1000, "codeBytes": 700_000, "took": spread, "compile": 900.0},
            "ready": [{"name": "Python", "new": spread, "known": spread}],
            "load": {
                "hashes": [[512, spread]],
                "examples": [{"name": "JavaScript", "codeBytes": 20 << 20, "hash": spread, "woken": spread}],
            },
        }))?;
        let (page, pictures) = (figures.page(), figures.pictures());
        for (name, _) in &pictures {
            assert!(page.contains(&format!("](figures/{name}.svg)")), "{name} is not in the page");
        }
        assert_eq!(page.matches(".svg)").count(), pictures.len(), "{page}");
        assert!(page.contains("quick run") && page.contains("9.0 times the work") && page.contains("2 µs for each"));
        Ok(())
    }
}
