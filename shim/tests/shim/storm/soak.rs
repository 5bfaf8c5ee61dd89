//! All cases, one after another, for an hour: nothing grows.

use std::time::{Duration, Instant};

use super::{
    play_all,
    stage::{Holding, Stage},
};

/// Minutes: `PODLESS_SOAK_MINUTES`, or an hour.
fn minutes() -> u64 {
    std::env::var("PODLESS_SOAK_MINUTES").map_or(60, |minutes| minutes.parse().expect("a number of minutes"))
}

#[tokio::test]
#[ignore = "it takes an hour: make soak"]
async fn an_hour_of_everything() {
    let (stage, started) = (Stage::open().await, Instant::now());
    let mut samples = vec![];
    // Three rounds in a third at least: there is no trend in fewer.
    while started.elapsed() < Duration::from_secs(60 * minutes()) || samples.len() < 9 {
        play_all(&stage).await;
        let (neighbour, holds) = (stage.neighbour.stretch(), stage.holds().await);
        samples.push(holds);
        let (round, seconds) = (samples.len(), started.elapsed().as_secs());
        eprintln!("round {round:>3}, {seconds:>4} s: {holds}; the neighbour: {neighbour}");
        assert_eq!(neighbour.lost(), 0, "the neighbour lost nothing");
    }
    let third = samples.len() / 3;
    let median = |samples: &[Holding], of: fn(&Holding) -> u64| {
        let mut all: Vec<_> = samples.iter().map(of).collect();
        all.sort_unstable();
        all[all.len() / 2]
    };
    let of = |samples| Holding {
        resident: median(samples, |holds| holds.resident),
        descriptors: median(samples, |holds| holds.descriptors),
    };
    let (second, last) = (of(&samples[third..2 * third]), of(&samples[2 * third..]));
    eprintln!("medians of the second third: {second}; of the last: {last}");
    // Connections of the neighbour come and go.
    let most = Holding { resident: second.resident + second.resident / 20, descriptors: second.descriptors + 16 };
    assert!(last.is_within(most), "it grows: {second}, then {last}");
}
