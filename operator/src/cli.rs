//! The command line. In: arguments and environment; out: settings.

use std::{net::IpAddr, path::PathBuf};

use clap::{Parser, Subcommand, ValueEnum};
use podless_artifact::Mirror;

use crate::reconcile::quantity;

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
    Run(Box<RunArgs>),
    /// Checks that a leader answers at the link, with the right certificate, and turns strangers away.
    CheckLink(CheckLinkArgs),
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
    /// Namespace whose services are served. May be given again; without any, those of all namespaces are.
    #[arg(long = "watch-namespace", value_name = "NAMESPACE")]
    pub watch_namespaces: Vec<String>,
    /// Most bytes in that folder, as in 4Gi: three quarters are for artifacts, the rest for components that are being pulled.
    #[arg(long, value_name = "QUANTITY", default_value = "4Gi", value_parser = bytes)]
    pub cache_size: u64,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// Largest component that is pulled, as in 64Mi.
    #[arg(long, value_name = "QUANTITY", default_value = "64Mi", value_parser = bytes)]
    pub component_size_limit: u64,
    /// What those who compile may use.
    #[command(flatten)]
    pub compiler: CompilerArgs,
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

/// How registries are reached. Proxies are those of HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RegistryArgs {
    /// Registry that is asked without TLS, as HOST:PORT. May be given again.
    #[arg(long = "plain-http-registry", value_name = "HOST:PORT")]
    pub plain_http_registries: Vec<String>,
    /// PEM file of certificate authorities to trust for registries, besides the system's.
    #[arg(long, value_name = "FILE")]
    pub registry_ca_file: Option<PathBuf>,
    /// File with Docker's configuration: who to log in as where a service's own secrets do not help.
    #[arg(long, value_name = "FILE")]
    pub registry_config: Option<PathBuf>,
    /// Who is asked before a registry, as docker.io=mirror.example:5000/hub. May be given again: in this order.
    #[arg(long = "registry-mirror", value_name = "REGISTRY=HOST[:PORT][/PREFIX]")]
    pub registry_mirrors: Vec<Mirror>,
    /// Host that may be at any address, as a registry or where one sends to. May be given again.
    #[arg(long = "registry-allowed-host", value_name = "HOST[:PORT]")]
    pub registry_allowed_hosts: Vec<String>,
}

/// What those who compile may use: a child for each component.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct CompilerArgs {
    /// Seconds of CPU that a component may take to compile.
    #[arg(long = "compiler-cpu-seconds", value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    pub cpu_seconds: u64,
    /// Bytes of memory that it may take, as in 2Gi.
    #[arg(long = "compiler-memory", value_name = "QUANTITY", default_value = "2Gi", value_parser = bytes)]
    pub memory: u64,
    /// Components that are compiled at once. 0: as many as there are CPUs, and as fit into this container's memory.
    #[arg(long = "compiler-parallelism", value_name = "COMPONENTS", default_value_t = 0)]
    pub parallelism: usize,
}

/// A quantity of bytes.
fn bytes(text: &str) -> Result<u64, &'static str> {
    quantity::bytes(text).ok_or("write a whole number of bytes as Kubernetes does, as in 64Mi")
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
