//! From verified machine code to a component: the one place where bytes become code. IO: maps the file.

use std::{
    collections::HashMap,
    os::fd::AsRawFd,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use wasmtime::{Engine, component::Component};

use super::store::Verified;

/// Machine code that is mapped. Services with the same artifact share it.
pub(crate) struct Code {
    /// The component.
    pub(crate) component: Component,
    /// Its file: the name of its mappings in `/proc/self/maps`.
    pub(crate) path: PathBuf,
    // Open for as long as the code is mapped, so that what was verified can be told from what has its name.
    _verified: Verified,
}

/// The code that is mapped now, by the hash of its file.
#[derive(Clone, Default)]
pub(crate) struct Loaded(Arc<Mutex<HashMap<String, Weak<Code>>>>);

impl Loaded {
    /// The code with this hash, when a service runs it.
    pub(crate) fn get(&self, sha256: &str) -> Option<Arc<Code>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(sha256)?.upgrade()
    }

    /// The hashes of what is mapped: while a service lingers, its code is still there for the next one that has it.
    pub(crate) fn hashes(&self) -> Vec<String> {
        let loaded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.iter().filter(|(_, code)| code.strong_count() > 0).map(|(sha256, _)| sha256.clone()).collect()
    }

    /// Maps verified machine code, unless another service did meanwhile.
    pub(crate) fn load(&self, engine: &Engine, sha256: &str, verified: Verified) -> wasmtime::Result<Arc<Code>> {
        let mut loaded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(code) = loaded.get(sha256).and_then(Weak::upgrade) {
            return Ok(code);
        }
        let component = map(engine, &verified)?;
        let code = Arc::new(Code { component, path: verified.path().to_owned(), _verified: verified });
        loaded.retain(|_, code| code.strong_count() > 0);
        loaded.insert(sha256.to_owned(), Arc::downgrade(&code));
        Ok(code)
    }
}

#[expect(unsafe_code, reason = "Wasmtime cannot know that these bytes are its own compiler's")]
fn map(engine: &Engine, verified: &Verified) -> wasmtime::Result<Component> {
    // The name of a descriptor, not of a file: opening it gives the inode that was verified, whatever has its name in
    // the directory by now. Mapped from a file, the initial memories are shared copy-on-write by all instances.
    let path = format!("/proc/self/fd/{}", verified.file().as_raw_fd());
    // SAFETY: `deserialize_file` wants what `Engine::precompile_component` made, unchanged while it is mapped.
    // - It was made by it: `Verified` is only built by `store`, from bytes whose SHA-256 is the one in a `Seal`, and a
    //   `Seal` only comes out of `verify`, after the operator's signature over it was checked. The operator signs what
    //   its own compiler child wrote. Its fingerprint is ours, so version, settings, target and CPU features are too;
    //   Wasmtime checks version string, settings and CPU once more and fails where they differ.
    // - It stays unchanged: the file belongs to this process's user and has mode 0400, which `store` sees to before it
    //   hashes, in a directory of its own, and is never opened for writing afterwards. Who can write it all the same is this user or root, and could
    //   as well write this process's memory. Replacing or removing its name leaves the mapped inode as it is.
    unsafe { Component::deserialize_file(engine, path) }
}
