//! Which artifacts on disk were looked at, so that whoever wakes one need not wait until it is hashed. In: what a file is
//! like when it is opened; out: whether all of its bytes were looked at when it was like this. No IO.

use std::{
    collections::HashMap,
    fs::Metadata,
    os::unix::fs::MetadataExt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use podless_artifact::seal::Seal;

/// The kernel's clock for files is finer than this. Of a file that changed less than this ago, the next change need not
/// show.
const GRAIN: Duration = Duration::from_millis(100);

/// What every change of a file changes: who writes it, renames it or puts another in its place cannot help it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// Of an open file.
    pub(crate) fn of(file: &Metadata) -> Self {
        Self { device: file.dev(), inode: file.ino(), size: file.size(), changed: (file.ctime(), file.ctime_nsec()) }
    }

    /// Whether any change after `now` shows.
    fn is_old(&self, now: SystemTime) -> bool {
        let (seconds, nanos) = self.changed;
        let changed = u64::try_from(seconds).ok().zip(u32::try_from(nanos).ok());
        changed.is_some_and(|(seconds, nanos)| {
            let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
            now.duration_since(changed).is_ok_and(|age| age >= GRAIN)
        })
    }
}

/// What was looked at, by the hash of the code.
#[derive(Clone, Default)]
pub(crate) struct Looked {
    stamps: Arc<Mutex<HashMap<String, Stamp>>>,
    /// What was received and is too new to be remembered.
    fresh: Arc<Mutex<Vec<Seal>>>,
}

impl Looked {
    fn stamps(&self) -> MutexGuard<'_, HashMap<String, Stamp>> {
        self.stamps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh(&self) -> MutexGuard<'_, Vec<Seal>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it was looked at, and has not changed since.
    pub(crate) fn knows(&self, seal: &Seal, file: Stamp) -> bool {
        self.stamps().get(&seal.code_sha256) == Some(&file)
    }

    /// All of it was looked at, after `began`. What is too new to be remembered is to be looked at once more.
    pub(crate) fn note(&self, seal: &Seal, file: Stamp, began: SystemTime) {
        if file.is_old(began) {
            self.stamps().insert(seal.code_sha256.clone(), file);
        } else {
            self.fresh().push(seal.clone());
        }
    }

    /// Whether there is something to look at once more.
    pub(crate) fn has_fresh(&self) -> bool {
        !self.fresh().is_empty()
    }

    /// What is to be looked at once more.
    pub(crate) fn take_fresh(&self) -> Vec<Seal> {
        std::mem::take(&mut *self.fresh())
    }

    /// Forgets what is not kept.
    pub(crate) fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.stamps().retain(|sha256, _| keep(sha256));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_not_changed_for_a_moment_is_believed() {
        let changed = (1_700_000_000, 500_000_000);
        let stamp = Stamp { device: 1, inode: 2, size: 3, changed };
        let at =
            |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_500) + Duration::from_millis(millis);
        assert!(!stamp.is_old(at(0)) && !stamp.is_old(at(99)) && stamp.is_old(at(100)));
        assert!(!stamp.is_old(SystemTime::UNIX_EPOCH), "a clock that goes back");
        assert!(!Stamp { changed: (-1, 0), ..stamp }.is_old(at(100)));
    }
}
