//! Machine code that comes back from where it is used: a note and bytes in, an entry of the cache out. IO.
//!
//! The note is what the cache knew of the code, but for where it was pulled from; it names the code by hash. So whoever
//! calls this needs to know only that the note is one of ours.

use std::io::{self, Write};

use podless_engine::Recipe;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::store::{Record, Store, StoreError};

/// Largest machine code that is taken back.
const CODE_BYTES: u64 = 1 << 30;

/// Why what came back was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The note cannot be read: an earlier version has written it, or a later one.
    #[error("the note cannot be read: {0}")]
    Note(String),
    /// It is of something else.
    #[error("the note is of another component or engine")]
    Other,
    /// More bytes than the note says, or fewer.
    #[error("there are not the {0} bytes that the note names")]
    Size(u64),
    /// Other bytes.
    #[error("the code does not have the hash that the note names")]
    Hash,
    /// The cache.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<io::Error> for ReceiveError {
    fn from(error: io::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Code that is coming back. Its calls block for as long as hashing and writing take.
pub struct Receiving {
    store: Store,
    record: Record,
    file: NamedTempFile,
    hash: Sha256,
    left: u64,
}

impl Receiving {
    /// Begins with a note that is ours, which is to be of this component and recipe.
    pub(super) fn begin(store: Store, note: &[u8], component: &str, recipe: Recipe) -> Result<Self, ReceiveError> {
        let record: Record = serde_json::from_slice(note).map_err(|error| ReceiveError::Note(error.to_string()))?;
        if !record.is(component, recipe) {
            return Err(ReceiveError::Other);
        }
        if record.code_size > CODE_BYTES {
            return Err(ReceiveError::Size(CODE_BYTES));
        }
        let file = NamedTempFile::new_in(store.unfinished())?;
        Ok(Self { left: record.code_size, store, record, file, hash: Sha256::new() })
    }

    /// Takes the next bytes; never more than the note names.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ReceiveError> {
        let size = self.record.code_size;
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or(ReceiveError::Size(size))?;
        self.hash.update(bytes);
        Ok(self.file.write_all(bytes)?)
    }

    /// All bytes came: the cache has the code when they are those of the note.
    pub fn finish(self) -> Result<(), ReceiveError> {
        let Self { store, record, file, hash, left } = self;
        if left > 0 {
            return Err(ReceiveError::Size(record.code_size));
        }
        if hex::encode(hash.finalize()) != record.code_sha256 {
            return Err(ReceiveError::Hash);
        }
        store.keep(file, record)?;
        Ok(())
    }
}
