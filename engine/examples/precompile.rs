//! Compiles a component, binary or in text, as the operator does, without sandbox or seal:
//! `precompile IN.wasm OUT.cwasm [TARGET]`.

use std::error::Error;

use podless_engine::{Compiler, CompilerOptions, Flavour, Target};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(input), Some(output)) = (arguments.next(), arguments.next()) else {
        return Err("usage: precompile IN.wasm OUT.cwasm [TARGET]".into());
    };
    let target = arguments.next().map(|target| target.parse::<Target>()).transpose()?.unwrap_or_default();
    let (compiler, component) = (Compiler::new(target, CompilerOptions::default())?, wat::parse_file(input)?);
    // What is of WASI 0.3 does not compile for the engine of 0.2.
    let code =
        compiler.precompile(&component, Flavour::P2).or_else(|_| compiler.precompile(&component, Flavour::P3))?;
    std::fs::write(output, code)?;
    Ok(())
}
