//! The shim's flags.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use podless_engine::Target;

use crate::control::link::LinkConfig;

/// Serves this node's WebAssembly components.
#[derive(Clone, Debug, Parser)]
#[command(name = "podless-shim", version)]
pub struct Cli {
    /// The operator's link, as in https://podless-link.podless.svc:9443.
    #[arg(long, env = "PODLESS_OPERATOR", value_name = "URL")]
    pub operator: String,
    /// The projected service account token, audience podless-link.
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/podless/token")]
    pub token_file: PathBuf,
    /// The mounted ConfigMap podless-trust: ca.crt and seal.pub.
    #[arg(long, value_name = "DIR", default_value = "/etc/podless/trust")]
    pub trust_dir: PathBuf,
    /// Where sealed artifacts lie: survives a restart of the container.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/podless")]
    pub data_dir: PathBuf,
    /// Where assignments lie. They may hold secrets: a memory-backed volume.
    #[arg(long, value_name = "DIR", default_value = "/run/podless")]
    pub state_dir: PathBuf,
    /// Port of /healthz, /readyz and /metrics.
    #[arg(long, value_name = "PORT", default_value_t = 8081)]
    pub admin_port: u16,
    /// Port of all services that have spec.hosts [default: none].
    #[arg(long, value_name = "PORT")]
    pub shared_port: Option<u16>,
    /// What machine code to run, as in x86-64-v2 [default: the best that the CPU runs]. One that all nodes run spares the
    /// operator a compilation for each kind of them.
    #[arg(long, env = "PODLESS_TARGET", value_name = "TARGET")]
    pub target: Option<Target>,
    /// Instances that may be live at once [default: what vm.max_map_count and the memory limit allow].
    #[arg(long, value_name = "N")]
    pub instances: Option<u32>,
    /// MiB of memory that there are [default: the pod's limit, or what the machine has].
    #[arg(long, hide = true, value_name = "MIB")]
    pub memory_limit: Option<u32>,
    /// Mebibytes that loaded code may take, beside what can be read from its file again [default: a fifth of the memory limit].
    /// What has not been used for longest is unloaded, and loaded again by its next request.
    #[arg(long, value_name = "MEBIBYTES")]
    pub code_memory: Option<u32>,
    /// Seconds to go on serving after SIGTERM while the cluster learns that the shim goes. Requests in flight may then
    /// take their service's timeout.
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    pub drain_seconds: u64,
    /// Seconds without a request after which a parked service that a request has woken is parked again, unless the
    /// operator has said otherwise by then.
    #[arg(long, hide = true, value_name = "SECONDS", default_value_t = 60)]
    pub park_seconds: u64,
    /// How the shim's own log is written, on stderr. RUST_LOG filters it.
    #[arg(long, value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
    /// This is the serving process, standard input its supervisor's socket, and so many have served before it.
    #[arg(long, hide = true, value_name = "N")]
    pub supervised: Option<u32>,
}

impl Cli {
    /// What the link needs.
    pub(crate) fn link(&self) -> LinkConfig {
        LinkConfig {
            operator: self.operator.clone(),
            token_file: self.token_file.clone(),
            trust_dir: self.trust_dir.clone(),
        }
    }
}

/// How lines of the shim's own log look.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}
