use crate::{
    client::get,
    operator::{HELLO, Operator, PROBE},
    process::{Shim, free_port},
};
use podless_link::v1::Assignment;
use std::time::Instant;
#[tokio::test]
async fn zz_cold() {
    let operator = Operator::start().await;
    let shim = Shim::start(&operator, &[]);
    shim.ready().await;
    let before = shim.resident().await;
    let mut ports = vec![];
    for n in 0..300 {
        let port = free_port();
        operator.assign(&Assignment {
            parked: true,
            ..operator.variant(if n % 2 == 0 { HELLO } else { PROBE }, n, &format!("u-{n}"), port)
        });
        ports.push(port);
    }
    for n in 0..300 {
        operator.acked(&format!("u-{n}"), 1).await;
    }
    let parked = shim.resident().await;
    let pid = shim.serving().await.as_raw_nonzero();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().matches(".cwasm").count();
    let mut times = vec![];
    for port in &ports {
        let s = Instant::now();
        assert_eq!(get(*port, "/").await.status, 200);
        times.push(s.elapsed());
    }
    let resident = shim.resident().await;
    let mut warm = vec![];
    for port in &ports {
        let s = Instant::now();
        assert_eq!(get(*port, "/").await.status, 200);
        warm.push(s.elapsed());
    }
    times.sort();
    warm.sort();
    eprintln!("before {} parked {} resident {} maps {maps}", before >> 10, parked >> 10, resident >> 10);
    eprintln!(
        "cold p50 {:?} p99 {:?} max {:?}; warm p50 {:?} p99 {:?}",
        times[150], times[297], times[299], warm[150], warm[297]
    );
    let k = rustix::process::Pid::from_raw(pid.get()).unwrap();
    let _ = k;
    let s = Instant::now();
    shim.kill_serving().await;
    while crate::client::try_get(ports[299], "/").await.map_or(true, |a| a.status != 200) {}
    eprintln!("restart to first answer {:?}", s.elapsed());
}
