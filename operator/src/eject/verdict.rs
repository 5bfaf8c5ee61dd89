//! Who is ejected. In: the shims, how often in a row each was looked for in vain; out: those that lose their endpoints.
//! Pure.
//!
//! What may not happen: that an operator which is cut off takes endpoints away from shims that serve. So the word of a
//! shim that is connected is needed each time, and half of the nodes stay whatever is said of them.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

/// Rounds in a row in which nobody reached it.
const MISSES: u32 = 2;
/// A shim that was killed is back before this.
const SILENCE: Duration = Duration::from_millis(1500);

/// A shim with an address.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) pod_uid: String,
    pub(super) node: String,
    pub(super) ip: String,
    /// Its link is up.
    pub(super) connected: bool,
    /// Its link to this leader is or was up.
    pub(super) met: bool,
    /// Since when its link is down, if it is.
    pub(super) silent_since: Instant,
    /// It is ejected already.
    pub(super) ejected: bool,
}

/// Who reached a shim.
#[derive(Clone, Debug, Default)]
pub(super) struct Round {
    /// Whether the operator did.
    pub(super) own: bool,
    /// Whether its peers did: those that answered.
    pub(super) peers: Vec<bool>,
}

/// In how many rounds in a row nobody has reached it, after one more. A round in which no peer had a word does not count,
/// nor does one that says nothing; see `reached`.
pub(super) fn missed(before: u32, round: &Round, counts: bool) -> u32 {
    match round {
        Round { own: true, .. } => 0,
        Round { peers, .. } if peers.contains(&true) => 0,
        Round { peers, .. } if peers.is_empty() || !counts => before,
        Round { .. } => before.saturating_add(1),
    }
}

/// The shims that are ejected from now on, by the uids of their pods: first those that are, then those that have been
/// silent longest.
pub(super) fn verdict(all: &[Member], misses: &HashMap<String, u32>, now: Instant) -> HashSet<String> {
    let nodes: BTreeSet<_> = all.iter().map(|m| m.node.as_str()).collect();
    let lost = |m: &&Member| {
        !m.connected
            && misses.get(&m.pod_uid).is_some_and(|&n| n >= MISSES)
            && now.saturating_duration_since(m.silent_since) >= SILENCE
    };
    let mut lost: Vec<_> = all.iter().filter(lost).collect();
    if !all.iter().any(|m| m.connected) {
        // Nobody is there to vouch for it: nothing new is believed.
        lost.retain(|m| m.ejected);
    }
    lost.sort_by_key(|m| (!m.ejected, m.silent_since, &m.pod_uid));
    let (mut ejected, mut away) = (HashSet::new(), BTreeSet::new());
    for m in lost {
        if away.contains(m.node.as_str()) || (away.len() + 1) * 2 <= nodes.len() {
            away.insert(m.node.as_str());
            ejected.insert(m.pod_uid.clone());
        }
    }
    ejected
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn member(i: usize, node: u8, connected: bool, silent: u64, ejected: bool, start: Instant) -> Member {
        Member {
            pod_uid: format!("p{i}"),
            node: format!("n{node}"),
            ip: "10.0.0.1".into(),
            connected,
            met: true,
            silent_since: start + Duration::from_millis(10_000 - silent),
            ejected,
        }
    }

    proptest! {
        #[test]
        fn only_the_lost_and_never_more_than_half_of_the_nodes(
            pods in vec((0..6u8, any::<bool>(), 0..5000u64, any::<bool>(), 0..4u32), 0..10),
        ) {
            let start = Instant::now();
            let now = start + Duration::from_secs(10);
            let (mut all, mut misses) = (vec![], HashMap::new());
            for (i, (node, connected, silent, ejected, missed)) in pods.into_iter().enumerate() {
                all.push(member(i, node, connected, silent, ejected, start));
                misses.insert(format!("p{i}"), missed);
            }
            let ejected = verdict(&all, &misses, now);
            prop_assert_eq!(&ejected, &verdict(&all, &misses, now), "the same again");
            let of = |uid: &String| all.iter().find(|m| m.pod_uid == *uid).expect("a member");
            for uid in &ejected {
                prop_assert!(!of(uid).connected && misses[uid] >= MISSES);
                prop_assert!(now - of(uid).silent_since >= SILENCE);
            }
            let nodes: BTreeSet<_> = all.iter().map(|m| &m.node).collect();
            let away: BTreeSet<_> = ejected.iter().map(|uid| &of(uid).node).collect();
            prop_assert!(away.len() * 2 <= nodes.len(), "{away:?} of {nodes:?}");
            if all.iter().all(|m| !m.connected && !m.ejected) {
                prop_assert!(ejected.is_empty(), "cut off from everyone");
            }
            // Whoever connects changes nothing for the worse for the others.
            let reached: Vec<_> = all.iter().cloned().map(|m| Member { connected: true, ..m }).collect();
            prop_assert!(verdict(&reached, &misses, now).is_empty());
        }
    }

    #[test]
    fn one_of_three_goes_and_its_fellow_stays() {
        let start = Instant::now();
        let now = start + Duration::from_secs(10);
        let all = |silent: &[bool]| -> Vec<_> {
            silent.iter().enumerate().map(|(i, s)| member(i, i as u8, !s, 3000 + i as u64, false, start)).collect()
        };
        let misses: HashMap<_, _> = (0..3).map(|i| (format!("p{i}"), 2)).collect();
        let names = |ejected: HashSet<String>| ejected.into_iter().collect::<Vec<_>>();
        assert_eq!(names(verdict(&all(&[false, true, false]), &misses, now)), ["p1"]);
        assert_eq!(names(verdict(&all(&[false, true, true]), &misses, now)), ["p2"], "silent longest");
        assert!(verdict(&all(&[true, true, true]), &misses, now).is_empty());
        assert!(verdict(&all(&[true]), &misses, now).is_empty(), "a single node");
        let mut again = all(&[false, true, true]);
        again[1].ejected = true;
        assert_eq!(names(verdict(&again, &misses, now)), ["p1"], "who is ejected stays so");
    }

    #[test]
    fn a_round_counts_when_a_peer_had_a_word_and_any_answer_begins_anew() {
        let round = |own, peers: &[bool]| Round { own, peers: peers.to_vec() };
        assert_eq!(missed(1, &round(false, &[false]), true), 2);
        assert_eq!(missed(1, &round(false, &[false, false]), true), 2);
        assert_eq!(missed(1, &round(false, &[false]), false), 1, "they may not reach it at all");
        assert_eq!(missed(1, &round(false, &[]), true), 1, "nobody else was asked");
        for counts in [true, false] {
            assert_eq!(missed(5, &round(false, &[false, true]), counts), 0);
            assert_eq!(missed(5, &round(true, &[false]), counts), 0);
        }
    }
}
