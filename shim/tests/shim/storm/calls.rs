//! Cases of calls into the shim: of what they ask there is only so much.

use std::time::{Duration, Instant};

use futures::{StreamExt, future::join_all, stream};

use super::stage::Stage;
use crate::{
    client::{Answer, Connection, get},
    operator::PATIENCE,
};

/// Ten million lines: few are printed, each of the others is counted, and the guest waits for none.
pub(crate) async fn lines(stage: &Stage) {
    const LINES: usize = 10_000_000;
    const EACH: usize = 250_000;
    last_word(stage).await;
    let started = Instant::now();
    let path = format!("/log?lines={EACH}&line=flood");
    let flood = stream::iter(0..LINES / EACH).map(|_| get(stage.storm, &path)).buffer_unordered(4);
    let statuses: Vec<_> = flood.map(|answer| answer.status).collect().await;
    let took = started.elapsed();
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    let Told { asked, printed, dropped } = last_word(stage).await;
    eprintln!("  {LINES} lines in {took:.1?}: {printed} were printed, {dropped} told as dropped");
    assert_eq!(printed + dropped, LINES + asked, "each is accounted for");
    // 512 KiB a second, a line counting as 256 bytes at least, and twice as much at once.
    let most = 2048.0 * (took.as_secs_f64() + 2.0) + 4096.0;
    assert!((printed as f64) < most, "{printed} lines in {took:?}");
}

/// What a service has said.
struct Told {
    /// Last words that it was asked for.
    asked: usize,
    /// Lines that were printed.
    printed: usize,
    /// Lines that those told of as dropped.
    dropped: usize,
}

/// Has the storm say one more word until that is printed: every line before it is, or it was told as dropped.
async fn last_word(stage: &Stage) -> Told {
    let (mut told, started) = (Told { asked: 0, printed: 0, dropped: 0 }, Instant::now());
    while started.elapsed() < PATIENCE {
        told.asked += 1;
        let word = format!("word-{}", told.asked);
        assert_eq!(get(stage.storm, &format!("/log?lines=1&line={word}")).await.status, 200);
        let heard = async {
            loop {
                let lines = stage.shim.take_lines("service-storm");
                told.printed += lines.len();
                told.dropped += lines.iter().filter_map(|line| line["dropped"].as_u64()).sum::<u64>() as usize;
                if lines.iter().any(|line| line["message"] == word) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        if tokio::time::timeout(Duration::from_millis(200), heard).await.is_ok() {
            return told;
        }
    }
    panic!("it never has a last word: {} lines, {} dropped", told.printed, told.dropped);
}

/// Ten thousand requests to a server that does not answer: as many are under way as a service may have.
pub(crate) async fn connections(stage: &Stage) {
    let path = format!("/connect?requests=500&to={}", stage.upstream.address);
    let answers = stage.all_ask(20, &path).await;
    stage.still().await;
    let most = stage.upstream.most();
    eprintln!("  of 10,000 connections {most} were held at once");
    // Whoever came when nobody more might even wait was told at once, and says so.
    let told = |answer: &Answer| answer.status == 504 || answer.body == "0 of 500\n";
    assert!(answers.iter().all(told), "{answers:?}");
    // The server sees that one has ended a moment after the next has begun.
    assert!((64..=128 + 16).contains(&most), "{most} at once");
    let waiting = async {
        while stage.upstream.held() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("with who asked for them they end");
}

/// Ten thousand traps, as fast as they go.
pub(crate) async fn traps(stage: &Stage) {
    const CLIENTS: usize = 16;
    const TRAPS: usize = 10_000;
    let started = Instant::now();
    let clients = (0..CLIENTS).map(async |_| {
        let mut connection = Connection::open(stage.storm).await.expect("connected");
        for _ in 0..TRAPS / CLIENTS {
            assert_eq!(connection.get("/trap").await.expect("answered").status, 500);
        }
    });
    join_all(clients).await;
    eprintln!("  {:.0} traps a second", TRAPS as f64 / started.elapsed().as_secs_f64());
}

/// Calls without end, and calls for more than one may ask for.
pub(crate) async fn floods(stage: &Stage) {
    for (path, status) in [("/large", 500), ("/random", 500)] {
        let answers = stage.all_ask(8, path).await;
        assert!(answers.iter().all(|answer| answer.status == status), "{path}: {answers:?}");
    }
    let floods = ["/clock", "/churn", "/ready", "/poll"].map(|path| stage.all_ask(4, path));
    for answers in join_all(floods).await {
        assert!(answers.iter().all(|answer| answer.status == 504), "{answers:?}");
    }
}
