//! Machine code from the operator: a seal in, a verified file out. IO: hashed and written while it is received.

use std::time::Duration;

use podless_artifact::seal::Seal;
use podless_link::v1::FetchRequest;
use tokio::time::timeout;

use super::{
    link::Client,
    store::{Store, StoreError, Verified},
};

/// Longest wait for the next bytes.
const STALL: Duration = Duration::from_secs(20);

/// Why there is no artifact.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The operator is away.
    #[error("the operator is not connected")]
    Disconnected,
    /// The operator refused, or the stream broke.
    #[error("the operator did not send the artifact: {0}")]
    Refused(Box<tonic::Status>),
    /// Nothing came.
    #[error("the operator sent nothing for {} seconds", STALL.as_secs())]
    Stalled,
    /// What came was not taken.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Fetches an artifact.
pub(crate) async fn fetch(client: Option<Client>, store: &Store, seal: &Seal) -> Result<Verified, FetchError> {
    let mut client = client.ok_or(FetchError::Disconnected)?;
    let request = FetchRequest { sha256: seal.code_sha256.clone() };
    let refused = |status| FetchError::Refused(Box::new(status));
    let stream = timeout(STALL, client.fetch(request)).await.map_err(|_| FetchError::Stalled)?;
    let mut stream = stream.map_err(refused)?.into_inner();
    let mut receiving = store.receive(seal)?;
    while let Some(chunk) = timeout(STALL, stream.message()).await.map_err(|_| FetchError::Stalled)?.map_err(refused)? {
        receiving.write(&chunk.data)?;
    }
    Ok(receiving.finish()?)
}
