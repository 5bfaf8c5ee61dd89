//! The watch for slow shims. In: what shims count of their answers; out: those that get no new connections for a while, as
//! the plans of all services see them. IO; who is slow and for how long is in `pace`, `outlier` and `term`.
//!
//! Only routing changes: the places stay, what is connected is served on, and a service keeps the endpoints it needs (see
//! `reconcile::plan`). A new leader begins with nobody slow.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tokio::time::{MissedTickBehavior, interval};

use super::{
    Eject,
    outlier::compare,
    term::{Slow, Terms},
    verdict::Member,
};

/// Between two rounds: longer than the shortest window, so that each round has news of whoever is busy.
pub(super) const ROUND: Duration = Duration::from_secs(3);

/// Watches for as long as this replica leads.
pub(super) async fn watch(eject: &Eject) -> std::convert::Infallible {
    let (mut terms, mut since) = (Terms::default(), Instant::now());
    let mut rounds = interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let now = Instant::now();
        let (mut measured, serving) = {
            let mut sessions = eject.hub.sessions();
            (sessions.measured(now), sessions.serving())
        };
        // With whom gets nothing new nobody is compared.
        measured.retain(|shim| !terms.is_slow(&shim.pod_uid));
        let all = eject.members();
        let slow = terms.judge(&all, &serving, &compare(&measured, since), now);
        make_known(eject, &all, slow);
        since = now;
    }
}

/// Every service is planned anew when others are slow than before.
fn make_known(eject: &Eject, all: &[Member], slow: HashMap<String, Slow>) {
    let mut new = 0;
    let mut sessions = eject.hub.sessions();
    for member in all {
        let (node, pod) = (&member.node, &member.pod_uid);
        match (slow.get(pod), sessions.slow(pod).is_some()) {
            (Some(slow), false) => {
                new += 1;
                tracing::warn!(node, pod, "this shim is {slow}");
            }
            (None, true) => tracing::info!(node, pod, "this shim was slow and gets connections again"),
            _ => {}
        }
    }
    eject.metrics.slow(new, slow.len());
    let news = sessions.slow_down(slow);
    drop(sessions);
    if news {
        eject.hub.membership_changed();
    }
}
