//! What the shim serves again after a restart: assignments as they were received, with their signatures, in a
//! memory-backed volume, because environments may hold secrets. IO. What is read is verified again like anything new.

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use podless_link::v1;
use prost::Message as _;

/// The directory of assignments.
pub(crate) struct StateDir(PathBuf);

impl StateDir {
    /// Opens the directory, and makes it when it is not there.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Self(dir.to_owned()))
    }

    /// Keeps what serves now. A crash leaves the old file or the new one.
    pub(crate) fn keep(&self, uid: &str, received: &v1::Assign) -> io::Result<()> {
        let (path, new) = (self.path(uid), self.0.join(format!("{uid}.new")));
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        io::Write::write_all(&mut file, &received.encode_to_vec())?;
        fs::rename(new, path)
    }

    /// Forgets a service.
    pub(crate) fn forget(&self, uid: &str) -> io::Result<()> {
        match fs::remove_file(self.path(uid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Everything that is kept. A file that cannot be read is left out: the operator sends the assignment again.
    pub(crate) fn read(&self) -> io::Result<Vec<v1::Assign>> {
        let mut kept = vec![];
        for entry in fs::read_dir(&self.0)? {
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

    fn path(&self, uid: &str) -> PathBuf {
        self.0.join(format!("{uid}.assignment"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_kept_comes_back_until_it_is_forgotten() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDir::open(&dir.path().join("state")).expect("opened");
        let assign = |byte| v1::Assign { assignment: vec![byte], signature: vec![9] };
        state.keep("a", &assign(1)).expect("kept");
        state.keep("a", &assign(2)).expect("kept");
        state.keep("b", &assign(3)).expect("kept");
        let mode = fs::metadata(state.path("a")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "secrets are the shim's alone");
        fs::write(state.path("torn"), [0xff]).expect("written");
        fs::write(state.0.join("c.new"), [0xff]).expect("written");
        let mut bytes: Vec<_> = state.read().expect("read").into_iter().map(|a| a.assignment[0]).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, [2, 3]);
        state.forget("a").expect("forgotten");
        state.forget("a").expect("forgetting twice is no error");
        assert_eq!(state.read().expect("read").len(), 1);
    }
}
