//! What the shim serves again after a restart: assignments as they were received, with their signatures, in a
//! memory-backed volume, because environments may hold secrets. IO. What is read is verified again like anything new.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use podless_link::v1;
use prost::Message as _;

/// Extension of a file that is being written.
const HALF: &str = "new";

/// The directory of assignments; or none, where nothing is kept.
#[derive(Clone)]
pub(crate) struct StateDir(Option<PathBuf>);

impl StateDir {
    /// Opens the directory, and removes what a crash left half written. A volume that takes nothing is said, and no
    /// reason to stop.
    pub(crate) fn open(dir: Option<&Path>) -> Self {
        if let Some(dir) = dir
            && let Err(error) = fs::create_dir_all(dir).and_then(|()| clear(dir))
        {
            tracing::error!(%error, dir = %dir.display(), "the volume for assignments cannot be written");
        }
        Self(dir.map(Path::to_owned))
    }

    /// Keeps what serves now. A crash leaves the old file or the new one.
    pub(crate) fn keep(&self, uid: &str, received: &v1::Assign) -> io::Result<()> {
        let Some(dir) = &self.0 else { return Ok(()) };
        // It may have gone under us.
        fs::create_dir_all(dir)?;
        let (path, new) = (path(dir, uid), dir.join(format!("{uid}.{HALF}")));
        let written = write(&new, &received.encode_to_vec()).and_then(|()| fs::rename(&new, path));
        if written.is_err() {
            let _ = fs::remove_file(new);
        }
        written
    }

    /// Forgets a service.
    pub(crate) fn forget(&self, uid: &str) -> io::Result<()> {
        let Some(dir) = &self.0 else { return Ok(()) };
        match fs::remove_file(path(dir, uid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// What is kept of one service.
    pub(crate) fn one(&self, uid: &str) -> Option<v1::Assign> {
        let bytes = fs::read(path(self.0.as_ref()?, uid)).ok()?;
        v1::Assign::decode(bytes.as_slice()).ok()
    }

    /// Everything that is kept. A file that cannot be read is left out: the operator sends the assignment again.
    pub(crate) fn read(&self) -> io::Result<Vec<v1::Assign>> {
        let mut kept = vec![];
        let Some(dir) = &self.0 else { return Ok(kept) };
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "assignment") {
                continue;
            }
            match fs::read(&path).map(|bytes| v1::Assign::decode(bytes.as_slice())) {
                Ok(Ok(received)) => kept.push(received),
                _ => tracing::warn!(file = %path.display(), "a kept assignment cannot be read"),
            }
        }
        Ok(kept)
    }
}

fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    // Always a new file: one that lies there may be open to others.
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?.write_all(bytes)
}

fn clear(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == HALF) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn path(dir: &Path, uid: &str) -> PathBuf {
    dir.join(format!("{uid}.assignment"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_kept_comes_back_until_it_is_forgotten() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().join("state");
        let state = StateDir::open(Some(&dir));
        let assign = |byte| v1::Assign { assignment: vec![byte], signature: vec![9] };
        state.keep("a", &assign(1)).expect("kept");
        state.keep("a", &assign(2)).expect("kept");
        state.keep("b", &assign(3)).expect("kept");
        let mode = fs::metadata(path(&dir, "a")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "secrets are the shim's alone");
        fs::write(path(&dir, "torn"), [0xff]).expect("written");
        fs::write(dir.join("c.new"), [0xff]).expect("written");
        let mut bytes: Vec<_> = state.read().expect("read").into_iter().map(|a| a.assignment[0]).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, [2, 3]);
        assert!(dir.join("c.new").exists());
        StateDir::open(Some(&dir));
        assert!(!dir.join("c.new").exists(), "a crash leaves no half of a secret");
        assert_eq!(state.one("a").map(|a| a.assignment), Some(vec![2]));
        assert!(state.one("torn").is_none() && state.one("none").is_none());
        state.forget("a").expect("forgotten");
        state.forget("a").expect("forgetting twice is no error");
        assert_eq!(state.read().expect("read").len(), 1);
    }
}
