//! The command line. In: arguments; out: settings.

use std::{
    env::{self, VarError},
    net::SocketAddr,
    path::PathBuf,
};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    the component or what was asked for is at fault: the message says what to mend
  2    the command line is wrong
  3    the surroundings are at fault: a registry that cannot be reached, a port that is taken, a disk
  4    inspect: the component was looked at, and would not be served
  130  ended by a signal before there was a result

Results go to stdout, everything on the way to them (progress, URLs, logs, errors) to stderr.";

/// Podless on one machine: components served over HTTP without a cluster.
#[derive(Debug, Parser)]
#[command(name = "podless", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// How results are printed.
    #[arg(long, value_enum, global = true, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serves a component on this machine, by the operator's pipeline and the shim's code.
    ///
    /// It is audited, compiled once in a sandbox (kept for the next time), sealed and served until Ctrl-C; then the
    /// status that a cluster would have reported is printed. A second Ctrl-C ends at once.
    Run(RunArgs),
    /// Pushes a component to a registry, in the CNCF's layout; prints its digest.
    Push(PushArgs),
    /// Shows what a component exports and imports, what it must be granted, and its sizes.
    ///
    /// Exits with 0 when it would be served, and with 4 when it would not: it exports no HTTP handler, or something that
    /// it imports would be denied. Without --service nothing is granted.
    Inspect(InspectArgs),
    /// Compiles a component as an operator would, and says how long it took and how large it became.
    ///
    /// Neither audited nor sealed: no shim takes the result. It is for looking at machine code (objdump), and for
    /// finding out whether, and how fast, this Podless compiles a component.
    Compile(CompileArgs),
    /// Prints a script that completes commands: `podless completion bash > /etc/bash_completion.d/podless`.
    Completion {
        /// For which shell.
        shell: Shell,
    },
    /// Audits and compiles one component from stdin, in a sandbox: started by the other commands.
    #[command(hide = true)]
    CompileChild(CompileChildArgs),
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people; a status as YAML.
    Text,
    /// One JSON object a line.
    Json,
}

/// What the child is told.
#[derive(Clone, Debug, Args)]
pub(crate) struct CompileChildArgs {
    /// What to do, as JSON.
    pub(crate) errand: String,
}

/// How registries are reached. Who to log in as is in Docker's configuration: `docker login`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Registries {
    /// Registry that is asked without TLS, as HOST:PORT. May be given again.
    #[arg(long, value_name = "HOST")]
    pub(crate) plain_http: Vec<String>,
}

/// What to serve, and how.
#[derive(Clone, Debug, Args)]
pub(crate) struct RunArgs {
    /// A YAML file with WasmServices, a component (.wasm file), or an image in a registry.
    ///
    /// In a YAML file, an image that begins with ./ or / is a file. What else the YAML file holds is left out.
    #[arg(value_name = "SERVICE.yaml|COMPONENT.wasm|IMAGE")]
    pub(crate) target: String,
    /// Address to listen on; port 0 takes any. A second WasmService gets the next port, and so on.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
    #[command(flatten)]
    pub(crate) changes: Changes,
    #[command(flatten)]
    pub(crate) registries: Registries,
}

/// What is changed in each WasmService.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Changes {
    /// Environment variable of the component, also in place of one that a Secret or ConfigMap would give. Without a value,
    /// it has the one that it has here: so a secret stands neither on the command line nor in the shell's history.
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = |text: &str| variable(text, |name| env::var(name)))]
    pub(crate) env: Vec<(String, String)>,
    /// Server that the component may ask, as in https://api.example.com; loopback never. `none`: it may ask nobody, and
    /// is given what it asks with: components from JavaScript want that.
    #[arg(long, value_name = "URL")]
    pub(crate) allow_host: Vec<String>,
    /// Range of internal addresses that such a server may have, as in 10.0.0.0/8.
    #[arg(long, value_name = "CIDR")]
    pub(crate) allow_cidr: Vec<String>,
    /// Grants wasi:logging.
    #[arg(long)]
    pub(crate) logging: bool,
}

/// What to push, and where to.
#[derive(Clone, Debug, Args)]
pub(crate) struct PushArgs {
    /// The component, a .wasm file.
    pub(crate) file: PathBuf,
    /// Where to, as in registry.example.com/hello:1.0
    pub(crate) image: String,
    #[command(flatten)]
    pub(crate) registries: Registries,
}

/// What to look at.
#[derive(Clone, Debug, Args)]
pub(crate) struct InspectArgs {
    /// A component (.wasm file), or an image in a registry.
    #[arg(value_name = "IMAGE|FILE")]
    pub(crate) target: String,
    /// YAML file with the WasmService whose capabilities are granted, and by whose `spec.compiler` it is compiled.
    #[arg(long, value_name = "SERVICE.yaml")]
    pub(crate) service: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) registries: Registries,
}

/// What to compile.
#[derive(Clone, Debug, Args)]
pub(crate) struct CompileArgs {
    /// The component, a .wasm file.
    pub(crate) file: PathBuf,
    /// Where to write the machine code.
    #[arg(short, long, value_name = "OUT")]
    pub(crate) out: Option<PathBuf>,
    /// What the compiler strives for: spec.compiler.optimize.
    #[arg(long, value_enum, default_value_t = Optimize::Speed)]
    pub(crate) optimize: Optimize,
    /// Puts small functions into those that call them: spec.compiler.inlining.
    #[arg(long)]
    pub(crate) inlining: bool,
}

/// What the compiler strives for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Optimize {
    /// Code that runs fast.
    Speed,
    /// Code that runs fast and is small.
    SpeedAndSize,
    /// A compilation that is over soon.
    Fast,
}

impl From<Optimize> for podless_engine::Optimize {
    fn from(optimize: Optimize) -> Self {
        match optimize {
            Optimize::Speed => Self::Speed,
            Optimize::SpeedAndSize => Self::SpeedAndSize,
            Optimize::Fast => Self::Fast,
        }
    }
}

/// The command line without what is hidden: for who completes it.
pub(crate) fn visible() -> clap::Command {
    let all = Cli::command();
    let shown = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    clap::Command::new("podless").args(all.get_arguments().cloned()).subcommands(shown)
}

/// A variable and its value; `here` knows the environment.
fn variable(text: &str, here: impl Fn(&str) -> Result<String, VarError>) -> Result<(String, String), String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Ok(value.to_owned())),
        None => (text, here(text)),
    };
    match value {
        _ if name.is_empty() => Err("write it as NAME=VALUE, or as NAME".to_owned()),
        Ok(value) => Ok((name.to_owned(), value)),
        Err(VarError::NotPresent) => Err(format!("{name} is not set here: write it as NAME=VALUE")),
        Err(VarError::NotUnicode(_)) => Err(format!("the value that {name} has here is not UTF-8")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn variables() {
        let here = |name: &str| match name {
            "HERE" => Ok("h=1".to_owned()),
            "BYTES" => Err(VarError::NotUnicode("b".into())),
            _ => Err(VarError::NotPresent),
        };
        for (text, want) in
            [("A=b=c", ("A", "b=c")), ("A=", ("A", "")), ("HERE", ("HERE", "h=1")), ("HERE=", ("HERE", ""))]
        {
            assert_eq!(variable(text, here), Ok((want.0.to_owned(), want.1.to_owned())), "{text}");
        }
        for (text, says) in
            [("A", "A is not set here"), ("BYTES", "not UTF-8"), ("=b", "NAME=VALUE"), ("", "NAME=VALUE")]
        {
            assert!(variable(text, here).is_err_and(|error| error.contains(says)), "{text}");
        }
    }
}
