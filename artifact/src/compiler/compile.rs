//! The child: a component on stdin, what it says of itself and its machine code on stdout. IO on these two only.
//!
//! It lives once, behind the walls of `sandbox` from before the first byte is read, and holds no key. What it writes is
//! read with suspicion by `pipeline::child`.

use std::{
    io::{self, Read, Write},
    panic,
    process::{self, ExitCode},
    time::Instant,
};

use podless_engine::Compiler;

use super::{
    errand::{Errand, Limits, Report},
    facts::facts,
    sandbox,
};

/// Runs the child. The program `podless-compile` is this call with its one argument, and so is the CLI's hidden subcommand.
pub fn compile_child(errand: &str) -> ExitCode {
    let Ok(errand) = serde_json::from_str(errand) else { return ExitCode::FAILURE };
    match run(errand) {
        Ok(()) => ExitCode::SUCCESS,
        // As any other allocation that fails: the parent tells it by the signal.
        Err(error) if error.kind() == io::ErrorKind::OutOfMemory => process::abort(),
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(errand: Errand) -> io::Result<()> {
    sandbox::alone().map_err(io::Error::other)?;
    match errand {
        Errand::Walls => {
            let walls = sandbox::enter(Limits::default()).map_err(io::Error::other)?;
            report(&Report::Walls(walls))
        }
        Errand::Compile { limits, recipe } => {
            // The compiler is made first: it asks the system for things that the walls refuse.
            let compiler = Compiler::new(recipe.target, recipe.options).map_err(io::Error::other)?;
            sandbox::enter(limits).map_err(io::Error::other)?;
            panic::set_hook(Box::new(|panic| {
                let said = panic.payload_as_str().unwrap_or("no message");
                let _ = report(&Report::Failed(format!("the compiler panicked: {said}")));
                process::exit(1);
            }));
            compile(&compiler)
        }
    }
}

fn compile(compiler: &Compiler) -> io::Result<()> {
    let mut component = Vec::new();
    io::stdin().lock().read_to_end(&mut component)?;
    let facts = facts(&component);
    let flavour = facts.as_ref().ok().map(|facts| facts.flavour);
    report(&Report::Facts(facts))?;
    let Some(flavour) = flavour else { return Ok(()) };
    let started = Instant::now();
    match compiler.precompile(&component, flavour) {
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
