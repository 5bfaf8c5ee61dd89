//! Compiles a component as the operator does, without sandbox or seal: `precompile IN.wasm OUT.cwasm [TARGET]`.

use std::error::Error;

use podless_engine::{Compiler, CompilerOptions, Target};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(input), Some(output)) = (arguments.next(), arguments.next()) else {
        return Err("usage: precompile IN.wasm OUT.cwasm [TARGET]".into());
    };
    let target = arguments.next().map(|target| target.parse::<Target>()).transpose()?.unwrap_or_default();
    let code = Compiler::new(target, CompilerOptions::default())?.precompile(&std::fs::read(input)?)?;
    std::fs::write(output, code)?;
    Ok(())
}
