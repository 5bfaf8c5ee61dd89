//! `podless-compile`: the child that the operator starts for each component, with one argument; see
//! `podless_artifact::compile_child`.

use std::process::ExitCode;

fn main() -> ExitCode {
    std::env::args().nth(1).map_or(ExitCode::FAILURE, |errand| podless_artifact::compile_child(&errand))
}
