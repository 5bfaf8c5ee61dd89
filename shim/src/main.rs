//! The shim's two processes: the supervisor, and the one that it starts to serve.

use std::process::ExitCode;

use anyhow::anyhow;
use clap::Parser;
use podless_shim::{
    cli::{Cli, LogFormat},
    run, supervise,
};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // What it logs, guests and their clients cause, as often as they like.
    let filter = filter.add_directive("wasmtime_wasi_http=off".parse()?);
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match cli.log_format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log.init(),
    }
    if cli.supervised.is_none() {
        return supervise::run(&cli);
    }
    // Before anything speaks TLS: two providers may be linked, and only one is meant.
    rustls::crypto::aws_lc_rs::default_provider().install_default().map_err(|_| anyhow!("a TLS provider is set"))?;
    run::run(&cli)?;
    Ok(ExitCode::SUCCESS)
}
