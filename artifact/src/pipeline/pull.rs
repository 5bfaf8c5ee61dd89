//! Pulling: a signed image in, its component in an open file out, hashed on the way. IO. What breaks off is gone on with
//! where it broke off, or begun again if the registry cannot do that. What a mirror does not bring is begun again without it.

use std::{fs::File, io, path::Path, time::Duration};

use futures::StreamExt;
use reqwest::{Response, StatusCode, header::CONTENT_RANGE};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

use super::{
    registry::{RegistryError, Session},
    resolve::{ResolvedImage, registry_sentence},
    signature::SignedImage,
};

/// Longest that a component may take to arrive; without a mirror that was wrong or slow its time begins again.
const PULL_TIMEOUT: Duration = Duration::from_secs(600);
/// How often a component that broke off is gone on with.
const RESUMED: u32 = 5;
/// How often it is begun again.
const BEGUN_AGAIN: u32 = 1;

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
    signed: SignedImage<'_>,
    session: &mut Session<'_>,
    folder: &Path,
    progress: impl Fn(u64),
) -> Result<PulledComponent, PullError> {
    loop {
        let work = arrive(image, signed.resolved(), session, folder, &progress);
        let arrived = tokio::time::timeout(PULL_TIMEOUT, work).await.unwrap_or_else(|_| {
            let late = format!("the component did not arrive within {} s", PULL_TIMEOUT.as_secs());
            Err(PullError::Registry { image: image.to_owned(), error: RegistryError::Unreachable(late) })
        });
        match arrived {
            Err(error @ (PullError::Registry { .. } | PullError::DigestMismatch(_))) if session.pass_over() => {
                tracing::debug!(image, %error, "a mirror is not asked again");
            }
            arrived => return arrived,
        }
    }
}

/// Gets it from whoever has it now.
async fn arrive(
    image: &str,
    resolved: &ResolvedImage,
    session: &mut Session<'_>,
    folder: &Path,
    progress: &impl Fn(u64),
) -> Result<PulledComponent, PullError> {
    let failed = |error| PullError::Registry { image: image.to_owned(), error };
    let path = format!("blobs/{}", resolved.component());
    let (written, file) = {
        let named = tempfile::NamedTempFile::new_in(folder)?;
        // A second descriptor: the child that is handed it must not be able to write.
        (tokio::fs::File::from_std(named.reopen()?), File::open(named.path())?)
    };
    let mut arriving = Arriving { image, most: resolved.size(), written, hash: Sha256::new(), size: 0 };
    let (mut resumed, mut begun_again) = (0, 0);
    loop {
        let response = session.get_from(&path, "*/*", arriving.size).await.map_err(failed)?;
        if arriving.size > 0 && !goes_on(&response, arriving.size).map_err(failed)? {
            begun_again += 1;
            arriving.begin_again().await?;
        }
        match arriving.take(response, progress).await? {
            None => break,
            // Nothing is missing.
            Some(_) if arriving.size == resolved.size() => break,
            Some(broken) if resumed >= RESUMED || begun_again >= BEGUN_AGAIN => return Err(failed(broken)),
            Some(broken) => {
                tracing::debug!(image, size = arriving.size, %broken, "a component broke off");
                resumed += 1;
            }
        }
    }
    arriving.written.flush().await?;
    let digest = format!("sha256:{}", hex::encode(arriving.hash.finalize()));
    if arriving.size != resolved.size() || digest != resolved.component() {
        return Err(PullError::DigestMismatch(image.to_owned()));
    }
    Ok(PulledComponent::new(file))
}

/// Whether an answer begins where the last one broke off; if not, it is the whole.
fn goes_on(response: &Response, from: u64) -> Result<bool, RegistryError> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Ok(false);
    }
    let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok()).unwrap_or_default();
    match range.starts_with(&format!("bytes {from}-")) {
        true => Ok(true),
        false => Err(RegistryError::Protocol("it sends another part of the component than was asked for")),
    }
}

/// What has come so far.
struct Arriving<'a> {
    image: &'a str,
    /// Bytes that are promised.
    most: u64,
    written: tokio::fs::File,
    hash: Sha256,
    size: u64,
}

impl Arriving<'_> {
    async fn begin_again(&mut self) -> io::Result<()> {
        (self.hash, self.size) = (Sha256::new(), 0);
        self.written.rewind().await?;
        self.written.set_len(0).await
    }

    /// Takes what an answer brings, and why it broke off if it did.
    async fn take(&mut self, response: Response, progress: &impl Fn(u64)) -> Result<Option<RegistryError>, PullError> {
        let mut stream = response.bytes_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => return Ok(Some(error.into())),
            };
            self.size += chunk.len() as u64;
            if self.size > self.most {
                return Err(PullError::DigestMismatch(self.image.to_owned()));
            }
            self.hash.update(&chunk);
            self.written.write_all(&chunk).await?;
            progress(self.size);
        }
        Ok(None)
    }
}
