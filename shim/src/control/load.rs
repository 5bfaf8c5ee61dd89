//! From verified machine code to a component: the one place where bytes become code. IO: maps the file.

use std::{
    collections::HashMap,
    os::fd::AsRawFd,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use wasmtime::{Engine, component::Component};

use super::store::Verified;

/// Machine code that is mapped. Services with the same artifact share it.
pub(crate) struct Code {
    /// The component.
    pub(crate) component: Component,
    /// Its file: the name of its mappings in `/proc/self/maps`.
    pub(crate) path: PathBuf,
}

/// Where code is while it is mapped.
type Place = Arc<Mutex<Weak<Code>>>;

/// The code that is mapped now, by the hash of its file. Each has a lock of its own: what is mapped at once is mapped on
/// as many cores, and the same once.
#[derive(Clone, Default)]
pub(crate) struct Loaded(Arc<Mutex<HashMap<String, Place>>>);

impl Loaded {
    /// The code with this hash, when a service runs it.
    pub(crate) fn get(&self, sha256: &str) -> Option<Arc<Code>> {
        let place = locked(&self.0).get(sha256)?.clone();
        // Whoever maps it at this moment is not waited for here.
        place.try_lock().ok()?.upgrade()
    }

    /// The hashes of what is mapped, or being mapped: while a service lingers, its code is still there for the next one
    /// that has it.
    pub(crate) fn hashes(&self) -> Vec<String> {
        locked(&self.0).iter().filter(|(_, place)| is_used(place)).map(|(sha256, _)| sha256.clone()).collect()
    }

    /// Maps verified machine code, unless another service did meanwhile. Waits for whoever maps the same.
    pub(crate) fn load(&self, engine: &Engine, sha256: &str, verified: &Verified) -> wasmtime::Result<Arc<Code>> {
        let place = self.place(sha256);
        let mut place = locked(&place);
        if let Some(code) = place.upgrade() {
            return Ok(code);
        }
        let code = Arc::new(Code { component: map(engine, verified)?, path: verified.path().to_owned() });
        *place = Arc::downgrade(&code);
        Ok(code)
    }

    fn place(&self, sha256: &str) -> Place {
        let mut all = locked(&self.0);
        // Before it would grow, and not each time: thousands may be loaded one after another.
        if all.len() == all.capacity() {
            all.retain(|_, place| is_used(place));
        }
        all.entry(sha256.to_owned()).or_default().clone()
    }
}

/// Whether code is mapped there, or somebody is about to.
fn is_used(place: &Arc<Mutex<Weak<Code>>>) -> bool {
    Arc::strong_count(place) > 1 || place.try_lock().is_ok_and(|code| code.strong_count() > 0)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
