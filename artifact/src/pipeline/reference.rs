//! The first step: text in, an image reference out. Pure.

use std::fmt;

use oci_client::Reference;

/// A reference that parses, by tag or by SHA-256 digest.
#[derive(Clone, Debug)]
pub struct ImageReference(Reference);

/// Why a text is no reference.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It does not parse.
    #[error(
        "{text:?} is not an image reference ({why}): write it as registry/repository:tag or \
         registry/repository@sha256:…"
    )]
    Invalid {
        /// What was written.
        text: String,
        /// What is wrong with it.
        why: String,
    },
}

impl ImageReference {
    /// Reads a reference; `pinned` is the digest that its tag is known to mean.
    pub fn parse(text: &str, pinned: Option<&str>) -> Result<Self, ReferenceError> {
        let invalid = |why: String| ReferenceError::Invalid { text: text.to_owned(), why };
        let mut reference: Reference =
            text.parse().map_err(|error: oci_client::ParseError| invalid(error.to_string()))?;
        if let Some(digest) = pinned {
            reference = reference.clone_with_digest(digest.to_owned());
        }
        // A first part in capitals could be a host, and so the parser lets it pass; here it stands for what Docker Hub has.
        if reference.repository().bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(invalid("a repository is written in lower case".to_owned()));
        }
        match reference.digest() {
            Some(digest) if !is_sha256(digest) => Err(invalid("only sha256 digests are taken".to_owned())),
            _ => Ok(Self(reference)),
        }
    }

    /// Host, with its port if there is one, as it was written.
    pub fn registry(&self) -> &str {
        self.0.registry()
    }

    /// Host that answers for the registry.
    pub(crate) fn host(&self) -> &str {
        self.0.resolve_registry()
    }

    /// Path of the repository in its registry.
    pub fn repository(&self) -> &str {
        self.0.repository()
    }

    /// Digest, when the reference has one.
    pub(crate) fn digest(&self) -> Option<&str> {
        self.0.digest()
    }

    /// Digest or tag: what names a manifest in the repository.
    pub(crate) fn manifest(&self) -> &str {
        self.digest().or(self.0.tag()).unwrap_or("latest")
    }

    /// For who pushes there.
    #[cfg(feature = "parse")]
    pub(crate) fn as_oci(&self) -> &Reference {
        &self.0
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether this is `sha256:` and 64 lower-case hexadecimal digits: what may become a part of a path.
pub(crate) fn is_sha256(digest: &str) -> bool {
    digest
        .strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, host, repository, manifest) in [
            ("registry.local:5000/hello:1.0", "registry.local:5000", "hello", "1.0"),
            ("registry.local/team/hello", "registry.local", "team/hello", "latest"),
            ("hello:1", "index.docker.io", "library/hello", "1"),
            (&format!("registry.local/hello@{digest}"), "registry.local", "hello", &digest),
            (&format!("registry.local/hello:1@{digest}"), "registry.local", "hello", &digest),
        ] {
            let reference = ImageReference::parse(text, None).expect(text);
            assert_eq!((reference.host(), reference.repository(), reference.manifest()), (host, repository, manifest));
        }
        let pinned = ImageReference::parse("registry.local/hello:1", Some(&digest)).expect("pinned");
        assert_eq!(pinned.manifest(), digest);
    }

    #[test]
    fn what_is_not_one() {
        let sha512 = format!("r.local/a@sha512:{}", "a".repeat(128));
        let upper = format!("r.local/a@sha256:{}", "A".repeat(64));
        for text in [
            "",
            "Not A Reference",
            "r.local/a:",
            "r.local/a@sha256:12",
            "http://r.local/a:1",
            "Team/a:1",
            &sha512,
            &upper,
        ] {
            let error = ImageReference::parse(text, None).expect_err(text).to_string();
            assert!(error.contains("registry/repository:tag"), "{error}");
        }
    }
}
