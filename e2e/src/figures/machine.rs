//! What a run was on. Out: the machine, the cluster if there is one, and the build. IO.

use std::{fs, thread};

use anyhow::{Context, Result};
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Cluster, env};

/// The machine, the cluster and the build.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// The day of the run.
    pub date: String,
    /// Its model.
    pub processor: String,
    /// That this process may use.
    pub cores: usize,
    /// Of the machine.
    pub memory_bytes: u64,
    /// Its version.
    pub kernel: String,
    /// Its version; empty without a cluster.
    pub kubernetes: String,
    /// Nodes of the cluster; none without one.
    pub nodes: usize,
    /// Cargo profile of operator and shim.
    pub profile: String,
    /// Whether only as much was done as shows that it works.
    pub quick: bool,
}

impl Machine {
    /// Looks at the machine and at the cluster on it.
    pub async fn look(cluster: &Cluster, quick: bool) -> Result<Self> {
        let kubernetes = cluster.kube.apiserver_version().await?.git_version;
        Ok(Self { kubernetes, nodes: cluster.nodes().await?.len(), ..Self::alone(quick)? })
    }

    /// Looks at the machine, on which there is no cluster.
    pub fn alone(quick: bool) -> Result<Self> {
        let (cpu, memory) = (fs::read_to_string("/proc/cpuinfo")?, fs::read_to_string("/proc/meminfo")?);
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).context("no MemTotal")?;
        Ok(Self {
            date: Timestamp::now().strftime("%Y-%m-%d").to_string(),
            processor: model.trim_start_matches([' ', '\t', ':']).to_owned(),
            cores: thread::available_parallelism()?.get(),
            memory_bytes: total.trim().trim_end_matches(" kB").parse::<u64>()? * 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            kubernetes: String::new(),
            nodes: 0,
            profile: env("PROFILE")?,
            quick,
        })
    }
}
