//! The generation of an assignment. In: what is to be assigned, what was, what the slice remembers and what shims have
//! seen; out: the same number while nothing changes, else a higher one. Pure.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::{
    link::content::{Assigned, Content},
    reconcile::{
        children::{Recorded, RecordedNode},
        views::ShimView,
    },
};

/// Name of what is served, whichever engine it is compiled for and whoever sealed it. `salt` is the operator's secret: the
/// name is written into the slice, and who reads it there must not be able to try out what a secret variable holds.
pub(super) fn content_name(salt: &[u8], content: &Content, port: u16) -> String {
    let mut hash = Sha256::new();
    hash.update(salt);
    hash.update(content.name());
    hash.update(port.to_le_bytes());
    hex::encode(&hash.finalize()[..8])
}

/// Name of exactly what is assigned.
pub(super) fn fingerprint(
    content: &str,
    made: &str,
    hosts: &[String],
    nodes: &BTreeMap<String, RecordedNode>,
    parked: bool,
) -> String {
    let mut hash = Sha256::new();
    hash.update(content);
    hash.update(made);
    hash.update([parked.into()]);
    hosts.iter().for_each(|host| hash.update(format!("\0host {host}")));
    for (node, RecordedNode { replicas, budget }) in nodes {
        hash.update(format!("\0{node}\0{replicas}\0{budget}"));
    }
    hex::encode(&hash.finalize()[..8])
}

/// The highest generation that one of these shims has seen.
pub(super) fn seen<'a>(shims: impl Iterator<Item = &'a ShimView>) -> u64 {
    shims.filter_map(|s| s.serves.max(s.failed.as_ref().map(|f| f.generation))).max().unwrap_or(0)
}

/// The same generation while nothing changes; else one more than anybody has `seen`, so that neither a new leader nor a
/// restored API server can send what the shims would refuse as old.
pub(super) fn next_generation(print: &str, assigned: Option<&Assigned>, record: Option<&Recorded>, seen: u64) -> u64 {
    let (now, now_print) = match (assigned, record) {
        (Some(a), _) => (a.generation, &a.fingerprint),
        (None, Some(r)) => (r.generation, &r.fingerprint),
        (None, None) => return seen + 1,
    };
    if now_print == print && now >= seen { now } else { now.max(seen) + 1 }
}
