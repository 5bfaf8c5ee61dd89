//! From an image reference to sealed machine code, one file a step:
//! `reference → resolve → pull → facts → audit → compile → sealed`, and `pipeline` runs them.
//!
//! Each step takes the type of the one before it and only that, so no step can be skipped. What parses untrusted bytes
//! (`facts`, `compile`) runs in a one-shot child process: `child` is the parent's end of it, `sandbox` its walls.

pub mod seal;

#[cfg(feature = "pipeline")]
mod audit;
#[cfg(feature = "pipeline")]
mod child;
#[cfg(feature = "pipeline")]
mod compile;
#[cfg(feature = "pipeline")]
mod facts;
#[cfg(feature = "pipeline")]
mod pipeline;
#[cfg(feature = "pipeline")]
mod pull;
#[cfg(feature = "pipeline")]
mod push;
#[cfg(feature = "pipeline")]
mod reference;
#[cfg(feature = "pipeline")]
mod registry;
#[cfg(feature = "pipeline")]
mod rejection;
#[cfg(feature = "pipeline")]
mod resolve;
#[cfg(feature = "pipeline")]
pub mod sandbox;
#[cfg(feature = "pipeline")]
mod sealed;
#[cfg(feature = "pipeline")]
mod store;

#[cfg(feature = "pipeline")]
pub use {
    audit::{AuditError, Grant, Grants, Import},
    child::{ChildProgram, CompileError},
    compile::compile_child,
    facts::{Facts, FactsError},
    pipeline::{Options, Pipeline, Progress, SetupError, Wanted},
    pull::PullError,
    push::{PushError, push},
    reference::{ImageReference, ReferenceError},
    registry::{Login, RegistryError, RegistryOptions},
    rejection::Rejection,
    resolve::ResolveError,
    sandbox::Limits,
    sealed::SealedArtifact,
    store::StoreError,
};
