//! What the services of a namespace may be at most, as WasmPolicies say it: `read` makes a policy ready, `judge` holds
//! a service to all that select its namespace, `permit` says what that means for it, `ceiling` compares servers,
//! `status` says whether a policy can be applied. All of these are pure; `follow` watches and keeps the [`PolicyStore`]
//! that reconciles ask.
//!
//! A policy judges what is new. What serves goes on when a policy comes or changes, and says that it would not be allowed
//! any more; only what is revoked is taken off the nodes.

mod ceiling;
mod follow;
mod judge;
mod permit;
mod read;
mod status;
#[cfg(test)]
pub(crate) mod tests;

use std::{collections::BTreeMap, sync::Arc};

use podless_crds::WasmServiceSpec;
use tokio::sync::watch;

pub use follow::Follow;
pub use judge::{Cap, Judgement, Policies, RevokedBy, revoked};
pub(crate) use permit::{permitted, revision};
pub use read::{Policy, Secrets};

/// The end that reconciles ask.
#[derive(Clone)]
pub struct PolicyStore(watch::Receiver<Option<Arc<Policies>>>);

/// The end that [`Follow`] fills.
pub struct PolicyWriter(watch::Sender<Option<Arc<Policies>>>);

/// A store that [`Follow`] fills.
pub fn store() -> (PolicyStore, PolicyWriter) {
    let (writer, store) = watch::channel(None);
    (PolicyStore(store), PolicyWriter(writer))
}

impl PolicyStore {
    /// What the policies say of a service now.
    pub fn judge(&self, namespace: &str, spec: &WasmServiceSpec) -> Judgement {
        let policies = self.0.borrow().clone();
        let unknown = || Judgement { unknown: true, ..Judgement::default() };
        policies.map_or_else(unknown, |policies| policies.judge(namespace, spec))
    }

    /// What of these hosts services of a namespace may not have, a sentence each; `None` while that is not known.
    pub fn beyond_hosts<'a>(&self, namespace: &str, hosts: &'a [String]) -> Option<BTreeMap<&'a str, String>> {
        let policies = self.0.borrow().clone()?;
        policies.beyond_hosts(namespace, hosts)
    }

    /// Waits until the policies, or the labels of a namespace, are others.
    pub async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        self.0.changed().await
    }

    /// Waits until every policy is known: without them everything would be allowed.
    pub async fn wait_until_ready(&self) -> Result<(), watch::error::RecvError> {
        self.0.clone().wait_for(Option::is_some).await.map(|_| ())
    }
}
