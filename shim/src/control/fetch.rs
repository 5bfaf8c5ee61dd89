//! Machine code from the operator: a seal in, a verified file out. IO: hashed and written while it is received.

use std::time::Duration;

use podless_artifact::seal::Seal;
use podless_link::v1::FetchRequest;
use tokio::time::timeout;

use super::{
    link::Client,
    store::{Store, StoreError, Verified},
    verify::Order,
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
    let (mut receiving, mut note) = (store.receive(seal)?, vec![]);
    while let Some(chunk) = timeout(STALL, stream.message()).await.map_err(|_| FetchError::Stalled)?.map_err(refused)? {
        receiving.write(&chunk.data)?;
        if note.is_empty() {
            note = chunk.note;
        }
    }
    let verified = receiving.finish()?;
    // Nothing here depends on it.
    if let Err(error) = store.keep_note(seal, &note) {
        tracing::warn!(%error, "the note of an artifact cannot be kept: the operator cannot have it back from here");
    }
    Ok(verified)
}

/// Fetches the note of an artifact that lies here already, when it is not the order's own: the operator has lost its cache
/// and made the same code again.
pub(crate) async fn fetch_note(client: Option<Client>, store: &Store, order: &Order) -> Result<(), FetchError> {
    if store.note(&order.seal, &order.note_sha256).is_some() {
        return Ok(());
    }
    let mut client = client.ok_or(FetchError::Disconnected)?;
    let request = FetchRequest { sha256: order.seal.code_sha256.clone() };
    let refused = |status| FetchError::Refused(Box::new(status));
    let stream = timeout(STALL, client.fetch(request)).await.map_err(|_| FetchError::Stalled)?;
    // It comes first, and the code is not read.
    let first = timeout(STALL, stream.map_err(refused)?.get_mut().message()).await.map_err(|_| FetchError::Stalled)?;
    let note = first.map_err(refused)?.unwrap_or_default().note;
    Ok(store.keep_note(&order.seal, &note).map_err(StoreError::from)?)
}
