//! The steps: `reference → resolve → pull → facts → audit → compile → sealed`; `build` runs them, `inspect` those that
//! only look. A file of this machine takes the place of the first three.
//!
//! Each step takes the type of the one before it and only that, so no step can be skipped. What parses untrusted bytes
//! (`facts`, `compile`) runs in a one-shot child process: `child` is the parent's end of it, `sandbox` its walls.

mod audit;
mod build;
mod child;
mod compile;
mod docker;
mod facts;
mod file;
mod inspect;
mod interfaces;
mod pull;
mod push;
mod reference;
mod registry;
mod rejection;
mod resolve;
pub mod sandbox;
mod sealed;
mod store;

pub use self::{
    audit::{AuditError, Grant, Grants, Import, Verdict, http_world, needs, verdicts},
    build::{Options, Pipeline, Progress, SetupError, Wanted},
    child::{ChildProgram, CompileError, MachineCode},
    compile::compile_child,
    docker::{DockerAuth, docker_registry},
    facts::{Facts, FactsError, ImportFact},
    file::FileError,
    inspect::Inspection,
    pull::PullError,
    push::{PushError, push},
    reference::{ImageReference, ReferenceError},
    registry::{Credentials, Login, RegistryError, RegistryOptions},
    rejection::Rejection,
    resolve::ResolveError,
    sandbox::Limits,
    sealed::SealedArtifact,
    store::StoreError,
};
