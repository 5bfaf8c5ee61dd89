//! The operator's binary.

use std::process::ExitCode;

use clap::Parser;
use podless_operator::{
    check_link,
    cli::{Cli, Command, LogFormat},
    run,
};

fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Run(args) => run::with_runtime(args.log_format, run::run(*args)),
        Command::CheckLink(args) => run::with_runtime(LogFormat::Text, check_link::check(args)),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
