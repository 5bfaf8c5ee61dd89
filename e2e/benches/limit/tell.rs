//! The page and the pictures. In: all figures; out: their texts. Pure.

use std::fmt::Write as _;

use podless_e2e::figures::{Machine, command, plot};
use serde::{Deserialize, Serialize};

use super::{
    cold::{self, Size},
    crud::Crud,
    cycle::Cycle,
    memory::Memory,
    neighbour::Neighbour,
    restart::Restart,
    stream::{self, Way},
    table::{self, Row},
};

/// All of a run: what `limit.json` has. Times are milliseconds, sizes bytes.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Figures {
    pub(crate) machine: Machine,
    pub(crate) rows: Vec<Row>,
    pub(crate) cycle: Cycle,
    pub(crate) crud: Crud,
    pub(crate) cold: Vec<Size>,
    pub(crate) stream: Vec<Way>,
    pub(crate) neighbour: Neighbour,
    pub(crate) restart: Restart,
    pub(crate) memory: Memory,
}

impl command::Figures for Figures {
    const FILE: &'static str = "limit.json";
    const PAGE: &'static str = "README.md";

    fn page(&self) -> String {
        let Self { machine, rows, cycle, crud, cold, stream, neighbour, restart, memory } = self;
        let Machine { date, processor, cores, memory_bytes, kernel, profile, quick, .. } = machine;
        let gigabytes = memory_bytes >> 30;
        let mut page = "<!-- Made by `make bench` from limit.json. -->\n# The shim at the limit\n\n".to_owned();
        if *quick {
            page += "**From a quick run: it shows that the benchmark works, and no more.**\n\n";
        }
        let _ = write!(
            page,
            "By `make bench PROFILE={profile}` on {date}: {processor}, {cores} cores, {gigabytes} GiB, Linux {kernel}. The shim is the\n\
             program that is shipped, built with profile `{profile}`, a process of its own with the chart's defaults, and gets its\n\
             services over the link; only the operator is this benchmark. Whatever is compared ran in the same run, in turns.\n\
             All numbers: [limit.json](limit.json).\n\n{}\
             There is no composition yet, so no hop of middleware to measure.\n\n",
            table::tell(rows)
        );
        let parts = [
            cycle.tell(),
            cold::tell(cold),
            crud.tell(),
            stream::tell(stream),
            Ok(neighbour.tell()),
            Ok(memory.tell()),
            restart.tell(),
        ];
        for part in parts {
            page += &part.unwrap_or_else(|error| format!("Not measured: {error:#}\n\n"));
        }
        page.trim_end().to_owned() + "\n"
    }

    fn pictures(&self) -> Vec<(String, String)> {
        let charts = [
            ("cold", cold::chart(&self.cold)),
            ("rps", self.crud.chart()),
            ("neighbour", self.neighbour.chart()),
            ("density", self.memory.chart()),
        ];
        charts.into_iter().map(|(name, chart)| (name.to_owned(), plot::svg(&chart))).collect()
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Result;
    use serde_json::json;

    use super::{command::Figures as _, *};

    fn figures() -> Result<Figures> {
        let round = |kind| json!({"kind": kind, "p50": 10.0, "p99": 12.0, "mean": 11.0});
        let server = |name, rate| {
            json!({
                "name": name, "rates": [rate], "p50": [0.3], "p99": [0.8],
                "byConnections": [[1, rate], [512, rate]],
            })
        };
        let way = |name| json!({"name": name, "perSecond": [800.0], "perCpuSecond": [900.0]});
        let rounds = ["shim", "defaultPool", "onDemand", "spread"].map(round);
        let ways = ["axum, taken", "Podless 0.2, taken"].map(way);
        Ok(serde_json::from_value(json!({
            "machine": {
                "date": "2026-01-01", "processor": "P", "cores": 2, "memoryBytes": 1u64 << 34, "kernel": "6.1",
                "kubernetes": "", "nodes": 0, "profile": "dist", "quick": true,
            },
            "rows": [{
                "figure": "a ratio", "floor": 0.2, "goal": 0.1, "atMost": true,
                "measured": {"count": 3, "min": 0.1, "median": 0.15, "p99": 0.3, "max": 0.3},
            }],
            "cycle": {
                "services": 2000, "cycles": 10,
                "rounds": rounds,
            },
            "crud": {"servers": [server("axum", 100_000.0), server("Podless, fresh", 40_000.0)]},
            "cold": [{"codeBytes": 700_000, "cold": [[0.2, 0.3]], "warm": [[0.1, 0.1]]}],
            "stream": ways,
            "neighbour": {
                "loops": 100, "from": 1.0, "until": 2.0,
                "overTime": [{"at": 0.5, "median": 1.0, "p99": 2.0}, {"at": 1.5, "median": 1.0, "p99": 3.0}],
            },
            "restart": {"services": 1000, "all": [900.0], "hello": [500.0], "one": 1.0},
            "memory": {
                "parked": [
                    {"services": 10, "bytes": 1e6, "kernel": 1e4, "seconds": 1.0},
                    {"services": 20, "bytes": 2e6, "kernel": 2e4, "seconds": 2.0},
                ],
                "resident": [[10, 1e6], [20, 2e6]], "live": [[10, 1e6], [20, 2e6]], "ended": "that is all", "quick": true,
            },
        }))?)
    }

    #[test]
    fn the_page_shows_every_figure_and_all_pictures() -> Result<()> {
        let figures = figures()?;
        let (page, pictures) = (figures.page(), figures.pictures());
        for (name, _) in &pictures {
            assert!(page.contains(&format!("](figures/{name}.svg)")), "{name} is not in the page");
        }
        assert_eq!(page.matches(".svg)").count(), pictures.len(), "{page}");
        assert!(page.contains("quick run") && page.contains("✓ floor") && page.contains("2026-01-01"), "{page}");
        assert!(!page.contains("Not measured") && !page.contains("NaN"), "{page}");
        Ok(())
    }

    #[test]
    fn rows_come_of_all_figures() -> Result<()> {
        let Figures { cycle, crud, cold, stream, restart, memory, .. } = figures()?;
        let rows =
            [cycle.rows()?, crud.rows()?, cold::rows(&cold)?, stream::rows(&stream)?, restart.rows()?, memory.rows()?];
        let medians: Vec<_> = rows.iter().flatten().map(|row| (row.measured.median * 100.0).round() / 100.0).collect();
        assert_eq!(medians, [1.0, 1.0, 0.4, 1.0, 2.0, 1.0, 1.0, 0.9, 97.66, 0.98, 97.66, 97.66]);
        Ok(())
    }
}
