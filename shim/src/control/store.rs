//! Sealed machine code on this node's disk: bytes as they are received in, verified files out. IO.
//!
//! A file is written under a temporary name, hashed on the way, and renamed to its hash when that is the sealed one.
//! What lies there from before is hashed again before it is mapped, once for each process and each change (see `looked`).
//! Either way the descriptor that was verified is kept, and it is what is mapped: exchanging the name on disk exchanges nothing.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use podless_artifact::seal::Seal;
use podless_link::NOTE_BYTES;
use rustix::{fs::OFlags, process::geteuid};
use sha2::{Digest, Sha256};

use super::looked::{Looked, Stamp};

const EXTENSION: &str = "cwasm";
/// What the operator knows of an artifact lies beside it; nobody here reads it.
const NOTE: &str = "note";
/// Mode of an artifact's file: its owner reads it, and nobody writes it.
const MODE: u32 = 0o400;

/// The directory of artifacts.
#[derive(Clone)]
pub(crate) struct Store {
    dir: PathBuf,
    looked: Looked,
}

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
    #[error("the artifact cannot be stored, look at the shim's volume `data` (shim.data.sizeLimit): {0}")]
    Io(#[from] io::Error),
    /// More bytes than were sealed, or fewer.
    #[error("the artifact does not have the sealed size of {0} bytes")]
    Size(u64),
    /// Other bytes than were sealed.
    #[error("the artifact does not have the sealed hash")]
    Hash,
}

/// What is wrong with a file on disk.
#[derive(Debug, thiserror::Error)]
enum Damage {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is no file")]
    Kind,
    #[error("it belongs to user {0}")]
    Owner(u32),
    #[error("it does not have the sealed size and hash")]
    Bytes,
}

/// Opens an artifact's file and looks at all of it, unless it was looked at since it has changed last.
fn read(path: &Path, seal: &Seal, looked: &Looked) -> Result<File, Damage> {
    let mut file = fs::OpenOptions::new().read(true).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Damage::Kind);
    }
    if metadata.uid() != geteuid().as_raw() {
        return Err(Damage::Owner(metadata.uid()));
    }
    if metadata.mode() & 0o777 != MODE {
        // Before it is read: who could write it cannot open it any more.
        file.set_permissions(fs::Permissions::from_mode(MODE))?;
    }
    let (stamp, began) = (Stamp::of(&file.metadata()?), SystemTime::now());
    if looked.knows(seal, stamp) {
        return Ok(file);
    }
    let mut hash = Sha256::new();
    let size = io::copy(&mut (&mut file).take(seal.code_size + 1), &mut hash)?;
    if size != seal.code_size || hex::encode(hash.finalize()) != seal.code_sha256 {
        return Err(Damage::Bytes);
    }
    looked.note(seal, stamp, began);
    Ok(file)
}

fn clear(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != EXTENSION && extension != NOTE) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

impl Store {
    /// Opens the directory, and removes what a crash left half received. A disk that takes nothing is said and no
    /// reason to stop: what lies there can still be served.
    pub(crate) fn open(dir: &Path) -> Self {
        let dir = dir.join("artifacts");
        if let Err(error) = fs::create_dir_all(&dir).and_then(|()| clear(&dir)) {
            tracing::error!(%error, dir = %dir.display(), "the volume for artifacts cannot be written");
        }
        Self { dir, looked: Looked::default() }
    }

    /// The artifact when it lies here whole, and nobody else can write it. What is damaged is removed, if it can be, and
    /// fetched again. Hashes at about 2 GB/s what was not looked at by this process, or has changed since.
    pub(crate) fn find(&self, seal: &Seal) -> Option<Verified> {
        let path = self.path(seal);
        match read(&path, seal, &self.looked) {
            Ok(file) => return Some(Verified { file, path }),
            Err(Damage::Io(error)) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(damage) => {
                tracing::warn!(file = %path.display(), "an artifact on disk is fetched again: {damage}");
            }
        }
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(file = %path.display(), %error, "the damaged artifact cannot be removed");
        }
        None
    }

    /// Whether there is something for [`Self::settle`].
    pub(crate) fn is_unsettled(&self) -> bool {
        self.looked.has_fresh()
    }

    /// Looks once more at what was received a moment ago, so that no request waits for that later. Blocks.
    pub(crate) fn settle(&self) {
        for seal in self.looked.take_fresh() {
            let _ = self.find(&seal);
        }
    }

    /// Whether something of the artifact's name and size lies here, which costs nothing to ask for thousands of them.
    /// [`Self::find`] looks at its bytes before they are mapped.
    pub(crate) fn lies_here(&self, seal: &Seal) -> bool {
        let found = fs::symlink_metadata(self.path(seal));
        found.is_ok_and(|file| file.is_file() && file.len() == seal.code_size)
    }

    /// Begins to receive an artifact.
    pub(crate) fn receive(&self, seal: &Seal) -> Result<Receiving, StoreError> {
        // Two services may be receiving the same bytes at once: each writes a file of its own.
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let temporary = self.dir.join(format!("{}.{next}.new", seal.code_sha256));
        // It may have gone under us.
        fs::create_dir_all(&self.dir)?;
        let writer = fs::OpenOptions::new().write(true).create_new(true).mode(MODE).open(&temporary)?;
        let reader = File::open(&temporary)?;
        Ok(Receiving {
            seal: seal.clone(),
            path: self.path(seal),
            looked: self.looked.clone(),
            temporary: Temporary(Some(temporary)),
            writer,
            reader,
            hash: Sha256::new(),
            left: seal.code_size,
        })
    }

    /// Keeps the note of an artifact.
    pub(crate) fn keep_note(&self, seal: &Seal, note: &[u8]) -> io::Result<()> {
        if note.is_empty() || note.len() > NOTE_BYTES {
            return Ok(());
        }
        let path = self.note_path(seal);
        // Two services may have received the same: whoever is last writes the same, and what is torn is seen by its hash.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => fs::write(path, note),
        }
    }

    /// The note of an artifact, if it is the one with this hash.
    pub(crate) fn note(&self, seal: &Seal, sha256: &str) -> Option<Vec<u8>> {
        let path = self.note_path(seal);
        let is_small = fs::symlink_metadata(&path).is_ok_and(|file| file.is_file() && file.len() <= NOTE_BYTES as u64);
        let note = is_small.then(|| fs::read(path).ok())??;
        (hex::encode(Sha256::digest(&note)) == sha256).then_some(note)
    }

    /// The note of an artifact, and its code, open, which is not looked at. `None`: they are not both here.
    pub(crate) fn with_note(&self, seal: &Seal, note_sha256: &str) -> Option<(Vec<u8>, File)> {
        let note = self.note(seal, note_sha256)?;
        self.lies_here(seal).then(|| Some((note, File::open(self.path(seal)).ok()?)))?
    }

    /// Removes every artifact that is not among these hashes.
    pub(crate) fn sweep(&self, used: &HashSet<&str>) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let is_artifact = path.extension().is_some_and(|extension| extension == EXTENSION || extension == NOTE);
            let is_used = path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| used.contains(stem));
            if is_artifact && !is_used {
                fs::remove_file(path)?;
            }
        }
        self.looked.retain(|sha256| used.contains(sha256));
        Ok(())
    }

    fn path(&self, seal: &Seal) -> PathBuf {
        self.dir.join(format!("{}.{EXTENSION}", seal.code_sha256))
    }

    fn note_path(&self, seal: &Seal) -> PathBuf {
        self.dir.join(format!("{}.{NOTE}", seal.code_sha256))
    }
}

/// An artifact that is being received.
pub(crate) struct Receiving {
    seal: Seal,
    path: PathBuf,
    looked: Looked,
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
        self.looked.note(&self.seal, Stamp::of(&self.reader.metadata()?), SystemTime::now());
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
            wasmtime: "1.2.3".into(),
            target: "t".into(),
            http: HttpWorld::P2,
            flavour: podless_engine::Flavour::P2,
            made_at: String::new(),
        }
    }

    fn files(store: &Store) -> usize {
        fs::read_dir(&store.dir).expect("listed").count()
    }

    #[test]
    fn only_the_sealed_bytes_are_taken() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path());
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
        assert!(store.find(&good).is_some());
    }

    #[test]
    fn a_damaged_file_is_removed_and_the_unused_are_swept() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path());
        for bytes in [&b"one"[..], b"two"] {
            let mut receiving = store.receive(&seal(bytes)).expect("begun");
            receiving.write(bytes).expect("written");
            receiving.finish().expect("verified");
        }
        let (one, two) = (seal(b"one"), seal(b"two"));
        fs::remove_file(store.path(&one)).and_then(|()| fs::write(store.path(&one), b"0ne")).expect("damaged");
        assert!(store.find(&one).is_none());
        assert_eq!(files(&store), 1);
        for seal in [&one, &two] {
            store.keep_note(seal, b"note").expect("kept");
        }
        let note = hex::encode(Sha256::digest(b"note"));
        assert!(store.with_note(&one, &note).is_none(), "there is no code to it");
        let store = Store::open(dir.path());
        assert_eq!(store.with_note(&two, &note).expect("both").0, b"note");
        assert!(store.with_note(&two, "another").is_none());
        store.sweep(&HashSet::from([two.code_sha256.as_str()])).expect("swept");
        assert!(store.find(&two).is_some());
        assert_eq!(files(&store), 2);
        store.sweep(&HashSet::new()).expect("swept");
        assert_eq!(files(&store), 0);
        fs::write(store.dir.join("torn.new"), b"x").expect("written");
        assert_eq!(files(&Store::open(dir.path())), 0);
    }

    #[test]
    fn what_was_looked_at_is_hashed_again_when_it_has_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path());
        let good = seal(b"good");
        let mut receiving = store.receive(&good).expect("begun");
        receiving.write(b"good").expect("written");
        receiving.finish().expect("verified");
        let path = store.path(&good);
        let known = || store.looked.knows(&good, Stamp::of(&fs::metadata(&path).expect("a file")));
        assert!(!known() && store.is_unsettled(), "it is too new");
        while store.is_unsettled() {
            store.settle();
        }
        assert!(known() && store.find(&good).is_some());
        // By whom nothing can keep out, in place, and with the same time of writing.
        let written = fs::metadata(&path).and_then(|file| file.modified()).expect("a time");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("opened");
        fs::write(&path, b"g00d").expect("written");
        File::options().write(true).open(&path).and_then(|file| file.set_modified(written)).expect("set back");
        fs::set_permissions(&path, fs::Permissions::from_mode(MODE)).expect("closed");
        assert!(!known() && store.find(&good).is_none());
    }

    #[test]
    fn what_others_could_write_is_ours_alone_or_not_taken() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path());
        let good = seal(b"good");
        let path = store.path(&good);
        fs::write(&path, b"good").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("opened to all");
        assert!(store.find(&good).is_some());
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, MODE);
        // The right bytes under another name.
        fs::rename(&path, dir.path().join("elsewhere")).expect("moved");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).expect("linked");
        assert!(store.find(&good).is_none() && fs::symlink_metadata(&path).is_err(), "a link is removed");
        fs::create_dir(&path).expect("made");
        assert!(store.find(&good).is_none());
        if geteuid().is_root() {
            fs::remove_dir(&path).and_then(|()| fs::write(&path, b"good")).expect("written");
            std::os::unix::fs::chown(&path, Some(12_345), None).expect("given away");
            assert!(store.find(&good).is_none() && !path.exists());
        }
        // The directory goes under it, and comes again with the next artifact.
        fs::remove_dir_all(&store.dir).expect("removed");
        assert!(store.find(&good).is_none());
        let mut receiving = store.receive(&good).expect("begun");
        receiving.write(b"good").expect("written");
        receiving.finish().expect("verified");
        assert!(store.find(&good).is_some());
    }
}
