//! Pulling: a resolved image in, its component in an open file out, hashed on the way. IO.

use std::{fs::File, io, path::Path, time::Duration};

use futures::StreamExt;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::{
    registry::{RegistryError, Session},
    resolve::{ResolvedImage, registry_sentence},
};

/// Longest that a component may take to arrive.
const PULL_TIMEOUT: Duration = Duration::from_secs(600);

/// A component with the digest that the manifest promised, in a file that has no name any more.
pub(crate) struct PulledComponent {
    file: File,
}

impl PulledComponent {
    /// A component whose bytes have been hashed.
    pub(super) fn new(file: File) -> Self {
        Self { file }
    }

    /// The component, open for reading only.
    pub(crate) fn into_file(self) -> File {
        self.file
    }
}

/// Why a component did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry did not deliver.
    #[error("{}", registry_sentence(.image, .error))]
    Registry {
        /// The reference.
        image: String,
        /// What happened.
        error: RegistryError,
    },
    /// Other bytes than the manifest promises.
    #[error("registry sent other bytes for the component of {0} than its manifest promises; it is tried again")]
    DigestMismatch(String),
    /// The cache's disk.
    #[error("cannot keep the component in the cache: {0}; it is tried again")]
    Disk(#[from] io::Error),
}

/// Gets the component; `progress` is told how many bytes are there.
pub(crate) async fn pull(
    image: &str,
    resolved: &ResolvedImage,
    session: &mut Session<'_>,
    folder: &Path,
    progress: impl Fn(u64),
) -> Result<PulledComponent, PullError> {
    let failed = |error| PullError::Registry { image: image.to_owned(), error };
    let work = async {
        let path = format!("blobs/{}", resolved.component());
        let mut stream = session.get(&path, "*/*").await.map_err(failed)?.bytes_stream();
        let (written, file) = {
            let named = tempfile::NamedTempFile::new_in(folder)?;
            // A second descriptor: the child that is handed it must not be able to write.
            (tokio::fs::File::from_std(named.reopen()?), File::open(named.path())?)
        };
        let mut written = written;
        let (mut hash, mut size) = (Sha256::new(), 0);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| failed(error.into()))?;
            size += chunk.len() as u64;
            if size > resolved.size() {
                return Err(PullError::DigestMismatch(image.to_owned()));
            }
            hash.update(&chunk);
            written.write_all(&chunk).await?;
            progress(size);
        }
        written.flush().await?;
        if size != resolved.size() || format!("sha256:{}", hex::encode(hash.finalize())) != resolved.component() {
            return Err(PullError::DigestMismatch(image.to_owned()));
        }
        Ok(PulledComponent::new(file))
    };
    tokio::time::timeout(PULL_TIMEOUT, work).await.unwrap_or_else(|_| {
        let late = format!("the component did not arrive within {} s", PULL_TIMEOUT.as_secs());
        Err(failed(RegistryError::Unreachable(late)))
    })
}
