//! The cache: machine code by (component digest, recipe, engine fingerprint), in files. A file that is torn, changed or
//! no file at all is noticed when it is opened, and removed. IO; `evict` decides what goes when there is too much.
//!
//! An entry is a record, signed with the seal key, and the code that it names by hash. It keeps what the component says
//! of itself, so that grants are judged anew each time, and the repositories that it came from: who names a digest in a
//! registry of their own must show the component before they get its code.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use jiff::{Timestamp, Unit};
use podless_engine::Recipe;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::{
    audit::AuditedComponent,
    child::{CompiledComponent, MachineCode},
    evict::{Held, Holds, evict},
    facts::Facts,
};
use crate::seal::{SealError, SealKey, TrustedKeys};

const CONTEXT: &[u8] = b"podless cache v1\0";
/// Longest record: the names of a component's imports and exports, and some numbers.
const RECORD_BYTES: u64 = 8 << 20;
/// Most repositories that an entry remembers; a component from more is pulled again.
const REPOSITORIES: usize = 64;

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk.
    #[error("the artifact cache does not work: {0}; it is tried again")]
    Io(#[from] io::Error),
    /// The key.
    #[error("the seal key does not work: {0}")]
    Key(#[from] SealError),
}

/// What is known of machine code.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) component: String,
    pub(super) recipe: Recipe,
    pub(super) fingerprint: String,
    /// When it was compiled, as RFC 3339 has it.
    made_at: String,
    pub(super) code_sha256: String,
    pub(super) code_size: u64,
    compile_millis: u64,
    facts: Facts,
    pub(super) repositories: BTreeSet<String>,
}

impl Record {
    fn is_of_this_engine(&self) -> bool {
        self.fingerprint == self.recipe.fingerprint()
    }

    /// Whether it is of this component's code, for an engine that there is.
    pub(super) fn is(&self, component: &str, recipe: Recipe) -> bool {
        self.component == component && self.recipe == recipe && self.is_of_this_engine()
    }

    /// What is given away with the code.
    pub(super) fn note(&self) -> Result<String, StoreError> {
        // Where a namespace pulls from is not for nodes.
        let record = Self { repositories: BTreeSet::new(), ..self.clone() };
        Ok(serde_json::to_string(&record).map_err(io::Error::from)?)
    }
}

/// Machine code that was there and whole when it was opened.
#[derive(Debug)]
pub(crate) struct Entry {
    record: Record,
    code: File,
    held: Held,
}

impl Entry {
    pub(crate) fn facts(&self) -> &Facts {
        &self.record.facts
    }

    pub(crate) fn component(&self) -> &str {
        &self.record.component
    }

    pub(crate) fn fingerprint(&self) -> &str {
        &self.record.fingerprint
    }

    pub(crate) fn recipe(&self) -> Recipe {
        self.record.recipe
    }

    pub(crate) fn made_at(&self) -> &str {
        &self.record.made_at
    }

    pub(crate) fn code_sha256(&self) -> &str {
        &self.record.code_sha256
    }

    pub(crate) fn code_size(&self) -> u64 {
        self.record.code_size
    }

    pub(crate) fn compile_millis(&self) -> u64 {
        self.record.compile_millis
    }

    /// What is given away with the code, so that it can come back.
    pub(crate) fn note(&self) -> Result<String, StoreError> {
        self.record.note()
    }

    /// While this lives, other code is evicted before this.
    pub(crate) fn held(&self) -> Held {
        self.held.clone()
    }

    /// Whether the component was once pulled from there.
    pub(crate) fn came_from(&self, repository: &str) -> bool {
        self.record.repositories.contains(repository)
    }

    /// The code, open for reading only; it stays readable when the cache evicts it.
    pub(crate) fn into_code(self) -> File {
        self.code
    }
}

/// The cache's folder. Its calls block: a hash over the code takes 0.5 ms for a megabyte.
#[derive(Clone)]
pub(crate) struct Store {
    folder: PathBuf,
    most_bytes: u64,
    signer: Arc<RwLock<Signer>>,
    holds: Holds,
}

/// Who signs records, and whose are taken.
#[derive(Clone)]
struct Signer {
    key: Arc<SealKey>,
    trusted: TrustedKeys,
}

impl Store {
    /// Opens the cache, and removes what an earlier process left unfinished.
    pub(crate) fn new(folder: &Path, most_bytes: u64, key: Arc<SealKey>) -> Result<Self, StoreError> {
        let unfinished = folder.join("unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        fs::create_dir_all(&unfinished)?;
        let trusted = TrustedKeys::from_pem(&key.public_pem()?)?;
        let signer = Arc::new(RwLock::new(Signer { key, trusted }));
        Ok(Self { folder: folder.to_owned(), most_bytes, signer, holds: Holds::default() })
    }

    fn signer(&self) -> Signer {
        self.signer.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The key that signs for now.
    pub(crate) fn key(&self) -> Arc<SealKey> {
        self.signer().key
    }

    /// From now on this key signs, and records by any of the trusted ones are taken. They are signed anew at once: the
    /// one that has signed them may soon be trusted no more.
    pub(crate) fn use_key(&self, key: Arc<SealKey>, trusted: TrustedKeys) -> Result<(), StoreError> {
        *self.signer.write().unwrap_or_else(PoisonError::into_inner) = Signer { key, trusted };
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "record")
                && let Ok(text) = fs::read_to_string(&path)
                && let Some(record) = self.verified(&text)
                && record.is_of_this_engine()
                && text != self.signed(&record)?
            {
                self.write(&record)?;
            }
        }
        Ok(())
    }

    /// Where files are before they are finished: on the same disk.
    pub(crate) fn unfinished(&self) -> PathBuf {
        self.folder.join("unfinished")
    }

    fn record_path(&self, component: &str, recipe: Recipe) -> PathBuf {
        let (component, engine) = (component.trim_start_matches("sha256:"), recipe.fingerprint());
        self.folder.join(format!("{component}-{engine}-{}.record", recipe.options))
    }

    fn code_path(&self, code_sha256: &str) -> PathBuf {
        self.folder.join(format!("{code_sha256}.cwasm"))
    }

    /// The component's machine code, when it is there and whole. What is not is removed.
    pub(crate) fn open(&self, component: &str, recipe: Recipe) -> Result<Option<Entry>, StoreError> {
        let path = self.record_path(component, recipe);
        let Some(text) = record_text(&path)? else { return Ok(None) };
        if let Some(record) = self.read(&text, component, recipe) {
            let code_path = self.code_path(&record.code_sha256);
            if let Some(code) = whole(&code_path, &record)? {
                // The time of last use decides what is evicted; when it cannot be set, something else is.
                let _ = code.set_modified(SystemTime::now());
                let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
                let held = self.holds.hold([&code_path, &path]);
                return Ok(Some(Entry { record, code, held }));
            }
            let _ = remove(&code_path);
        }
        tracing::warn!(component, "removed an entry of the artifact cache that is not whole");
        remove(&path)?;
        Ok(None)
    }

    /// Whether there is a record of the component, and code of its size: [`Self::open`] looks at the bytes.
    pub(super) fn seems_there(&self, component: &str, recipe: Recipe) -> bool {
        let record = record_text(&self.record_path(component, recipe)).ok().flatten();
        record.and_then(|text| self.read(&text, component, recipe)).is_some_and(|record| {
            let code = fs::symlink_metadata(self.code_path(&record.code_sha256));
            code.is_ok_and(|code| code.is_file() && code.len() == record.code_size)
        })
    }

    fn verified(&self, text: &str) -> Option<Record> {
        let (signature, record) = text.split_once('\n')?;
        self.signer().trusted.verify(CONTEXT, record.as_bytes(), &BASE64.decode(signature).ok()?).ok()?;
        serde_json::from_str(record).ok()
    }

    /// The text of a record. The same key signs the same way each time.
    fn signed(&self, record: &Record) -> Result<String, StoreError> {
        let text = serde_json::to_string(record).map_err(io::Error::from)?;
        let signature = BASE64.encode(self.key().sign(CONTEXT, text.as_bytes()));
        Ok(format!("{signature}\n{text}"))
    }

    fn read(&self, text: &str, component: &str, recipe: Recipe) -> Option<Record> {
        let record = self.verified(text)?;
        record.is(component, recipe).then_some(record)
    }

    /// Keeps machine code that was just made.
    pub(crate) fn insert(
        &self,
        compiled: CompiledComponent,
        recipe: Recipe,
        repository: &str,
        now: Timestamp,
    ) -> Result<(AuditedComponent, Entry), StoreError> {
        let CompiledComponent { audited, code: MachineCode { file, sha256, size, millis } } = compiled;
        let record = Record {
            component: audited.component().to_owned(),
            recipe,
            fingerprint: recipe.fingerprint(),
            made_at: now.round(Unit::Second).unwrap_or(now).to_string(),
            code_sha256: sha256,
            code_size: size,
            compile_millis: millis,
            facts: audited.facts().clone(),
            repositories: [repository.to_owned()].into(),
        };
        Ok((audited, self.keep(file, record)?))
    }

    /// Keeps code with its record, which is written when the code is on the disk: what is named there was whole once.
    pub(super) fn keep(&self, file: NamedTempFile, record: Record) -> Result<Entry, StoreError> {
        let path = self.code_path(&record.code_sha256);
        let record_path = self.record_path(&record.component, record.recipe);
        let files = [path.as_path(), record_path.as_path()];
        let held = self.holds.hold(files);
        file.as_file().sync_data()?;
        // Open before others can evict it.
        let code = File::open(file.path())?;
        clear_way(&path)?;
        file.persist(&path).map_err(|error| error.error)?;
        self.write(&record)?;
        // What was asked for is there, whatever is with the rest.
        if let Err(error) = evict(&self.folder, self.most_bytes, files, &self.holds) {
            tracing::warn!(%error, "the artifact cache has more than it may: some of it cannot be removed");
        }
        Ok(Entry { record, code, held })
    }

    /// Remembers that the component of this entry was pulled from there too.
    pub(crate) fn add_repository(&self, mut entry: Entry, repository: &str) -> Result<Entry, StoreError> {
        let room = entry.record.repositories.len() < REPOSITORIES;
        if room && entry.record.repositories.insert(repository.to_owned()) {
            self.write(&entry.record)?;
        }
        Ok(entry)
    }

    fn write(&self, record: &Record) -> Result<(), StoreError> {
        let mut file = NamedTempFile::new_in(self.unfinished())?;
        file.write_all(self.signed(record)?.as_bytes())?;
        file.as_file().sync_data()?;
        let path = self.record_path(&record.component, record.recipe);
        clear_way(&path)?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }
}

/// The text of a record; nothing of what cannot be one. `None`: there is nothing.
fn record_text(path: &Path) -> io::Result<Option<String>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => {
            let found = found?;
            if !found.is_file() || found.len() > RECORD_BYTES {
                return Ok(Some(String::new()));
            }
        }
    }
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Some(String::new())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Removes what has an entry's name, whatever it is.
fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// No file can take the name of a folder.
fn clear_way(path: &Path) -> io::Result<()> {
    if path.is_dir() { remove(path) } else { Ok(()) }
}

/// The code that the record names, open, when it is what it was.
fn whole(path: &Path, record: &Record) -> io::Result<Option<File>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        // Before it is opened: who opens a pipe waits for its other end.
        Ok(found) if !found.is_file() => return Ok(None),
        Ok(_) => {}
    }
    let mut file = File::open(path)?;
    if file.metadata()?.len() != record.code_size {
        return Ok(None);
    }
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 256 << 10]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hash.update(&buffer[..read]),
        }
    }
    Ok((hex::encode(hash.finalize()) == record.code_sha256).then_some(file))
}

#[cfg(test)]
mod tests;
