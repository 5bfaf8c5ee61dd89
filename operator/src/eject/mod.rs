//! Nodes that are gone without a word, and nodes that are much slower than others. In: links that are down, what the
//! operator and other shims reach, how quickly shims answer; out: the shims whose endpoints are taken away before
//! Kubernetes has noticed, or for a while.
//!
//! Of the gone `verdict` decides, `reached` says whose word counts, and both are pure; `probe` and this do IO. Of the slow
//! `pace` makes windows of counts, `outlier` compares them, `term` says for how long, all pure; `slow` does IO.
//!
//! Of the five seconds that this may take, the link's keep-alive has half (see `link`), two rounds of looking the rest.
//! When the leader's own node is lost, its successor ejects nobody before its grace is over; until then what Kubernetes
//! says of the pods counts.

mod outlier;
mod pace;
mod probe;
mod reached;
#[cfg(test)]
mod simulated;
mod slow;
mod term;
mod verdict;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, future::join_all, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::Store;
use tokio::time::{sleep, timeout};

use crate::{link::Hub, metrics::Metrics, reconcile::plan::PATIENCE, schedule::stable_hash, shims::shim_pods};
pub use outlier::Measured;
pub use pace::{Look, Pace};
use reached::Reached;
pub use term::Slow;
use verdict::{Member, Round, missed, verdict};

/// The shims' admin port, as the chart sets it.
const ADMIN_PORT: u16 = 8081;
/// How long a shim may take to answer a probe.
const ANSWER: Duration = Duration::from_millis(750);
/// How much longer a peer's word may take to come back.
const WAY: Duration = Duration::from_millis(250);
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(250);
/// Between two looks at shims that are there and that nobody has reached yet: what forbids it may be mended.
const AGAIN: Duration = Duration::from_secs(30);
/// Peers that are asked about one shim.
const PEERS: usize = 2;
/// Shims that are looked at at once.
const CONCURRENT: usize = 64;

/// What ejection needs.
pub struct Eject {
    /// The shims' links.
    pub hub: Arc<Hub>,
    /// Their pods.
    pub pods: Store<Pod>,
    /// When this replica became the leader.
    pub leading_since: Instant,
    /// Counts.
    pub metrics: Metrics,
}

impl Eject {
    /// Watches for as long as this replica leads.
    pub async fn watch(self) -> std::convert::Infallible {
        tokio::select! {
            never = self.watch_for_lost() => never,
            never = slow::watch(&self) => never,
        }
    }

    /// Who is there is looked at once, so that it is known who can be reached at all. In the grace after a takeover shims
    /// are still to connect: that they have not says nothing.
    async fn watch_for_lost(&self) -> std::convert::Infallible {
        let mut members = self.hub.members();
        let (mut misses, mut reached, mut unreached) = (HashMap::new(), Reached::default(), 0);
        loop {
            members.mark_unchanged();
            let grace = PATIENCE.saturating_sub(self.leading_since.elapsed());
            let mut all = self.members();
            reached.retain(&all);
            all.retain(|m| m.connected || grace.is_zero());
            self.look(&all, &mut misses, &mut reached).await;
            // Some have connected meanwhile.
            self.judge(&self.members(), &misses);
            let before = std::mem::replace(&mut unreached, out_of_reach(&all, &reached));
            if unreached > before {
                tracing::warn!(
                    shims = unreached,
                    "the operator, or other shims, cannot reach the admin port of some shims: if their nodes are lost, \
                     Kubernetes has to notice; let port {ADMIN_PORT} through"
                );
            }
            if all.iter().any(|m| !m.connected) {
                sleep(PAUSE).await;
            } else {
                let wait = if grace.is_zero() { AGAIN } else { AGAIN.min(grace) };
                // The sender lives in the hub: this ends by time or by a change.
                let _ = timeout(wait, members.changed()).await;
            }
        }
    }

    /// Every shim that has an address: what Kubernetes says of its pod, and whether its link is up.
    fn members(&self) -> Vec<Member> {
        let pods = shim_pods(&self.pods);
        let sessions = self.hub.sessions();
        let there = pods.into_iter().filter(|pod| !pod.terminating && !pod.ip.is_empty());
        there
            .map(|pod| {
                let shim = sessions.shims().get(&pod.uid);
                Member {
                    connected: shim.is_some_and(|shim| shim.connected),
                    met: shim.is_some(),
                    silent_since: shim.map_or(self.leading_since, |shim| shim.since),
                    ejected: sessions.is_ejected(&pod.uid),
                    pod_uid: pod.uid,
                    node: pod.node,
                    ip: pod.ip,
                }
            })
            .collect()
    }

    /// One round: everyone who is silent, or was never reached, is looked for by the operator and by two who are not.
    async fn look(&self, all: &[Member], misses: &mut HashMap<String, u32>, reached: &mut Reached) {
        misses.retain(|uid, _| all.iter().any(|m| m.pod_uid == *uid && !m.connected));
        let whom: Vec<_> = all.iter().filter(|m| !m.connected || !reached.by_both(&m.pod_uid)).collect();
        let rounds = stream::iter(whom).map(move |m| async move { (m, self.look_for(m, &peers(m, all)).await) });
        let rounds: Vec<_> = rounds.buffer_unordered(CONCURRENT).collect().await;
        for (member, round) in rounds {
            reached.learn(&member.pod_uid, &round);
            if !member.connected {
                let count = misses.entry(member.pod_uid.clone()).or_default();
                *count = missed(*count, &round, reached.counts(member));
            }
        }
    }

    async fn look_for(&self, member: &Member, peers: &[&str]) -> Round {
        let address = match member.ip.contains(':') {
            true => format!("[{}]:{ADMIN_PORT}", member.ip),
            false => format!("{}:{ADMIN_PORT}", member.ip),
        };
        let asked: Vec<_> = peers.iter().filter_map(|peer| self.hub.sessions().ask(peer, &address, ANSWER)).collect();
        let answers = join_all(asked.into_iter().map(|asked| timeout(ANSWER + WAY, asked)));
        let (own, peers) = tokio::join!(probe::reaches(&address, ANSWER), answers);
        Round { own, peers: peers.into_iter().flatten().flatten().collect() }
    }

    /// Makes the verdict known; every service is placed anew when it changed.
    fn judge(&self, all: &[Member], misses: &HashMap<String, u32>) {
        let ejected = verdict(all, misses, Instant::now());
        for member in all {
            let (node, pod) = (&member.node, &member.pod_uid);
            match (ejected.contains(pod), member.ejected) {
                (true, false) => tracing::warn!(node, pod, "nobody reaches this shim: it loses its endpoints"),
                (false, true) => tracing::info!(node, pod, "this shim is reached again"),
                _ => {}
            }
        }
        let new = all.iter().filter(|m| !m.ejected && ejected.contains(&m.pod_uid)).count();
        self.metrics.ejected(new, ejected.len());
        let news = self.hub.sessions().eject(ejected);
        if news {
            self.hub.membership_changed();
        }
    }
}

/// How many shims are there that the operator or those it asks have never reached.
fn out_of_reach(all: &[Member], reached: &Reached) -> usize {
    let out = |m: &&Member| m.connected && !reached.by_both(&m.pod_uid) && !peers(m, all).is_empty();
    all.iter().filter(out).count()
}

/// Who is asked about a shim: connected ones on other nodes, by chance that is the same each time.
fn peers<'a>(member: &Member, all: &'a [Member]) -> Vec<&'a str> {
    let mut peers: Vec<_> = all.iter().filter(|m| m.connected && m.node != member.node).collect();
    peers.sort_by_cached_key(|peer| stable_hash(&[&member.pod_uid, &peer.pod_uid]));
    peers.into_iter().take(PEERS).map(|peer| peer.pod_uid.as_str()).collect()
}
