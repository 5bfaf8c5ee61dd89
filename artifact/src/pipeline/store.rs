//! The cache: machine code by (component digest, engine fingerprint), in files. A file that is torn or changed is
//! noticed when it is opened, and removed. IO.
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
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::{
    audit::AuditedComponent,
    child::{CompiledComponent, MachineCode},
    facts::Facts,
};
use crate::seal::{SealError, SealKey, TrustedKeys};

const CONTEXT: &[u8] = b"podless cache v1\0";
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

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Record {
    component: String,
    fingerprint: String,
    code_sha256: String,
    code_size: u64,
    compile_millis: u64,
    facts: Facts,
    repositories: BTreeSet<String>,
}

/// Machine code that was there and whole when it was opened.
#[derive(Debug)]
pub(crate) struct Entry {
    record: Record,
    code: File,
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

    pub(crate) fn code_sha256(&self) -> &str {
        &self.record.code_sha256
    }

    pub(crate) fn code_size(&self) -> u64 {
        self.record.code_size
    }

    pub(crate) fn compile_millis(&self) -> u64 {
        self.record.compile_millis
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
    fingerprint: String,
    signer: Arc<RwLock<Signer>>,
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
        let (folder, fingerprint) = (folder.to_owned(), podless_engine::fingerprint());
        let signer = Arc::new(RwLock::new(Signer { key, trusted }));
        Ok(Self { folder, most_bytes, fingerprint, signer })
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
                && record.fingerprint == self.fingerprint
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

    fn record_path(&self, component: &str) -> PathBuf {
        self.folder.join(format!("{}-{}.record", component.trim_start_matches("sha256:"), self.fingerprint))
    }

    fn code_path(&self, code_sha256: &str) -> PathBuf {
        self.folder.join(format!("{code_sha256}.cwasm"))
    }

    /// The component's machine code, when it is there and whole. What is not is removed.
    pub(crate) fn open(&self, component: &str) -> Result<Option<Entry>, StoreError> {
        let path = self.record_path(component);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => String::new(),
            other => other?,
        };
        if let Some(record) = self.read(&text, component) {
            let code_path = self.code_path(&record.code_sha256);
            if let Some(code) = whole(&code_path, &record)? {
                // The time of last use decides what is evicted; when it cannot be set, something else is.
                let _ = code.set_modified(SystemTime::now());
                return Ok(Some(Entry { record, code }));
            }
            let _ = fs::remove_file(code_path);
        }
        tracing::warn!(component, "removed an entry of the artifact cache that is not whole");
        fs::remove_file(path)?;
        Ok(None)
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

    fn read(&self, text: &str, component: &str) -> Option<Record> {
        let record = self.verified(text)?;
        (record.component == component && record.fingerprint == self.fingerprint).then_some(record)
    }

    /// Keeps machine code that was just made.
    pub(crate) fn insert(
        &self,
        compiled: CompiledComponent,
        repository: &str,
    ) -> Result<(AuditedComponent, Entry), StoreError> {
        let CompiledComponent { audited, code: MachineCode { file, sha256, size, millis } } = compiled;
        let record = Record {
            component: audited.component().to_owned(),
            fingerprint: self.fingerprint.clone(),
            code_sha256: sha256,
            code_size: size,
            compile_millis: millis,
            facts: audited.facts().clone(),
            repositories: [repository.to_owned()].into(),
        };
        let path = self.code_path(&record.code_sha256);
        file.persist(&path).map_err(|error| error.error)?;
        let code = File::open(path)?;
        self.write(&record)?;
        self.evict(&record.code_sha256)?;
        Ok((audited, Entry { record, code }))
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
        file.persist(self.record_path(&record.component)).map_err(|error| error.error)?;
        Ok(())
    }

    /// Removes the code that was not used for longest until the rest fits, but never `keep`. Its records go when they
    /// are next asked for.
    fn evict(&self, keep: &str) -> Result<(), StoreError> {
        let mut files = vec![];
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let is_code = path.extension().is_some_and(|e| e == "cwasm");
            if is_code && let Ok(metadata) = path.metadata() {
                files.push((metadata.modified()?, metadata.len(), path));
            }
        }
        let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
        files.sort();
        for (_, size, path) in files {
            if total <= self.most_bytes {
                break;
            }
            if path.file_stem().is_none_or(|stem| stem != keep) {
                fs::remove_file(path)?;
                total -= size;
            }
        }
        Ok(())
    }
}

/// The code that the record names, open, when it is what it was.
fn whole(path: &Path, record: &Record) -> io::Result<Option<File>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
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
mod tests {
    use super::*;
    use crate::pipeline::{
        audit::{Grants, audit},
        facts::ImportFact,
    };

    fn store(folder: &Path, most_bytes: u64) -> Store {
        Store::new(folder, most_bytes, Arc::new(SealKey::from_random([7; 32]))).expect("a store")
    }

    fn component(n: u8) -> String {
        format!("sha256:{}", hex::encode([n; 32]))
    }

    fn insert(store: &Store, n: u8, code: &[u8]) -> Entry {
        let facts = Facts {
            imports: vec![ImportFact { name: "wasi:io/poll@0.2.0".into(), types_only: false }],
            exports: vec!["wasi:http/incoming-handler@0.2.0".into()],
        };
        let audited = audit(&component(n), facts, Grants::default()).expect("audited");
        let mut file = NamedTempFile::new_in(store.unfinished()).expect("a file");
        file.write_all(code).expect("written");
        let sha256 = hex::encode(Sha256::digest(code));
        let code = MachineCode { file, sha256, size: code.len() as u64, millis: 5 };
        store.insert(CompiledComponent { audited, code }, "r.local/a").expect("inserted").1
    }

    #[test]
    fn what_was_put_in_comes_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let made = insert(&store(folder.path(), 1 << 20), 1, b"machine code");
        // Another process.
        let store = store(folder.path(), 1 << 20);
        let found = store.open(&component(1)).expect("no error").expect("an entry");
        assert_eq!(found.record, made.record);
        assert!(found.came_from("r.local/a") && !found.came_from("r.local/b"));
        store.add_repository(found, "r.local/b").expect("added");
        assert!(store.open(&component(1)).expect("no error").expect("an entry").came_from("r.local/b"));
        assert!(store.open(&component(2)).expect("no error").is_none());
    }

    #[test]
    fn any_damage_is_noticed_and_removed() {
        let files = ["record", "cwasm"];
        let damages: [fn(&mut Vec<u8>); 4] = [
            |bytes| bytes.truncate(bytes.len() / 2),
            |bytes| bytes.clear(),
            |bytes| *bytes.last_mut().expect("a byte") ^= 1,
            |bytes| bytes[0] ^= 0x80,
        ];
        for (extension, damage) in files.into_iter().flat_map(|f| damages.map(|d| (f, d))) {
            let folder = tempfile::tempdir().expect("a folder");
            let store = store(folder.path(), 1 << 20);
            insert(&store, 1, b"machine code");
            let path = fs::read_dir(folder.path())
                .expect("a folder")
                .map(|entry| entry.expect("an entry").path())
                .find(|path| path.extension().is_some_and(|e| e == extension))
                .expect("the file");
            let mut bytes = fs::read(&path).expect("read");
            damage(&mut bytes);
            fs::write(&path, bytes).expect("written");
            assert!(store.open(&component(1)).expect("no error").is_none(), "{extension}");
            assert!(!path.exists(), "{extension}");
        }
    }

    #[test]
    fn a_record_of_another_key_or_component_is_not_taken() {
        let folder = tempfile::tempdir().expect("a folder");
        let ours = store(folder.path(), 1 << 20);
        insert(&ours, 1, b"machine code");
        fs::copy(ours.record_path(&component(1)), ours.record_path(&component(2))).expect("copied");
        assert!(ours.open(&component(2)).expect("no error").is_none());
        let stranger = Store::new(folder.path(), 1 << 20, Arc::new(SealKey::from_random([8; 32]))).expect("a store");
        assert!(stranger.open(&component(1)).expect("no error").is_none());
    }

    #[test]
    fn what_the_key_before_has_signed_is_signed_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let key = |n: u8| Arc::new(SealKey::from_random([n; 32]));
        let trust = |n: u8| TrustedKeys::from_pem(&key(n).public_pem().expect("PEM")).expect("a key");
        let old = store(folder.path(), 1 << 20);
        let made = insert(&old, 1, b"machine code");
        // The new key comes while the process runs, or it was there when another one began.
        for (number, store) in [(8, old), (9, Store::new(folder.path(), 1 << 20, key(9)).expect("a store"))] {
            store.use_key(key(number), trust(number - 1)).expect("used");
            let path = store.record_path(&component(1));
            assert!(fs::read_to_string(path).expect("a record") == store.signed(&made.record).expect("signed"));
            let later = Store::new(folder.path(), 1 << 20, key(number)).expect("a store");
            assert_eq!(later.open(&component(1)).expect("no error").expect("an entry").record, made.record);
        }
    }

    #[test]
    fn what_was_used_last_stays_and_open_files_stay_readable() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store(folder.path(), 25);
        let first = insert(&store, 1, b"0123456789");
        insert(&store, 2, b"abcdefghij");
        for (n, age) in [(2u8, 20), (1, 10)] {
            let sha256 = store.open(&component(n)).expect("no error").expect("an entry").record.code_sha256;
            let file = File::options().append(true).open(store.code_path(&sha256)).expect("the code");
            file.set_modified(SystemTime::now() - std::time::Duration::from_secs(age)).expect("a time");
        }
        insert(&store, 3, b"ABCDEFGHIJ");
        assert!(store.open(&component(2)).expect("no error").is_none(), "used least recently");
        for n in [1, 3] {
            assert!(store.open(&component(n)).expect("no error").is_some(), "{n}");
        }
        fs::remove_file(store.code_path(first.code_sha256())).expect("removed");
        let mut code = String::new();
        first.into_code().read_to_string(&mut code).expect("read");
        assert_eq!(code, "0123456789");
    }
}
