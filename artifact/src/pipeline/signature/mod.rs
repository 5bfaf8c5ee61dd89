//! The step between resolving and pulling: what an image means and whose signature it must have in, or why it is not signed
//! so. Nothing of the component is fetched before. IO.
//!
//! A signature is over a manifest's digest: that of the manifest with the component, or of the index that leads to it.

mod fetch;
mod judge;
mod requirement;
mod simple;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Mutex, PoisonError},
};

pub use requirement::{IdentityText, KeylessText, RequirementError, SignatureRequirement, SubjectText};

use judge::{Refused, judge};

use super::{
    registry::{RegistryError, Session},
    resolve::{ResolvedImage, registry_sentence},
};

/// Most verdicts that are remembered.
const MOST_VERDICTS: usize = 10_000;

/// Why an image is not signed as it must be.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// Nobody has signed it.
    #[error(
        "{image} has no cosign signature, and {asked_by} requires one: sign it by `cosign sign --key … \
         {repository}@{digest}`, or as one of the identities that are named there; it is looked for again"
    )]
    Missing {
        /// The reference.
        image: String,
        /// Registry and repository.
        repository: String,
        /// What must be signed.
        digest: String,
        /// Who requires it.
        asked_by: String,
    },
    /// Others have signed it than those who must.
    #[error(
        "{image} has no cosign signature that {asked_by} takes (there are signatures {why}): sign it by `cosign sign \
         --key … {repository}@{digest}` with a key, or as an identity, that is named there; it is looked for again"
    )]
    Invalid {
        /// The reference.
        image: String,
        /// Registry and repository.
        repository: String,
        /// What must be signed.
        digest: String,
        /// Who requires it.
        asked_by: String,
        /// Why those that there are do not count.
        why: String,
    },
    /// The registry did not deliver.
    #[error("{}", registry_sentence(.image, .error))]
    Registry {
        /// The reference.
        image: String,
        /// What happened.
        error: RegistryError,
    },
}

/// What was verified since the start, by digest and requirement: both say all that a verdict depends on.
#[derive(Default)]
pub(crate) struct Verified(Mutex<HashSet<(String, [u8; 32])>>);

impl Verified {
    /// Whether all that is required of this digest was verified.
    pub(crate) fn has_all(&self, digest: &str, requirements: &[SignatureRequirement]) -> bool {
        requirements.iter().all(|required| self.has(digest, required))
    }

    fn has(&self, digest: &str, requirement: &SignatureRequirement) -> bool {
        let verdicts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        verdicts.contains(&(digest.to_owned(), requirement.id()))
    }

    fn add(&self, digest: &str, requirement: &SignatureRequirement) {
        let mut verdicts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if verdicts.len() >= MOST_VERDICTS {
            verdicts.clear();
        }
        verdicts.insert((digest.to_owned(), requirement.id()));
    }
}

/// An image that has all signatures that it must have.
#[derive(Clone, Copy)]
pub(crate) struct SignedImage<'a>(&'a ResolvedImage);

impl SignedImage<'_> {
    /// What it is.
    pub(crate) fn resolved(&self) -> &ResolvedImage {
        self.0
    }
}

/// Looks for the signatures of an image, and whether each requirement has one of those that it takes.
pub(crate) async fn verify<'a>(
    image: &str,
    resolved: &'a ResolvedImage,
    requirements: &[SignatureRequirement],
    session: &mut Session<'_>,
    verified: &Verified,
) -> Result<SignedImage<'a>, SignatureError> {
    let open: Vec<_> = requirements.iter().filter(|required| !verified.has(resolved.digest(), required)).collect();
    if open.is_empty() {
        return Ok(SignedImage(resolved));
    }
    let digests = BTreeSet::from([resolved.digest(), resolved.manifest()]);
    let mut found = Vec::new();
    for digest in &digests {
        let signatures = fetch::signatures(session, digest).await;
        found.extend(signatures.map_err(|error| SignatureError::Registry { image: image.to_owned(), error })?);
    }
    let digests: Vec<_> = digests.into_iter().collect();
    for requirement in open {
        judge(requirement, &digests, &found).map_err(|why| refusal(image, resolved, requirement, &why))?;
        verified.add(resolved.digest(), requirement);
    }
    Ok(SignedImage(resolved))
}

fn refusal(
    image: &str,
    resolved: &ResolvedImage,
    requirement: &SignatureRequirement,
    why: &BTreeSet<Refused>,
) -> SignatureError {
    let (image, repository) = (image.to_owned(), resolved.repository().to_owned());
    let (digest, asked_by) = (resolved.digest().to_owned(), requirement.asked_by().to_owned());
    if why.is_empty() {
        return SignatureError::Missing { image, repository, digest, asked_by };
    }
    let why = why.iter().take(3).map(Refused::to_string).collect::<Vec<_>>().join("; ");
    SignatureError::Invalid { image, repository, digest, asked_by, why }
}
