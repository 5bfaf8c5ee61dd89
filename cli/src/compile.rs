//! `podless compile`: a component in, how large its machine code is and how long it took out. IO.

use std::{path::PathBuf, process::ExitCode};

use podless_engine::CompilerOptions;
use serde::Serialize;

use crate::{
    args::{CompileArgs, Output},
    failure::Failure,
    output,
    progress::Bar,
    workshop::{Workshop, here},
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Compiled {
    target: &'static str,
    fingerprint: String,
    /// Bytes of machine code.
    size: u64,
    compile_millis: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<PathBuf>,
}

/// Compiles a component.
pub(crate) async fn compile(args: CompileArgs, output: Output) -> Result<ExitCode, Failure> {
    let CompileArgs { file, out, optimize, inlining } = args;
    let recipe = here(CompilerOptions { optimize: optimize.into(), inlining });
    let workshop = Workshop::open(&[])?;
    let code = {
        let bar = Bar::new(&file.display().to_string());
        workshop.pipeline().compile_file(&file, recipe, |progress| bar.show(progress)).await
    };
    let code = code.map_err(|rejection| Failure::rejected(&rejection, None))?;
    if let Some(out) = &out {
        code.save(out).map_err(|error| Failure::environment(format!("cannot write {}: {error}", out.display())))?;
    }
    let (target, fingerprint) = (recipe.target.as_str(), recipe.fingerprint());
    let compiled = Compiled { target, fingerprint, size: code.size(), compile_millis: code.millis(), out };
    match output {
        Output::Json => output::json(&compiled)?,
        Output::Text => {
            let Compiled { target, fingerprint, size, compile_millis, .. } = compiled;
            output::line(&format!("{size} bytes for {target}, engine {fingerprint}, compiled in {compile_millis} ms"));
        }
    }
    Ok(ExitCode::SUCCESS)
}
