//! `spec.compiler`: how the component is compiled.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the component is compiled.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Compiler {
    /// What the compiler strives for.
    #[serde(default)]
    pub optimize: Optimize,
    /// Puts small functions into those that call them, also from one module of the component into another: for components that are composed of several, or made by a compiler that does not do so itself. Takes much longer and ten times the memory, and the code becomes three times as large.
    #[serde(default)]
    pub inlining: bool,
}

impl Compiler {
    /// True when nothing is said, or what is so anyway.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What the compiler strives for.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Optimize {
    /// Code that runs fast.
    #[default]
    Speed,
    /// Code that runs fast and is small.
    SpeedAndSize,
    /// A compilation that is over soon: nothing is optimised. For trying things out.
    Fast,
}
