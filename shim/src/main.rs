//! The shim's process.

use anyhow::anyhow;
use clap::Parser;
use podless_shim::{
    cli::{Cli, LogFormat},
    run,
};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match cli.log_format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log.init(),
    }
    // Before anything speaks TLS: two providers may be linked, and only one is meant.
    rustls::crypto::aws_lc_rs::default_provider().install_default().map_err(|_| anyhow!("a TLS provider is set"))?;
    run::run(&cli)
}
