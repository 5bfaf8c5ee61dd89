//! What goes when the cache has too much: machine code, and the records of it. In: the cache's folder, and what is held;
//! out: fewer files. IO, but for [`doomed`].

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::SystemTime,
};

/// Somebody has the machine code open, because a service is made of it: while there is other code, that goes first.
#[derive(Clone, Debug, Default)]
pub struct Held(#[expect(dead_code, reason = "they are counted")] Arc<[Arc<()>; 2]>);

/// What is held, by the names of its files.
#[derive(Clone, Default)]
pub(super) struct Holds(Arc<Mutex<HashMap<OsString, Weak<()>>>>);

impl Holds {
    fn all(&self) -> MutexGuard<'_, HashMap<OsString, Weak<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds code and its record.
    pub(super) fn hold(&self, files: [&Path; 2]) -> Held {
        let mut all = self.all();
        let held = files.map(|file| {
            let name = file.file_name().unwrap_or_default();
            if let Some(held) = all.get(name).and_then(Weak::upgrade) {
                return held;
            }
            all.retain(|_, held| held.strong_count() > 0);
            let held = Arc::new(());
            all.insert(name.to_owned(), Arc::downgrade(&held));
            held
        });
        Held(Arc::new(held))
    }

    fn is_held(&self, file: &OsStr) -> bool {
        self.all().get(file).is_some_and(|held| held.strong_count() > 0)
    }
}

/// A file of the cache: machine code, or a record. Both are used at the same time, so they go one after the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct CacheFile {
    held: bool,
    used: SystemTime,
    size: u64,
    path: PathBuf,
}

/// Removes files until the rest fits, but never those of `keep`. What cannot be removed keeps none of the others.
pub(super) fn evict(folder: &Path, most_bytes: u64, keep: [&Path; 2], holds: &Holds) -> io::Result<()> {
    let mut files = vec![];
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "cwasm" || e == "record")
            && let Some(name) = path.file_name()
            && let Ok(metadata) = path.symlink_metadata()
        {
            let held = holds.is_held(name);
            files.push(CacheFile { held, used: metadata.modified()?, size: metadata.len(), path });
        }
    }
    let mut outcome = Ok(());
    for CacheFile { path, .. } in doomed(files, most_bytes) {
        if keep.contains(&path.as_path()) {
            continue;
        }
        match fs::remove_file(path) {
            // Another insert has removed it at the same time.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => outcome = Err(error),
            Ok(()) => {}
        }
    }
    outcome
}

/// The files that go, so that no more than `most_bytes` are left: what nobody holds, what was not used for longest first.
/// What is held goes only when nothing else is left. It stays readable for who has it open.
fn doomed(mut files: Vec<CacheFile>, most_bytes: u64) -> Vec<CacheFile> {
    files.sort();
    let mut total: u64 = files.iter().map(|file| file.size).sum();
    let beyond = files.into_iter().take_while(|file| {
        let beyond = total > most_bytes;
        total = total.saturating_sub(file.size);
        beyond
    });
    beyond.collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_holds_is_known_until_the_last_one_lets_go() {
        let holds = Holds::default();
        let [code, record, other] = ["/a.cwasm", "/a.record", "/b.record"].map(Path::new);
        let is_held = |name: &str| holds.is_held(OsStr::new(name));
        let (first, second) = (holds.hold([code, record]), holds.hold([code, other]));
        drop(first);
        assert!(is_held("a.cwasm") && !is_held("a.record") && is_held("b.record") && !is_held("b.cwasm"));
        drop(second);
        assert!(!is_held("a.cwasm") && !is_held("b.record"));
    }

    #[test]
    fn many_that_evict_at_once_do_not_fail_each_other() {
        let folder = tempfile::tempdir().expect("a folder");
        for n in 0..1000 {
            fs::write(folder.path().join(format!("{n}.cwasm")), "code").expect("written");
        }
        let all_have_begun = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            let begin = || {
                all_have_begun.wait();
                evict(folder.path(), 0, [Path::new(""); 2], &Holds::default())
            };
            let evicting: Vec<_> = (0..4).map(|_| scope.spawn(begin)).collect();
            for evicting in evicting {
                evicting.join().expect("no panic").expect("no error");
            }
        });
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }

    proptest! {
        #[test]
        fn just_enough_goes_and_what_is_held_goes_last(
            files in proptest::collection::vec((any::<bool>(), 0u64..100, 1u64..50), 0..20),
            most in 0u64..600,
        ) {
            let file = |(n, (held, used, size)): (usize, (bool, u64, u64))| CacheFile {
                held,
                used: SystemTime::UNIX_EPOCH + Duration::from_secs(used),
                size,
                path: n.to_string().into(),
            };
            let files: Vec<_> = files.into_iter().enumerate().map(file).collect();
            let gone = doomed(files.clone(), most);
            let left: Vec<_> = files.iter().filter(|file| !gone.contains(file)).collect();
            let size = left.iter().map(|file| file.size).sum::<u64>();
            prop_assert!(size <= most);
            if let Some(last) = gone.last() {
                prop_assert!(size + last.size > most, "none goes that could stay");
                prop_assert!(left.iter().all(|file| (file.held, file.used) >= (last.held, last.used)));
            }
        }
    }
}
