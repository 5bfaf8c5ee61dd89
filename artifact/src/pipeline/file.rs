//! A file of this machine in place of a pulled one: a path in, its component in an open file out, hashed on the way. IO.
//!
//! It is copied first: what is hashed, audited and compiled are the same bytes, whatever becomes of the file meanwhile.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::{pull::PulledComponent, resolve::ResolvedImage};

/// Why a file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is not there, or may not be read.
    #[error("cannot read {}: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// It is too large for a component.
    #[error("{} is larger than {most} bytes, the most that a component may have: make it smaller", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most.
        most: u64,
    },
    /// The cache's disk.
    #[error("cannot keep the component in the cache: {0}; it is tried again")]
    Disk(#[from] io::Error),
}

/// Copies a component, which may have `most` bytes. Blocks.
pub(crate) fn take(path: &Path, folder: &Path, most: u64) -> Result<(ResolvedImage, PulledComponent), FileError> {
    let unreadable = |error| FileError::Read { path: path.to_owned(), error };
    let mut from = File::open(path).map_err(unreadable)?;
    let mut named = NamedTempFile::new_in(folder)?;
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0u64, vec![0; 256 << 10]);
    loop {
        let read = from.read(&mut buffer).map_err(unreadable)?;
        if read == 0 {
            break;
        }
        size += read as u64;
        if size > most {
            return Err(FileError::TooLarge { path: path.to_owned(), most });
        }
        hash.update(&buffer[..read]);
        named.write_all(&buffer[..read])?;
    }
    let digest = format!("sha256:{}", hex::encode(hash.finalize()));
    // A second descriptor: the child that is handed it must not be able to write.
    let component = PulledComponent::new(File::open(named.path())?);
    Ok((ResolvedImage::of_file(digest, size), component))
}
