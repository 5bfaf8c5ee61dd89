//! Why a command ended without its result: an error in, a sentence and an exit code out. Pure.

use std::{fmt::Display, process::ExitCode};

use podless_artifact::{Credentials, PullError, PushError, RegistryError, Rejection, ResolveError};

/// What the operator's sentences end with; nothing is tried again here.
const AGAIN: &str = "; it is tried again";

/// Who can mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Who gave the command.
    Mistake,
    /// Who looks after the machine or the registry.
    Environment,
    /// Nobody: it was ended.
    Interrupted,
}

/// Why there is no result.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    kind: Kind,
    reason: &'static str,
    message: String,
}

impl Failure {
    /// What was asked for cannot be: `reason` is a stable name.
    pub(crate) fn mistake(reason: &'static str, message: impl Display) -> Self {
        Self { kind: Kind::Mistake, reason, message: message.to_string() }
    }

    /// The surroundings are at fault.
    pub(crate) fn environment(message: impl Display) -> Self {
        Self { kind: Kind::Environment, reason: "Environment", message: format!("{message:#}") }
    }

    /// A signal came first.
    pub(crate) fn interrupted() -> Self {
        Self { kind: Kind::Interrupted, reason: "Interrupted", message: "ended before it served".to_owned() }
    }

    /// The stable name.
    pub(crate) fn reason(&self) -> &'static str {
        self.reason
    }

    /// The code of the process.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.kind {
            Kind::Mistake => 1,
            Kind::Environment => 3,
            Kind::Interrupted => 130,
        })
    }

    /// The same, of one service among several.
    pub(crate) fn of(mut self, service: &str) -> Self {
        self.message = format!("{service}: {}", self.message);
        self
    }

    /// Why there is no artifact. `hint` tells more of credentials.
    pub(crate) fn rejected(rejection: &Rejection, hint: Option<&str>) -> Self {
        let reason = rejection.reason();
        let kind = match reason {
            "RegistryUnreachable" | "DigestMismatch" | "InternalError" => Kind::Environment,
            _ => Kind::Mistake,
        };
        let text = rejection.to_string();
        let message = match rejection {
            Rejection::Resolve(ResolveError::Registry { image, error: RegistryError::Unauthorized(credentials) })
            | Rejection::Pull(PullError::Registry { image, error: RegistryError::Unauthorized(credentials) }) => {
                unauthorized(image, credentials, hint)
            }
            // The flags of `run` grant what a spec does.
            Rejection::Audit(_) => text
                .replace("set spec.capabilities.logging", "give --logging, or set spec.capabilities.logging")
                .replace(
                    "set spec.capabilities.outboundHttp",
                    "give --allow-host, or set spec.capabilities.outboundHttp",
                ),
            _ => text.strip_suffix(AGAIN).unwrap_or(&text).to_owned(),
        };
        Self { kind, reason, message }
    }

    /// Why nothing was pushed.
    pub(crate) fn not_pushed(error: &PushError, hint: Option<&str>) -> Self {
        match error {
            PushError::Reference(error) => Self::mistake("InvalidReference", error),
            PushError::Component(error) => Self::mistake("NotAComponent", error),
            PushError::Refused(image) => Self::mistake(
                "Unauthorized",
                format!(
                    "the registry refuses {image}: {}",
                    hint.unwrap_or("log in with `docker login`, as who may push")
                ),
            ),
            PushError::Registry(..) => Self::environment(error),
        }
    }
}

/// The cluster's sentences name fields of the spec; here credentials are Docker's.
fn unauthorized(image: &str, credentials: &Credentials, hint: Option<&str>) -> String {
    let (who, what) = match credentials {
        Credentials::None => ("who has not logged in", "log in with `docker login`"),
        Credentials::ForOthers { .. } => (
            "who has not logged in, and ~/.docker/config.json knows other registries only",
            "log in with `docker login`",
        ),
        Credentials::Refused | Credentials::DefaultsRefused => {
            ("the user of ~/.docker/config.json", "log in again with `docker login`")
        }
    };
    format!("the registry refuses to give {image} to {who}: {}, and check that the image exists", hint.unwrap_or(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_for_this_machine() {
        let error = RegistryError::Unauthorized(Credentials::None);
        let rejection = Rejection::Resolve(ResolveError::Registry { image: "r/a:1".into(), error });
        let failure = Failure::rejected(&rejection, None);
        assert_eq!((failure.kind, failure.reason()), (Kind::Mistake, "Unauthorized"));
        assert!(failure.message.contains("docker login") && !failure.message.contains("spec."), "{failure}");
        assert!(Failure::rejected(&rejection, Some("ask the helper")).message.contains("ask the helper"));

        let error = RegistryError::Unreachable("no route".into());
        let rejection = Rejection::Resolve(ResolveError::Registry { image: "r/a:1".into(), error });
        let failure = Failure::rejected(&rejection, None).of("cart");
        assert_eq!(failure.kind, Kind::Environment);
        assert!(failure.message.starts_with("cart: ") && failure.message.ends_with("no route"), "{failure}");
    }
}
