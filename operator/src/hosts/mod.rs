//! Who has which host of the shims' shared port. `claims` decides for all services at once, `asked` says what that means
//! for one of them; both are pure. `follow` decides again when a service or a policy changes, keeps the [`HostStore`] that
//! reconciles ask, and wakes whom it says something else of.
//!
//! The oldest service that asks for a host has it, and what lies under a wildcard of a namespace is that namespace's: a
//! page of one tenant must not share its origin with another's.

mod asked;
mod claims;
mod follow;

use std::sync::Arc;

use tokio::sync::{Notify, watch};

pub use asked::Hosts;
pub use claims::{Claimant, Claims, Refused, Verdict, Why, decide};
pub use follow::Follow;
pub(crate) use follow::created_at;

/// The end that reconciles ask.
#[derive(Clone)]
pub struct HostStore(watch::Receiver<Claims>);

/// The end that [`Follow`] fills.
pub struct HostWriter {
    claims: watch::Sender<Claims>,
    heard: Arc<Notify>,
}

/// A store that [`Follow`] fills, and what tells it that a service came, changed or went.
pub fn store() -> (HostStore, HostWriter, Arc<Notify>) {
    let (claims, store) = watch::channel(Claims::default());
    let heard = Arc::new(Notify::new());
    (HostStore(store), HostWriter { claims, heard: heard.clone() }, heard)
}

impl HostStore {
    /// What was decided of a service, when something was.
    pub fn verdict(&self, uid: &str) -> Option<Arc<Verdict>> {
        self.0.borrow().get(uid).cloned()
    }
}
