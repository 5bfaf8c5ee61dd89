//! Cases of work without end.

use std::time::{Duration, Instant};

use super::stage::{Stage, TIMEOUT};
use crate::client::get;

/// Longest time for which one instruction may keep a thread, when its memory is there. The first time the kernel has to
/// find the pages, which takes several times as long: that is for the threads of the lower priority.
const STALL: Duration = Duration::from_millis(50);
/// What a guest that is past its deadline may take to be gone: two ticks of the epoch; and what a hundred clients and
/// this machine add to that.
const GONE: Duration = Duration::from_millis(20 + 230);

/// A hundred guests that loop: each is told to end when its time is over.
pub(crate) async fn loops(stage: &Stage) {
    let started = Instant::now();
    let answers = stage.all_ask(100, "/spin").await;
    let told = started.elapsed();
    stage.still().await;
    let gone = started.elapsed();
    eprintln!(
        "  after a deadline of {TIMEOUT:?} clients were told by {told:.1?}, the last instance was gone by {gone:.1?}"
    );
    assert!(answers.iter().all(|answer| answer.status == 504), "{answers:?}");
    assert!(gone <= TIMEOUT + GONE, "the last was gone after {gone:?}");
}

/// Fills and copies of all the memory that an instance may have: nothing interrupts one.
pub(crate) async fn bulk(stage: &Stage) {
    let strokes = get(stage.storm, "/strokes?mb=120").await;
    let micros: Vec<u64> = strokes.body.split_whitespace().map(|micros| micros.parse().expect("a number")).collect();
    eprintln!("  of 120 MiB the first fill, other fills and copies took at most (µs): {micros:?}");
    assert!(micros[1..].iter().all(|micros| Duration::from_micros(*micros) <= STALL), "{micros:?}");
    let (fills, copies) = tokio::join!(stage.all_ask(2, "/fill?mb=120"), stage.all_ask(2, "/copy?mb=120"));
    assert!(fills.iter().chain(&copies).all(|answer| answer.status == 504), "{fills:?} {copies:?}");
}
