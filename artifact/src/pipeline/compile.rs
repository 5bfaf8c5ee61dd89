//! The child: a component on stdin, what it says of itself and its machine code on stdout. IO on these two only.
//!
//! It lives once, behind the walls of `sandbox` from before the first byte is read, and holds no key. What it writes is
//! read with suspicion by `child`.

use std::{
    io::{self, Read, Write},
    panic,
    process::{self, ExitCode},
    time::Instant,
};

use podless_engine::Compiler;
use serde::{Deserialize, Serialize};

use super::{
    facts::{Facts, FactsError, facts},
    resolve::COMPONENT_BYTES,
    sandbox::{self, Limits},
};

/// A line of JSON on the child's stdout.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The first: what the component says of itself.
    Facts(Result<Facts, FactsError>),
    /// The second: this many bytes of machine code follow it.
    Code {
        /// Bytes.
        size: u64,
        /// How long the compilation took.
        millis: u64,
    },
    /// The second otherwise: why there is no machine code.
    Failed(String),
}

/// Runs the child; the operator's hidden subcommand is this call.
pub fn compile_child(limits: Limits) -> ExitCode {
    // The compiler is made first: it asks the system for things that the walls refuse.
    let Ok(compiler) = Compiler::new() else { return ExitCode::FAILURE };
    if sandbox::enter(limits).is_err() {
        return ExitCode::FAILURE;
    }
    panic::set_hook(Box::new(|panic| {
        let said = panic.payload_as_str().unwrap_or("no message");
        let _ = report(&Report::Failed(format!("the compiler panicked: {said}")));
        process::exit(1);
    }));
    match run(&compiler) {
        Ok(()) => ExitCode::SUCCESS,
        // As any other allocation that fails: the parent tells it by the signal.
        Err(error) if error.kind() == io::ErrorKind::OutOfMemory => process::abort(),
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(compiler: &Compiler) -> io::Result<()> {
    let mut component = Vec::new();
    io::stdin().lock().take(COMPONENT_BYTES + 1).read_to_end(&mut component)?;
    let facts = facts(&component);
    let is_component = facts.is_ok();
    report(&Report::Facts(facts))?;
    if !is_component {
        return Ok(());
    }
    let started = Instant::now();
    match compiler.precompile(&component) {
        Ok(code) => {
            let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            report(&Report::Code { size: code.len() as u64, millis })?;
            let mut out = io::stdout().lock();
            out.write_all(&code)?;
            out.flush()
        }
        Err(error) => report(&Report::Failed(error.to_string())),
    }
}

fn report(report: &Report) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, report)?;
    out.write_all(b"\n")?;
    out.flush()
}
