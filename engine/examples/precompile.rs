//! Compiles a component as the operator does, without sandbox or seal: `precompile IN.wasm OUT.cwasm`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(input), Some(output)) = (arguments.next(), arguments.next()) else {
        return Err("usage: precompile IN.wasm OUT.cwasm".into());
    };
    let code = podless_engine::Compiler::new()?.precompile(&std::fs::read(input)?)?;
    std::fs::write(output, code)?;
    Ok(())
}
