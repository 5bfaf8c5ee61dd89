//! The cache, in folders of the tests' own.

use super::*;
use crate::pipeline::{
    audit::{Grants, audit},
    facts::ImportFact,
    receive::{ReceiveError, Receiving},
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
        ..Facts::default()
    };
    let audited = audit(&component(n), facts, Grants::default()).expect("audited");
    let mut file = NamedTempFile::new_in(store.unfinished()).expect("a file");
    file.write_all(code).expect("written");
    let sha256 = hex::encode(Sha256::digest(code));
    let code = MachineCode { file, sha256, size: code.len() as u64, millis: 5 };
    store
        .insert(CompiledComponent { audited, code }, Recipe::default(), "r.local/a", Timestamp::UNIX_EPOCH)
        .expect("inserted")
        .1
}

#[test]
fn what_was_put_in_comes_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = insert(&store(folder.path(), 1 << 20), 1, b"machine code");
    // Another process.
    let store = store(folder.path(), 1 << 20);
    let found = store.open(&component(1), Recipe::default()).expect("no error").expect("an entry");
    assert_eq!(found.record, made.record);
    assert!(found.came_from("r.local/a") && !found.came_from("r.local/b"));
    store.add_repository(found, "r.local/b").expect("added");
    assert!(store.open(&component(1), Recipe::default()).expect("no error").expect("an entry").came_from("r.local/b"));
    assert!(store.open(&component(2), Recipe::default()).expect("no error").is_none());
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
        assert!(store.open(&component(1), Recipe::default()).expect("no error").is_none(), "{extension}");
        assert!(!path.exists(), "{extension}");
    }
}

#[test]
fn a_record_of_another_key_or_component_is_not_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let ours = store(folder.path(), 1 << 20);
    insert(&ours, 1, b"machine code");
    fs::copy(ours.record_path(&component(1), Recipe::default()), ours.record_path(&component(2), Recipe::default()))
        .expect("copied");
    assert!(ours.open(&component(2), Recipe::default()).expect("no error").is_none());
    let stranger = Store::new(folder.path(), 1 << 20, Arc::new(SealKey::from_random([8; 32]))).expect("a store");
    assert!(stranger.open(&component(1), Recipe::default()).expect("no error").is_none());
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
        let path = store.record_path(&component(1), Recipe::default());
        assert!(fs::read_to_string(path).expect("a record") == store.signed(&made.record).expect("signed"));
        let later = Store::new(folder.path(), 1 << 20, key(number)).expect("a store");
        assert_eq!(
            later.open(&component(1), Recipe::default()).expect("no error").expect("an entry").record,
            made.record
        );
    }
}

/// Code beside which a record is small.
const CODE: usize = 100_000;

#[test]
fn what_was_used_last_stays_and_open_files_stay_readable() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = store(folder.path(), 250_000);
    let first = insert(&store, 1, &[1; CODE]);
    insert(&store, 2, &[2; CODE]);
    for (n, age) in [(2u8, 20), (1, 10)] {
        let sha256 =
            store.open(&component(n), Recipe::default()).expect("no error").expect("an entry").record.code_sha256;
        let file = File::options().append(true).open(store.code_path(&sha256)).expect("the code");
        file.set_modified(SystemTime::now() - std::time::Duration::from_secs(age)).expect("a time");
    }
    insert(&store, 3, &[3; CODE]);
    assert!(store.open(&component(2), Recipe::default()).expect("no error").is_none(), "used least recently");
    for n in [1, 3] {
        assert!(store.open(&component(n), Recipe::default()).expect("no error").is_some(), "{n}");
    }
    fs::remove_file(store.code_path(first.code_sha256())).expect("removed");
    let mut code = vec![];
    first.into_code().read_to_end(&mut code).expect("read");
    assert!(code == [1; CODE]);
}

#[test]
fn records_count_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = store(folder.path(), 10_000);
    let held = insert(&store, 0, b"held").held();
    for n in 1..100 {
        insert(&store, n, &[n]);
    }
    let files = fs::read_dir(folder.path()).expect("a folder").map(|file| file.expect("a file").path());
    let sizes = files.filter(|path| path.is_file()).map(|path| path.metadata().expect("there").len());
    assert!(sizes.sum::<u64>() <= 10_000);
    for n in [0, 99] {
        assert!(store.open(&component(n), Recipe::default()).expect("no error").is_some(), "{n}");
    }
    drop(held);
}

#[test]
fn what_cannot_be_evicted_fails_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = store(folder.path(), 250_000);
    let first = store.code_path("of nobody");
    fs::create_dir(&first).expect("a folder");
    File::open(&first).expect("it").set_modified(SystemTime::UNIX_EPOCH).expect("a time");
    for n in 1..=3 {
        insert(&store, n, &[n; CODE]);
    }
    assert!(store.open(&component(1), Recipe::default()).expect("no error").is_none(), "others go");
    assert!(store.open(&component(3), Recipe::default()).expect("no error").is_some());
}

/// The record and the code of the one entry there is.
fn files(folder: &Path) -> [PathBuf; 2] {
    ["record", "cwasm"].map(|extension| {
        let all = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
        all.into_iter().find(|path| path.extension().is_some_and(|e| e == extension)).expect("the file")
    })
}

#[test]
fn what_is_no_file_is_removed_and_made_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = store(folder.path(), 1 << 20);
    let puts: [fn(&Path); 3] = [
        |path| fs::create_dir(path).and_then(|()| fs::write(path.join("inside"), "x")).expect("a folder"),
        |path| std::os::unix::fs::symlink("/dev/zero", path).expect("a link"),
        |path| fs::File::create(path).and_then(|file| file.set_len(RECORD_BYTES + 1)).expect("a large file"),
    ];
    for (put, which) in puts.into_iter().flat_map(|put| [(put, 0), (put, 1)]) {
        let made = insert(&store, 1, b"machine code").record;
        let path = &files(folder.path())[which];
        fs::remove_file(path).expect("removed");
        put(path);
        assert!(store.open(&component(1), Recipe::default()).expect("no error").is_none(), "{path:?}");
        assert!(fs::symlink_metadata(path).is_err(), "{path:?} is still there");
        put(path);
        assert_eq!(insert(&store, 1, b"machine code").record, made, "a name that is taken");
        assert!(store.open(&component(1), Recipe::default()).expect("no error").is_some());
    }
}

#[test]
fn what_is_held_goes_last() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = store(folder.path(), 250_000);
    let held = insert(&store, 1, &[1; CODE]).held();
    let aged = |n: u8, age| {
        let sha256 =
            store.open(&component(n), Recipe::default()).expect("no error").expect("an entry").record.code_sha256;
        let file = File::options().append(true).open(store.code_path(&sha256)).expect("the code");
        file.set_modified(SystemTime::now() - std::time::Duration::from_secs(age)).expect("a time");
    };
    aged(1, 100);
    insert(&store, 2, &[2; CODE]);
    insert(&store, 3, &[3; CODE]);
    let there = |n: u8| store.open(&component(n), Recipe::default()).expect("no error").is_some();
    assert!(there(1) && !there(2) && there(3), "of the two that nobody holds one goes");
    drop(held);
    aged(1, 100);
    insert(&store, 4, &[4; CODE]);
    assert!(!there(1) && there(3) && there(4), "nobody holds it any more");
}

#[test]
fn what_was_given_away_comes_back_whole_or_not_at_all() {
    let (there, here) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let made = insert(&store(there.path(), 1 << 20), 1, b"machine code");
    let note = made.note().expect("a note");
    assert!(!note.contains("r.local"), "where it was pulled from is not told");
    let store = store(here.path(), 1 << 20);
    let receive = |component: &str, note: &str, pieces: &[&[u8]]| {
        let mut receiving = Receiving::begin(store.clone(), note.as_bytes(), component, Recipe::default())?;
        pieces.iter().try_for_each(|piece| receiving.write(piece))?;
        receiving.finish()
    };
    let (ours, other) = (component(1), component(2));
    assert!(matches!(receive(&other, &note, &[]), Err(ReceiveError::Other)));
    assert!(matches!(receive(&ours, "{}", &[]), Err(ReceiveError::Note(_))));
    assert!(matches!(receive(&ours, &note, &[b"machine cod"]), Err(ReceiveError::Size(12))));
    assert!(matches!(receive(&ours, &note, &[b"machine ", b"code and more"]), Err(ReceiveError::Size(12))));
    assert!(matches!(receive(&ours, &note, &[b"machine c0de"]), Err(ReceiveError::Hash)));
    assert!(!store.seems_there(&ours, Recipe::default()));
    assert_eq!(fs::read_dir(store.unfinished()).expect("a folder").count(), 0, "nothing is left of what was refused");
    receive(&ours, &note, &[b"machine ", b"code"]).expect("taken");
    assert!(store.seems_there(&ours, Recipe::default()));
    let back = store.open(&ours, Recipe::default()).expect("no error").expect("an entry");
    assert_eq!(back.record, Record { repositories: BTreeSet::new(), ..made.record });
}
