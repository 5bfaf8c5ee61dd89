//! Why there is no artifact: one type over the steps' errors, with a stable name and what to do. Pure.

use std::time::Duration;

use super::{
    audit::{AuditError, Import, Refused},
    child::CompileError,
    facts::FactsError,
    file::FileError,
    pull::PullError,
    reference::ReferenceError,
    registry::RegistryError,
    resolve::ResolveError,
    signature::SignatureError,
    store::StoreError,
};
use crate::seal::SealError;

/// Why there is no artifact; its text is a sentence for the user.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// The reference does not parse.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The reference does not lead to a component.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The image is not signed as it must be.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// It must not be used: see `Wanted::revoked`.
    #[error("{0} was revoked: use another image")]
    Revoked(String),
    /// The component did not arrive.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// The file was not taken.
    #[error(transparent)]
    File(#[from] FileError),
    /// The component may not be served.
    #[error(transparent)]
    Audit(#[from] Refused),
    /// There is no machine code.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The cache does not work.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The artifact could not be sealed.
    #[error("the artifact could not be sealed: {0}; it is tried again")]
    Seal(#[from] SealError),
}

impl Rejection {
    /// The stable name: that of a `Reason` of the API.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Reference(ReferenceError::Invalid { .. }) => "InvalidReference",
            Self::Resolve(error) => match error {
                ResolveError::Registry { error, .. } => registry(error),
                ResolveError::DigestMismatch(_) => "DigestMismatch",
                ResolveError::Manifest(..) | ResolveError::Index { .. } | ResolveError::UnsupportedLayer { .. } => {
                    "UnsupportedLayer"
                }
                ResolveError::Precompiled { .. } => "PrecompiledLayer",
                ResolveError::TooLarge { .. } => "TooLarge",
            },
            Self::Revoked(_) => "Revoked",
            Self::Signature(SignatureError::Missing { .. }) => "SignatureMissing",
            Self::Signature(SignatureError::Invalid { .. }) => "SignatureInvalid",
            Self::Signature(SignatureError::Registry { error, .. }) => registry(error),
            Self::Pull(PullError::Registry { error, .. }) => registry(error),
            Self::Pull(PullError::DigestMismatch(_)) => "DigestMismatch",
            Self::Audit(Refused { why: AuditError::NoHttpExport(_), .. }) => "NoHttpExport",
            Self::Audit(Refused { why: AuditError::ImportDenied(_), .. }) => "ImportDenied",
            Self::Compile(error) => match error {
                CompileError::Facts(FactsError::Precompiled) => "PrecompiledLayer",
                CompileError::Facts(FactsError::CoreModule) => "CoreModule",
                CompileError::Facts(FactsError::NotWebAssembly(_)) => "NotWebAssembly",
                CompileError::Facts(FactsError::TooMany(_)) => "ImportDenied",
                CompileError::Failed(_) => "CompileFailed",
                CompileError::Time(_) | CompileError::Memory(_) | CompileError::Code => "CompileLimit",
                CompileError::Broken(_) => INTERNAL,
            },
            Self::File(FileError::Read { .. }) => "ImageNotFound",
            Self::File(FileError::TooLarge { .. }) => "TooLarge",
            Self::Pull(PullError::Disk(_)) | Self::File(FileError::Disk(_)) | Self::Store(_) | Self::Seal(_) => {
                INTERNAL
            }
        }
    }

    /// What the component imports, and what each import was granted; nothing when no audit has refused it.
    pub fn imports(&self) -> &[Import] {
        match self {
            Self::Audit(Refused { imports, .. }) => imports,
            _ => &[],
        }
    }

    /// How long the registry asks to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Resolve(ResolveError::Registry { error: RegistryError::Busy { wait, .. }, .. })
            | Self::Signature(SignatureError::Registry { error: RegistryError::Busy { wait, .. }, .. })
            | Self::Pull(PullError::Registry { error: RegistryError::Busy { wait, .. }, .. }) => Some(*wait),
            _ => None,
        }
    }

    /// Whether it may pass without a change of the object: what only a registry or the operator can mend. An image that
    /// is missing may yet be pushed or signed, and credentials be granted.
    pub fn is_transient(&self) -> bool {
        matches!(
            self.reason(),
            "ImageNotFound"
                | "Unauthorized"
                | "RegistryUnreachable"
                | "DigestMismatch"
                | "SignatureMissing"
                | "SignatureInvalid"
                | INTERNAL
        )
    }
}

const INTERNAL: &str = "InternalError";

fn registry(error: &RegistryError) -> &'static str {
    match error {
        RegistryError::NotFound => "ImageNotFound",
        RegistryError::Unauthorized(_) => "Unauthorized",
        RegistryError::OtherBytes => "DigestMismatch",
        RegistryError::Status(_)
        | RegistryError::Busy { .. }
        | RegistryError::NotAsked(_)
        | RegistryError::Unreachable(_)
        | RegistryError::TooLong(_)
        | RegistryError::Protocol(_) => "RegistryUnreachable",
    }
}
