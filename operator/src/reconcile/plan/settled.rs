//! Whether a shim that joins may be told that there is no more to come of a service. In: what was observed, and what
//! became of its plan; out: yes, or what it should wait for. Pure.
//!
//! A shim that has been told everything becomes ready, and the DaemonSet then ends the one that it replaces. That one may
//! be the last to serve what the other cannot be given.

use std::collections::BTreeSet;

use podless_crds::Reason;

use super::{Facts, Rejected, shims::Before};
use crate::{
    build::BuildState,
    reconcile::{observe::Observed, slices::ours},
};

/// What a joining shim should do about a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Nothing: it has been told what there is to tell.
    Yes,
    /// Wait: what served before is being made anew.
    Making,
    /// Wait for a while, on these nodes: a shim there serves it, and it cannot be made for now.
    Stuck(BTreeSet<String>),
}

/// Decides. What only a change of the object can mend is not waited for: no rollout depends on its user.
pub fn settled(o: &Observed, planned: Result<&Facts, &Rejected>) -> Settled {
    match planned {
        Ok(facts) if facts.placeable && !facts.unmade => return Settled::Yes,
        // A shim of another kind may be the one that joins.
        Ok(facts) if facts.placeable => {
            let builds = || [&o.build].into_iter().chain(o.other_targets.values());
            if builds().any(|build| matches!(build, BuildState::Pending(_))) {
                return Settled::Making;
            }
            if !builds().any(|build| matches!(build, BuildState::Rejected(rejection) if rejection.transient)) {
                return Settled::Yes;
            }
        }
        Ok(_) => match &o.build {
            BuildState::Pending(_) => {
                return if o.record.is_some() { Settled::Making } else { Settled::Yes };
            }
            BuildState::Rejected(rejection) if !rejection.transient => return Settled::Yes,
            // Without an artifact for a while, or without its environment.
            BuildState::Rejected(_) | BuildState::Ready(_) => {}
        },
        Err(rejected) if rejected.reason == Reason::InvalidSpec => return Settled::Yes,
        Err(_) => {}
    }
    let before = Before::of(ours(&o.slices));
    let serving = o.shims.iter().filter(|shim| before.serves(shim) && !shim.terminating);
    let nodes: BTreeSet<_> = serving.map(|shim| shim.node.clone()).collect();
    if nodes.is_empty() { Settled::Yes } else { Settled::Stuck(nodes) }
}
