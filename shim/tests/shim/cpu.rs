//! The CPU time of instances, as the operator is told it; who has computed for long leaves the others room.

use futures::future::join_all;
use podless_link::v1::{Assignment, ServiceLoad};

use crate::{
    client::get,
    operator::{Operator, PROBE},
    parked::told,
    process::{Shim, free_port},
};

/// What was told of a service once these requests have ended.
async fn ended(operator: &Operator, uid: &str, requests: u64) -> ServiceLoad {
    let what = format!("{requests} requests to {uid} have ended");
    told(operator, &what, |load| load.service_uid == uid && load.requests == requests && load.in_flight == 0).await
}

/// Microseconds of CPU that the process that serves has taken.
async fn taken(shim: &Shim) -> u64 {
    let pid = shim.serving().await;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("its stat");
    let fields = stat.rsplit(')').next().expect("what follows its name");
    let ticks = fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks"));
    ticks.sum::<u64>() * 1_000_000 / rustix::param::clock_ticks_per_second()
}

async fn series(shim: &Shim, service: &str) -> usize {
    let text = get(shim.admin, "/metrics").await.body;
    let start = format!("podless_shim_service_cpu_seconds_total{{namespace=\"tests\",service=\"service-{service}\"}}");
    text.lines().filter(|line| line.starts_with(&start)).count()
}

#[tokio::test]
async fn computing_is_counted_and_waiting_is_not() {
    let operator = Operator::start().await;
    let shim = Shim::start(&operator, &[]);
    let (port, other) = (free_port(), free_port());
    let brief = |uid, port| Assignment { timeout_millis: 1500, ..operator.assignment(PROBE, uid, port) };
    operator.serve(&Assignment { count_cpu: true, ..brief("a", port) }).await;
    operator.serve(&brief("b", other)).await;

    assert_eq!(get(port, "/slow?ms=1000").await.status, 200);
    let waited = ended(&operator, "a", 1).await.cpu_micros;
    assert!(waited > 0 && waited < 200_000, "{waited} µs");

    let before = taken(&shim).await;
    for answer in join_all((0..2).map(|_| get(port, "/spin"))).await {
        assert_eq!(answer.status, 504);
    }
    let counted = ended(&operator, "a", 3).await.cpu_micros - waited;
    let burned = taken(&shim).await - before;
    assert!(burned > 200_000 && counted >= burned / 2 && counted <= burned * 3 / 2, "{counted} µs of {burned} µs");

    // Nobody decides anything by that of the other: it is counted as well, not as exactly.
    assert_eq!(get(other, "/slow?ms=1000").await.status, 200);
    let waited = ended(&operator, "b", 1).await.cpu_micros;
    assert!(waited > 0 && waited < 200_000, "{waited} µs");
    assert_eq!(get(other, "/spin").await.status, 504);
    let counted = ended(&operator, "b", 2).await.cpu_micros;
    assert!(counted > 200_000, "{counted} µs");
    assert_eq!((series(&shim, "a").await, series(&shim, "b").await), (1, 1));
}
