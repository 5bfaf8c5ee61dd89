//! What a run was on. Out: the machine, the cluster and the build. IO.

use std::{fs, thread};

use anyhow::{Context, Result};
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::bench::Bench;

/// The machine, the cluster and the build.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Machine {
    /// The day of the run.
    pub(crate) date: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
    pub(crate) kubernetes: String,
    pub(crate) nodes: usize,
    /// Cargo profile of operator and shim.
    pub(crate) profile: String,
    /// Whether only as much was done as shows that it works.
    pub(crate) quick: bool,
}

impl Machine {
    /// Looks at it.
    pub(crate) async fn look(bench: &Bench) -> Result<Self> {
        let (cpu, memory) = (fs::read_to_string("/proc/cpuinfo")?, fs::read_to_string("/proc/meminfo")?);
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).context("no MemTotal")?;
        Ok(Self {
            date: Timestamp::now().strftime("%Y-%m-%d").to_string(),
            processor: model.trim_start_matches([' ', '\t', ':']).to_owned(),
            cores: thread::available_parallelism()?.get(),
            memory_bytes: total.trim().trim_end_matches(" kB").parse::<u64>()? * 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            kubernetes: bench.cluster.kube.apiserver_version().await?.git_version,
            nodes: bench.cluster.nodes().await?.len(),
            profile: std::env::var("PROFILE").context("PROFILE is not set: run this by `make bench-scaling`")?,
            quick: bench.quick,
        })
    }
}
