//! `podless`: Podless on one machine, without a cluster.

mod args;
mod compile;
mod docker;
mod failure;
mod inspect;
mod output;
mod progress;
mod push;
mod run;
mod schema;
mod service;
mod target;
mod workshop;

use std::{io, process::ExitCode};

use anyhow::anyhow;
use clap::Parser;
use podless_artifact::compile_child;
use tracing_subscriber::EnvFilter;

use self::{
    args::{Cli, Command, CompileChildArgs},
    failure::Failure,
};

fn main() -> ExitCode {
    let Cli { command, output } = Cli::parse();
    let work = match command {
        // The sandbox comes before anything else: no thread, no log, no runtime.
        Command::CompileChild(CompileChildArgs { errand }) => return compile_child(&errand),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut args::visible(), "podless", &mut io::stdout());
            return ExitCode::SUCCESS;
        }
        work => work,
    };
    match with_runtime(work, output) {
        Ok(code) => code,
        Err(failure) => {
            output::failure(output, &failure);
            failure.exit_code()
        }
    }
}

fn with_runtime(command: Command, output: args::Output) -> Result<ExitCode, Failure> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    // Before anything speaks TLS: two providers may be linked, and only one is meant.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| Failure::environment(anyhow!("a TLS provider is set already")))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::environment)?;
    let ended = runtime.block_on(async {
        match command {
            Command::Run(args) => Box::pin(run::run(args, output)).await,
            Command::Push(args) => push::push(args, output).await,
            Command::Inspect(args) => inspect::inspect(args, output).await,
            Command::Compile(args) => compile::compile(args, output).await,
            Command::Completion { .. } | Command::CompileChild(_) => Ok(ExitCode::SUCCESS),
        }
    });
    // What is left over must not hold the end up: a name that is being looked up, a connection that idles.
    runtime.shutdown_background();
    ended
}
