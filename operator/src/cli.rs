//! The command line. In: arguments and environment; out: settings.

use std::{net::IpAddr, path::PathBuf};

use clap::{Parser, Subcommand, ValueEnum};

/// The Podless operator.
#[derive(Debug, Parser)]
#[command(name = "podless-operator", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the operator.
    Run(RunArgs),
    /// Checks that a leader answers at the link, with the right certificate, and turns strangers away.
    CheckLink(CheckLinkArgs),
    /// Audits and compiles one component from stdin, in a sandbox: started by the operator for each component.
    #[command(hide = true)]
    CompileChild(CompileChildArgs),
}

/// What the child may use.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct CompileChildArgs {
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Seconds of CPU.
    pub cpu_seconds: u64,
}

/// How to run the operator.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// Namespace of the release.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: String,
    /// Name of this pod: the holder of the lease.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: String,
    /// Address of this pod: where shims reach the leader.
    #[arg(long, env = "POD_IP")]
    pub pod_ip: IpAddr,
    /// Port for the shims.
    #[arg(long, default_value_t = 9443)]
    pub link_port: u16,
    /// Port for /healthz, /readyz and /metrics.
    #[arg(long, default_value_t = 8080)]
    pub admin_port: u16,
    /// Folder for artifacts. What is in it can be made again.
    #[arg(long, default_value = "/var/cache/podless")]
    pub cache_dir: PathBuf,
    /// Registry that is asked without TLS, as HOST:PORT. May be given again.
    #[arg(long = "plain-http-registry", value_name = "HOST:PORT")]
    pub plain_http_registries: Vec<String>,
    /// PEM file of certificate authorities to trust for registries, besides the system's.
    #[arg(long, value_name = "FILE")]
    pub registry_ca_file: Option<PathBuf>,
    /// Domain of the cluster, for the URLs in status.
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Seconds that a new authority or seal key is published before it is used, and an old one after: longer than the
    /// kubelets take to bring a changed ConfigMap into pods.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub trust_overlap_seconds: u64,
    /// On how many nodes a service that is scaled to zero waits for its first request.
    #[arg(long, value_name = "NODES", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    pub activation_nodes: u16,
    /// How to write the log; what to write is decided by RUST_LOG.
    #[arg(long, value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
}

/// How to check the link.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckLinkArgs {
    /// URL of the link.
    #[arg(long)]
    pub link: String,
    /// PEM file of the authority that vouches for it: `ca.crt` of ConfigMap podless-trust.
    #[arg(long)]
    pub ca_file: PathBuf,
}

/// How to write the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
