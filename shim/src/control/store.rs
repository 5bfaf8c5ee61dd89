//! Sealed machine code on this node's disk: bytes as they are received in, verified files out. IO.
//!
//! A file is written under a temporary name, hashed on the way, and renamed to its hash when that is the sealed one.
//! What lies there from before is hashed again once per process. Either way the descriptor that was verified is kept,
//! and it is what is mapped: exchanging the name on disk exchanges nothing.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use podless_artifact::seal::Seal;
use sha2::{Digest, Sha256};

const EXTENSION: &str = "cwasm";

/// The directory of artifacts.
#[derive(Clone)]
pub(crate) struct Store(PathBuf);

/// A file whose bytes have the sealed hash. Made by this module only.
pub(crate) struct Verified {
    file: File,
    path: PathBuf,
}

impl Verified {
    /// The read-only descriptor that was verified.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Where it lies: its name in `/proc/self/maps`.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Why bytes were not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The disk.
    #[error("the artifact cannot be stored: {0}")]
    Io(#[from] io::Error),
    /// More bytes than were sealed, or fewer.
    #[error("the artifact does not have the sealed size of {0} bytes")]
    Size(u64),
    /// Other bytes than were sealed.
    #[error("the artifact does not have the sealed hash")]
    Hash,
}

impl Store {
    /// Opens the directory, and removes what a crash left half received.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let dir = dir.join("artifacts");
        fs::create_dir_all(&dir)?;
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != EXTENSION) {
                fs::remove_file(path)?;
            }
        }
        Ok(Self(dir))
    }

    /// The artifact when it lies here whole. A damaged file is removed. Hashes at about 2 GB/s: not for the hot path.
    pub(crate) fn find(&self, seal: &Seal) -> Result<Option<Verified>, StoreError> {
        let path = self.path(seal);
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut hash = Sha256::new();
        let size = io::copy(&mut (&mut file).take(seal.code_size + 1), &mut hash)?;
        if size == seal.code_size && hex::encode(hash.finalize()) == seal.code_sha256 {
            return Ok(Some(Verified { file, path }));
        }
        tracing::warn!(file = %path.display(), "an artifact on disk is damaged and is fetched again");
        fs::remove_file(path)?;
        Ok(None)
    }

    /// Begins to receive an artifact.
    pub(crate) fn receive(&self, seal: &Seal) -> Result<Receiving, StoreError> {
        // Two services may be receiving the same bytes at once: each writes a file of its own.
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let temporary = self.0.join(format!("{}.{next}.new", seal.code_sha256));
        let writer = fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(&temporary)?;
        let reader = File::open(&temporary)?;
        Ok(Receiving {
            seal: seal.clone(),
            path: self.path(seal),
            temporary: Temporary(Some(temporary)),
            writer,
            reader,
            hash: Sha256::new(),
            left: seal.code_size,
        })
    }

    /// Removes every artifact that is not among these hashes.
    pub(crate) fn sweep(&self, used: &HashSet<&str>) -> io::Result<()> {
        for entry in fs::read_dir(&self.0)? {
            let path = entry?.path();
            let is_artifact = path.extension().is_some_and(|extension| extension == EXTENSION);
            let is_used = path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| used.contains(stem));
            if is_artifact && !is_used {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn path(&self, seal: &Seal) -> PathBuf {
        self.0.join(format!("{}.{EXTENSION}", seal.code_sha256))
    }
}

/// An artifact that is being received.
pub(crate) struct Receiving {
    seal: Seal,
    path: PathBuf,
    temporary: Temporary,
    writer: File,
    reader: File,
    hash: Sha256,
    left: u64,
}

impl Receiving {
    /// Takes the next bytes; never more than were sealed.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let left = self.left.checked_sub(bytes.len() as u64).ok_or(StoreError::Size(self.seal.code_size))?;
        self.hash.update(bytes);
        self.writer.write_all(bytes)?;
        self.left = left;
        Ok(())
    }

    /// All bytes came: the file gets its name when they are the sealed ones.
    pub(crate) fn finish(mut self) -> Result<Verified, StoreError> {
        if self.left > 0 {
            return Err(StoreError::Size(self.seal.code_size));
        }
        if hex::encode(self.hash.finalize()) != self.seal.code_sha256 {
            return Err(StoreError::Hash);
        }
        if let Some(temporary) = self.temporary.0.take() {
            fs::rename(temporary, &self.path)?;
        }
        Ok(Verified { file: self.reader, path: self.path })
    }
}

/// A temporary file, removed unless it was taken.
struct Temporary(Option<PathBuf>);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use podless_artifact::seal::HttpWorld;

    use super::*;

    fn seal(bytes: &[u8]) -> Seal {
        Seal {
            component: "sha256:c".into(),
            code_sha256: hex::encode(Sha256::digest(bytes)),
            code_size: bytes.len() as u64,
            fingerprint: "f".into(),
            target: "t".into(),
            http: HttpWorld::P2,
        }
    }

    fn files(store: &Store) -> usize {
        fs::read_dir(&store.0).expect("listed").count()
    }

    #[test]
    fn only_the_sealed_bytes_are_taken() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("a store");
        let good = seal(b"good");
        for (bytes, want) in [(&b"gooood"[..], "size"), (b"goo", "size"), (b"evil", "hash")] {
            let mut receiving = store.receive(&good).expect("begun");
            let result = receiving.write(bytes).and_then(|()| receiving.finish());
            assert!(result.is_err_and(|error| error.to_string().contains(want)), "{bytes:?}");
            assert_eq!(files(&store), 0, "nothing is left of {bytes:?}");
        }
        let mut receiving = store.receive(&good).expect("begun");
        receiving.write(b"go").and_then(|()| receiving.write(b"od")).expect("written");
        receiving.finish().expect("verified");
        assert!(store.find(&good).expect("read").is_some());
    }

    #[test]
    fn a_damaged_file_is_removed_and_the_unused_are_swept() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("a store");
        for bytes in [&b"one"[..], b"two"] {
            let mut receiving = store.receive(&seal(bytes)).expect("begun");
            receiving.write(bytes).expect("written");
            receiving.finish().expect("verified");
        }
        let (one, two) = (seal(b"one"), seal(b"two"));
        fs::remove_file(store.path(&one)).and_then(|()| fs::write(store.path(&one), b"0ne")).expect("damaged");
        assert!(store.find(&one).expect("read").is_none());
        assert_eq!(files(&store), 1);
        store.sweep(&HashSet::from([two.code_sha256.as_str()])).expect("swept");
        assert!(store.find(&two).expect("read").is_some());
        store.sweep(&HashSet::new()).expect("swept");
        assert_eq!(files(&store), 0);
        fs::write(store.0.join("torn.new"), b"x").expect("written");
        assert_eq!(files(&Store::open(dir.path()).expect("opened again")), 0);
    }
}
