//! The real thing: artifacts from registries, by the pipeline. In: what a service wants; out: a sealed artifact, or the
//! API's reason why not. IO.

use std::sync::Arc;

use anyhow::Context;
use futures::future::{BoxFuture, FutureExt};
use kube::Client;
use podless_artifact::{
    self as artifact, Grants, Options, Pipeline, RegistryOptions,
    seal::{SealKey, TrustedKeys},
};
use podless_crds::{Grant, Import, Reason};

use super::{
    Artifacts, Built, Code, Phase, Progress, Rejection, Wanted,
    pull_secret::{PullSecretError, logins},
};
use crate::cli::RunArgs;

/// Makes artifacts from what is in registries.
pub struct Registry {
    client: Client,
    pipeline: Arc<Pipeline>,
}

impl Registry {
    /// Opens the cache; `key` seals.
    pub fn new(client: Client, args: &RunArgs, key: SealKey) -> anyhow::Result<Self> {
        let mut options = Options::new(&args.cache_dir);
        let ca_pem = args.registry_ca_file.as_ref().map(std::fs::read).transpose();
        options.registry = RegistryOptions {
            plain_http: args.plain_http_registries.clone(),
            ca_pem: ca_pem.context("the file of --registry-ca-file cannot be read")?,
        };
        Ok(Self { client, pipeline: Arc::new(Pipeline::new(options, Arc::new(key))?) })
    }

    /// From now on this key seals. What any of the trusted ones has signed in the cache need not be compiled again.
    pub async fn use_key(&self, key: SealKey, trusted: TrustedKeys) {
        if let Err(error) = self.pipeline.use_key(Arc::new(key), trusted).await {
            tracing::warn!(%error, "the artifact cache cannot be signed anew: some of it will be compiled again");
        }
    }
}

impl Artifacts for Registry {
    fn build(&self, wanted: Wanted, progress: Progress) -> BoxFuture<'static, Result<Built, Rejection>> {
        let (client, pipeline) = (self.client.clone(), self.pipeline.clone());
        async move {
            if let Some(rest) = after_credentials(&wanted.image) {
                return Err(holds_credentials(rest));
            }
            let logins = logins(&client, &wanted.service.namespace, &wanted.pull_secrets).await?;
            let wanted = artifact::Wanted {
                image: &wanted.image,
                pinned: wanted.pinned.as_deref(),
                grants: Grants { logging: wanted.logging, outbound_http: wanted.outbound_http },
                logins: &logins,
            };
            let sealed = pipeline.build(wanted, |step| progress(phase(step))).await?;
            Ok(built(sealed))
        }
        .boxed()
    }
}

/// What stands after the credentials of `user:password@registry/…`; `None` when there are none. A digest is none.
fn after_credentials(image: &str) -> Option<&str> {
    let digest = image
        .rfind("@sha")
        .filter(|at| image[at + 4..].trim_start_matches(|c: char| c.is_ascii_digit()).starts_with(':'));
    let (_, rest) = image[..digest.unwrap_or(image.len())].rsplit_once('@')?;
    Some(&image[image.len() - rest.len() - digest.map_or(0, |at| image.len() - at)..])
}

/// Such a reference never parses: who says why must not repeat the password.
fn holds_credentials(rest: &str) -> Rejection {
    let message = format!(
        "the image reference has credentials before {rest:?}: take them out, change them, and name a secret with them in \
         spec.imagePullSecrets"
    );
    Rejection { reason: Reason::InvalidReference, message, transient: false }
}

fn phase(step: artifact::Progress) -> Phase {
    match step {
        artifact::Progress::Resolving => Phase::Resolving,
        artifact::Progress::Pulling { done, total } => {
            let percent = done.saturating_mul(100).checked_div(total).unwrap_or(0);
            Phase::Pulling(u8::try_from(percent).unwrap_or(100).min(100))
        }
        artifact::Progress::Compiling => Phase::Compiling,
    }
}

fn built(artifact: artifact::SealedArtifact) -> Built {
    let import = |i: &artifact::Import| Import {
        interface: i.interface.clone(),
        grant: match i.grant {
            artifact::Grant::Granted => Grant::Granted,
            artifact::Grant::Inert => Grant::Inert,
            artifact::Grant::Denied => Grant::Denied,
        },
    };
    Built {
        digest: artifact.image_digest().to_owned(),
        component_size: artifact.component_size(),
        imports: artifact.imports().iter().map(import).collect(),
        seal: artifact.seal().clone(),
        sealed: artifact.sealed().clone(),
        compile_millis: artifact.compile_millis(),
        code: Arc::new(Code {
            sha256: artifact.seal().code_sha256.clone(),
            size: artifact.seal().code_size,
            file: artifact.into_code(),
        }),
    }
}

impl From<artifact::Rejection> for Rejection {
    fn from(error: artifact::Rejection) -> Self {
        Self {
            reason: Reason::from_name(error.reason()).unwrap_or(Reason::InternalError),
            transient: error.is_transient(),
            message: error.to_string(),
        }
    }
}

/// Whatever is wrong with a secret, the object need not change for it to be mended.
impl From<PullSecretError> for Rejection {
    fn from(error: PullSecretError) -> Self {
        let reason = match error {
            PullSecretError::Name(_)
            | PullSecretError::Missing(_)
            | PullSecretError::Type(_)
            | PullSecretError::Malformed(_) => Reason::PullSecretInvalid,
            PullSecretError::Api(..) => Reason::InternalError,
        };
        Self { reason, message: error.to_string(), transient: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_of_the_pipeline_is_one_of_the_api() {
        // Those that `Rejection::reason` may answer; a name that the API does not have would become InternalError.
        for name in [
            "InvalidReference",
            "ImageNotFound",
            "Unauthorized",
            "RegistryUnreachable",
            "DigestMismatch",
            "UnsupportedLayer",
            "PrecompiledLayer",
            "TooLarge",
            "NoHttpExport",
            "ImportDenied",
            "CoreModule",
            "NotWebAssembly",
            "CompileFailed",
            "CompileLimit",
            "InternalError",
        ] {
            assert_eq!(Reason::from_name(name).map(Reason::as_str), Some(name));
        }
    }

    #[test]
    fn credentials_in_a_reference_are_found() {
        let digest = "@sha256:0123";
        for (image, want) in [
            ("r/a:1".to_owned(), None),
            (format!("r:5000/a{digest}"), None),
            ("r/a@sha512:0123".to_owned(), None),
            ("u:p@r:5000/a:1".to_owned(), Some("r:5000/a:1".to_owned())),
            ("u:p@r:5000".to_owned(), Some("r:5000".to_owned())),
            ("https://u:p@r/a".to_owned(), Some("r/a".to_owned())),
            ("u:p/@@w@r/a".to_owned(), Some("r/a".to_owned())),
            (format!("u:p@r/a{digest}"), Some(format!("r/a{digest}"))),
        ] {
            assert_eq!(after_credentials(&image).map(str::to_owned), want, "{image}");
        }
    }

    #[test]
    fn percent_of_what_has_come() {
        for (done, total, want) in [(0, 0, 0), (0, 9, 0), (9, 9, 100), (1, 3, 33), (10, 9, 100)] {
            assert_eq!(phase(artifact::Progress::Pulling { done, total }), Phase::Pulling(want));
        }
    }
}
