//! The steps: `reference → resolve → signature → pull → facts → audit → compile → sealed`; `build` runs them, `inspect`
//! those that only look. A file of this machine takes the place of the first four.
//!
//! Each step takes the type of the one before it and only that, so no step can be skipped. What parses untrusted bytes
//! (`facts`, `compile`) runs in a one-shot child process, see `compiler`: `child` is the parent's end of it, and `turns`
//! says whose component is next.

use crate::compiler::facts;

mod audit;
mod build;
mod child;
mod docker;
mod evict;
mod file;
mod inspect;
mod interfaces;
mod kept;
mod layout;
mod pull;
#[cfg(feature = "parse")]
mod push;
mod receive;
mod reference;
mod registry;
mod rejection;
mod resolve;
mod sealed;
mod signature;
mod store;
mod turns;

#[cfg(feature = "parse")]
pub use self::push::{PushError, push};
pub use self::{
    audit::{AuditError, Grant, Grants, Import, Refused, Verdict, http_world, needs, verdicts},
    build::{Options, Pipeline, Progress, SetupError, Wanted},
    child::{ChildProgram, CompileError, MachineCode},
    docker::{DockerAuth, Login, docker_registry, most_specific_first},
    evict::Held,
    file::FileError,
    inspect::Inspection,
    kept::Pin,
    pull::PullError,
    receive::{ReceiveError, Receiving},
    reference::{ImageReference, ReferenceError},
    registry::{
        Authorities, AuthoritiesError, Credentials, Mirror, MirrorError, NotAsked, Proxies, RegistryError,
        RegistryOptions,
    },
    rejection::Rejection,
    resolve::ResolveError,
    sealed::SealedArtifact,
    signature::{IdentityText, KeylessText, RequirementError, SignatureError, SignatureRequirement, SubjectText},
    store::StoreError,
};
