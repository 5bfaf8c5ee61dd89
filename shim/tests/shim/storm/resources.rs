//! Cases of growth: whatever an instance can have more of.

use futures::future::join_all;

use super::stage::{Holding, Stage};
use crate::client::get;

/// Rounds after which nothing more may stay: each uses other slots of the pool, and a few stay warm.
const ROUNDS: usize = 6;

/// Every resource grown until it may not, by several at once, again and again: what was theirs is given back.
pub(crate) async fn growth(stage: &Stage) {
    grow(stage).await;
    let mut before = stage.holds().await;
    for round in 2..=ROUNDS {
        grow(stage).await;
        let most = Holding { resident: before.resident + before.resident / 100, descriptors: u64::MAX };
        let after = stage.holds_within(most).await;
        eprintln!("  before growth {round} {before}, after it {after}");
        if after.is_within(most) {
            return;
        }
        before = after;
    }
    panic!("each growth leaves more: {before}");
}

async fn grow(stage: &Stage) {
    let ways = ["/memory", "/handles", "/hoard", "/stack"];
    for way in ways {
        let answers = stage.all_ask(4, way).await;
        assert!(answers.iter().all(|answer| answer.status == 500), "{way}: {answers:?}");
    }
    let tables = join_all((0..4).map(|_| get(stage.tables, "/"))).await;
    assert!(tables.iter().all(|answer| answer.status == 500), "tables: {tables:?}");
    stage.still().await;
}

/// Components of as many memories as one may have: who has many of them has fewer instances, not others none.
pub(crate) async fn parts(stage: &Stage) {
    let answers = join_all((0..100).map(|_| get(stage.memories, "/"))).await;
    assert!(answers.iter().all(|answer| [503, 504].contains(&answer.status)), "{answers:?}");
}
