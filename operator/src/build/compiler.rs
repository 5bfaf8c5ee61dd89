//! `spec.compiler` in the engine's words. Pure.

use podless_crds::{Compiler, Optimize};
use podless_engine::{self as engine, CompilerOptions};

/// How a service wants its component compiled.
pub fn compiler_options(Compiler { optimize, inlining }: Compiler) -> CompilerOptions {
    let optimize = match optimize {
        Optimize::Speed => engine::Optimize::Speed,
        Optimize::SpeedAndSize => engine::Optimize::SpeedAndSize,
        Optimize::Fast => engine::Optimize::Fast,
    };
    CompilerOptions { optimize, inlining }
}
