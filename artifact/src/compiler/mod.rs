//! The child that audits and compiles. `errand` is what it is told and what it says, `facts` what a component says of
//! itself; with the feature `compile` also what it does, `compile`, and the walls around it, `sandbox`.
//!
//! Who starts it is `pipeline::child`, which links nothing of what parses or compiles.

#[cfg(feature = "compile")]
mod compile;
pub(crate) mod errand;
pub(crate) mod facts;
#[cfg(feature = "compile")]
pub mod sandbox;

#[cfg(feature = "compile")]
pub use self::compile::compile_child;
pub use self::{
    errand::{Limits, Walls},
    facts::{Facts, FactsError, ImportFact},
};
