//! What a service may choose of how its component is compiled. Pure.
//!
//! None of it changes what the code needs of the engine that runs it: it is no part of the fingerprint.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the compiler strives for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Optimize {
    /// Code that runs fast.
    #[default]
    Speed,
    /// Code that runs fast, and the smaller of what does so equally well.
    SpeedAndSize,
    /// A compilation that is over soon: nothing is optimised.
    Fast,
}

/// How a component is compiled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CompilerOptions {
    /// What the compiler strives for.
    pub optimize: Optimize,
    /// Whether functions are put into those that call them, across the modules of a component too. What LLVM has made is
    /// inlined already; it pays where modules of several languages or many small ones are composed.
    pub inlining: bool,
}

/// A word that may be part of a file's name.
impl fmt::Display for CompilerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.optimize {
            Optimize::Speed => "speed",
            Optimize::SpeedAndSize => "size",
            Optimize::Fast => "fast",
        })?;
        if self.inlining { f.write_str("-inlined") } else { Ok(()) }
    }
}
