//! Whose word counts. In: who reached which shim; out: whether looking for one in vain says anything. Pure.
//!
//! A NetworkPolicy or a firewall may forbid the admin port: then everyone looks in vain for shims that serve. So the
//! operator and a peer must have reached a shim before it says anything that they do not any more.

use std::collections::HashSet;

use super::verdict::{Member, Round};

/// The shims that were reached since this replica leads, by the uids of their pods.
#[derive(Debug, Default)]
pub(super) struct Reached {
    /// By the operator.
    own: HashSet<String>,
    /// By another shim.
    peers: HashSet<String>,
}

impl Reached {
    /// A shim was looked for.
    pub(super) fn learn(&mut self, pod_uid: &str, round: &Round) {
        if round.own {
            self.own.insert(pod_uid.to_owned());
        }
        if round.peers.contains(&true) {
            self.peers.insert(pod_uid.to_owned());
        }
    }

    /// Forgets those that are not there any more.
    pub(super) fn retain(&mut self, all: &[Member]) {
        for reached in [&mut self.own, &mut self.peers] {
            reached.retain(|uid| all.iter().any(|member| member.pod_uid == *uid));
        }
    }

    /// Whether both have reached it.
    pub(super) fn by_both(&self, pod_uid: &str) -> bool {
        self.own.contains(pod_uid) && self.peers.contains(pod_uid)
    }

    /// Whether it says anything that neither reaches it. One that has never been connected to this leader was lost before
    /// anyone could look, with the node of the leader before: it is enough that both have reached some other.
    pub(super) fn counts(&self, member: &Member) -> bool {
        match member.met {
            true => self.by_both(&member.pod_uid),
            false => !self.own.is_empty() && !self.peers.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn member(pod_uid: &str, met: bool) -> Member {
        Member {
            pod_uid: pod_uid.into(),
            node: pod_uid.into(),
            ip: "10.0.0.1".into(),
            connected: false,
            met,
            silent_since: Instant::now(),
            ejected: false,
        }
    }

    #[test]
    fn who_was_never_reached_is_not_missed() {
        let (mut reached, there, strange) = (Reached::default(), member("p", true), member("q", false));
        let round = |own, peers: &[bool]| Round { own, peers: peers.to_vec() };
        assert!(!reached.counts(&there) && !reached.counts(&strange), "nobody has reached anyone");
        reached.learn("p", &round(true, &[false, false]));
        assert!(!reached.counts(&there) && !reached.counts(&strange), "shims may not reach each other");
        reached.learn("p", &round(false, &[false, true]));
        assert!(reached.counts(&there), "each has, at some time");
        assert!(reached.counts(&strange), "what lets them through there lets them through here");
        assert!(!reached.counts(&member("q", true)), "it was there to be looked at, and nobody reached it");
        reached.retain(&[member("q", true)]);
        assert!(!reached.counts(&there));
    }
}
