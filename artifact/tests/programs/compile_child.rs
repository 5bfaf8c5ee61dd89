//! The child on its own, as the operator's hidden subcommand starts it: `compile-child MEMORY_BYTES CPU_SECONDS`.

use std::process::ExitCode;

use podless_artifact::{Limits, compile_child};

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    match (numbers.next(), numbers.next()) {
        (Some(Ok(memory_bytes)), Some(Ok(cpu_seconds))) => compile_child(Limits { memory_bytes, cpu_seconds }),
        _ => ExitCode::FAILURE,
    }
}
