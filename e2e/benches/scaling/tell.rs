//! The page and the pictures. In: all figures; out: their texts. Pure.

use serde::{Deserialize, Serialize};

use super::{
    cold::Cold,
    command,
    fit::Fit,
    machine::Machine,
    memory, plot,
    start::Start,
    steps::{self, Step},
    traces::{self, Trace},
    writes::Writes,
};

/// All of a run: what `scaling.json` has. Times are milliseconds where nothing else is said, sizes bytes.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Figures {
    pub(crate) machine: Machine,
    pub(crate) memory: memory::Figure,
    pub(crate) fit: Fit,
    pub(crate) start: Start,
    pub(crate) cold: Cold,
    pub(crate) steps: Vec<Step>,
    pub(crate) traces: Vec<Trace>,
    pub(crate) writes: Writes,
}

impl command::Figures for Figures {
    const FILE: &'static str = "figures/scaling.json";
    const PAGE: &'static str = "scaling-figures.md";

    fn page(&self) -> String {
        let Self { machine, memory, fit, start, cold, steps, traces, writes } = self;
        let Machine { date, processor, cores, memory_bytes, kernel, kubernetes, nodes, profile, quick } = machine;
        let gigabytes = memory_bytes >> 30;
        let quick =
            if *quick { "**From a quick run: it shows that the benchmark works, and no more.**\n\n" } else { "" };
        let head = format!(
            "<!-- Made by `make bench-scaling` from figures/scaling.json. -->\n\
             # Scaling, measured\n\n{quick}\
             By `make bench-scaling PROFILE={profile}` on {date}: Kubernetes {kubernetes} with {nodes} nodes and the client on\n\
             one machine ({processor}, {cores} cores, {gigabytes} GiB, Linux {kernel}). Nodes are namespaces of it, so all of them,\n\
             the control plane and the load share {cores} cores; operator and shim are built with profile `{profile}`.\n\
             All numbers, with least, median and most: [figures/scaling.json](figures/scaling.json). What is simulated is called so.\n\n\
             Pods are measured beside, on the same cluster in the same run: the code of [crud](../examples/crud) as a\n\
             WasmService, and in a native axum server of one thread.\n\n"
        );
        [
            head,
            start.tell(),
            cold.tell(),
            memory.tell(),
            fit.tell(),
            steps::tell(steps),
            traces::tell(traces),
            writes.tell(),
        ]
        .concat()
        .trim_end()
        .to_owned()
            + "\n"
    }

    fn pictures(&self) -> Vec<(String, String)> {
        let mut charts = vec![
            ("start".to_owned(), self.start.chart()),
            ("memory".to_owned(), self.memory.chart()),
            ("steps".to_owned(), steps::chart(&self.steps)),
        ];
        charts.extend(self.traces.iter().map(|trace| (format!("trace-{}", trace.name), trace.chart())));
        charts.into_iter().map(|(name, chart)| (name, plot::svg(&chart))).collect()
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Result;
    use serde_json::json;

    use super::{command::Figures as _, *};

    fn figures() -> Result<Figures> {
        let spread = json!({"count": 3, "min": 1.0, "median": 2.0, "p99": 3.0, "max": 3.0});
        let memory = json!({"programs": 1e8, "pause": 1e6, "runtime": 1e9});
        let run = json!({
            "replicas": [[0.0, 0.0], [1.0, 5.0]], "overTime": [{"at": 1.0, "median": 2.0, "p99": 3.0}],
            "latency": spread, "lost": 0, "most": 5.0, "mean": 4.5,
        });
        Ok(serde_json::from_value(json!({
            "machine": {
                "date": "2026-01-01", "processor": "P", "cores": 2, "memoryBytes": 1u64 << 34, "kernel": "6.1",
                "kubernetes": "v1", "nodes": 3, "profile": "dist", "quick": true,
            },
            "memory": {"podless": memory, "pods": [[100, memory]], "parked": [[100, 2e6]], "resident": 4e6},
            "fit": {
                "podsEach": 110, "podsFree": 320, "instances": 900, "boundedBy": "memory", "ports": 30000,
                "registered": 1000, "seconds": 20.0, "bytes": 1e7, "firstByte": spread,
            },
            "start": {
                "pod": [900.0], "replica": [90.0], "parked": [2.0],
                "podSpread": spread, "replicaSpread": spread, "parkedSpread": spread,
            },
            "cold": {"services": 30, "parked": spread, "awake": spread, "native": spread},
            "steps": [{
                "replicas": 1, "inFlight": 3.5, "desired": spread, "ready": spread, "calm": spread,
                "latency": spread, "lost": 0, "simulated": 2060.0,
            }],
            "traces": [{"name": "step", "needed": [[0.0, 1.0]], "podless": run, "simulated": run}],
            "writes": {
                "services": 20, "requestsASecond": 60.0, "seconds": 60.0,
                "by": {"patch wasmservices/status": 3}, "lost": 0,
            },
        }))?)
    }

    #[test]
    fn the_page_shows_all_pictures_and_calls_simulated_what_is() -> Result<()> {
        let figures = figures()?;
        let page = figures.page();
        let pictures = figures.pictures();
        for (name, _) in &pictures {
            assert!(page.contains(&format!("](figures/{name}.svg)")), "{name} is not in the page");
        }
        assert_eq!(page.matches(".svg)").count(), pictures.len(), "{page}");
        for line in page.lines().filter(|line| line.starts_with('|') && line.contains("Knative")) {
            assert!(line.contains("simulated"), "{line}");
        }
        assert!(page.contains("quick run") && page.contains("3.0 writes a minute"), "{page}");
        Ok(())
    }
}
