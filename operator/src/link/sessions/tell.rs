//! What a shim is told next on its stream. In: what is assigned, what it knows; out: the differences one by one, and
//! that it has everything when each service was planned with it in view. Pure.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use podless_link::v1;

use super::{Buried, SessionKey, Sessions};
use crate::link::content::{Artifact, Assigned, Share};

/// What a shim is told next.
#[derive(Clone, Debug)]
pub enum Next {
    /// An assignment with the shim's share, and the artifact for its engine.
    Assign(Arc<Assigned>, Share, Artifact),
    /// The service is gone.
    Withdraw {
        /// Its uid.
        service: String,
        /// The highest generation that anyone has seen.
        generation: u64,
        /// It is revoked, and answers nobody any more: else until clients know that it is gone.
        at_once: bool,
    },
    /// Everything has been said.
    Synced,
    /// Can it reach another shim?
    Probe(v1::Probe),
    /// More shims get connections of a service than before.
    Spread(v1::Spread),
    /// Does it have machine code that was lost here?
    Recall(v1::Recall),
}

impl Sessions {
    pub(super) fn touch(&mut self, pod_uid: &str, service: &str) {
        if let Some(shim) = self.shims.get_mut(pod_uid).filter(|shim| shim.connected) {
            shim.dirty.insert(service.to_owned());
            shim.notify.notify_one();
        }
    }

    /// A service has been planned with every shim in view that had connected at `epoch` or before.
    pub fn settle(&mut self, service: &str, epoch: u64) {
        for shim in self.shims.values_mut().filter(|shim| !shim.synced && shim.joined <= epoch) {
            shim.awaits.remove(service);
            shim.notify.notify_one();
        }
    }

    /// A service cannot be made for now, and shims on these nodes serve it. A shim that would take the place of one of
    /// them waits for it, but no longer than `most`; for everyone else it is settled. Answers how long until the next of
    /// them has waited enough.
    pub fn hold(
        &mut self,
        service: &str,
        epoch: u64,
        nodes: &BTreeSet<String>,
        most: Duration,
        now: Instant,
    ) -> Option<Duration> {
        let mut next: Option<Duration> = None;
        for shim in self.shims.values_mut().filter(|shim| shim.connected && !shim.synced && shim.joined <= epoch) {
            let replaces = nodes.contains(&shim.identity.node) && !shim.known.contains_key(service);
            let Some(since) = shim.awaits.get_mut(service) else { continue };
            let left = most.saturating_sub(now.saturating_duration_since(*since.get_or_insert(now)));
            if replaces && !left.is_zero() {
                next = Some(next.map_or(left, |next| next.min(left)));
            } else {
                shim.awaits.remove(service);
                shim.notify.notify_one();
            }
        }
        next
    }

    /// A shim that could not load this long ago is told again.
    pub fn retry_failed(&mut self, service: &str, now: Instant, after: Duration) {
        for shim in self.shims.values_mut() {
            if shim.failed.get(service).is_some_and(|f| now.duration_since(f.at) >= after) {
                shim.failed.remove(service);
                shim.told.remove(service);
                shim.dirty.insert(service.to_owned());
                shim.notify.notify_one();
            }
        }
    }

    /// What to tell next on this stream; `None` when there is nothing for now.
    pub fn next(&mut self, key: &SessionKey) -> Option<Next> {
        let Self { engines, shims, services, buried, withdrawn, .. } = self;
        let shim = shims.get_mut(&key.pod_uid).filter(|shim| shim.session == key.session)?;
        // Short, and somebody waits for the answer: before everything else.
        if let Some(question) = shim.questions.pop_front() {
            return Some(Next::Probe(question));
        }
        if let Some((_, spread)) = shim.spreads.pop_first() {
            return Some(Next::Spread(spread));
        }
        if let Some(recall) = shim.recalls.pop_front() {
            return Some(Next::Recall(recall));
        }
        let engine = &shim.hello.fingerprint;
        let matches = engines.contains_key(engine);
        while let Some(uid) = shim.dirty.pop_first() {
            let gone = buried.get(&uid).map(|buried: &Buried| (buried.seen, false));
            // It lets that go before it is told of anything newer: if it could not load that, it would serve this on.
            let revoked = || withdrawn.get(&uid).filter(|seen| shim.highest(&uid) <= **seen).map(|seen| (*seen, true));
            let has = shim.known.contains_key(&uid) || shim.told.contains_key(&uid);
            if let Some((seen, at_once)) = gone.or_else(revoked).filter(|_| has) {
                return Some(Next::Withdraw { service: uid, generation: seen, at_once });
            }
            // Code for another engine would only be refused. It is told when there is some for its own.
            let found = services.get(&uid).filter(|_| matches);
            let found = found.and_then(|a| Some((a, a.share(&key.pod_uid)?, a.content.artifacts.get(engine)?)));
            let Some((assigned, share, artifact)) = found else { continue };
            if shim.highest(&uid) == assigned.generation {
                continue;
            }
            shim.told.insert(uid, assigned.generation);
            return Some(Next::Assign(assigned.clone(), share, artifact.clone()));
        }
        // A shim that cannot be given anything must not become ready and replace one that serves.
        if !shim.synced && shim.awaits.is_empty() && matches {
            shim.synced = true;
            return Some(Next::Synced);
        }
        None
    }
}
