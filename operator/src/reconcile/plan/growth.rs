//! Whose long-lived connections are to come again. In: who got new connections before and gets them now; out: what the
//! shims that have some are told. Pure.

use std::collections::BTreeSet;

use super::shims::Before;
use crate::{link::sessions::Growth, reconcile::views::ShimView};

/// Connections follow endpoints that are new, and leave a shim that has just become slow. To one that is let back in
/// nobody sends any: they could make it slow again, and with new ones it gets its share in time.
pub(super) fn growth(shims: &[ShimView], before: &Before<'_>, takers: &BTreeSet<&str>) -> Vec<Growth> {
    let back = shims.iter().filter(|s| s.pardoned && before.waits(s)).map(|s| s.pod_uid.as_str());
    let there = before.takers().into_iter().chain(back).collect();
    let left = |s: &&ShimView| s.slow && before.ready(s) && !takers.contains(s.pod_uid.as_str());
    let left: Vec<_> = shims.iter().filter(left).collect();
    let able = takers.len() + left.len();
    let away = left.into_iter().map(|s| Growth::away(&s.pod_uid, able));
    away.chain(Growth::between(&there, takers)).collect()
}
