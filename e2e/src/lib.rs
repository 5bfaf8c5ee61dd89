//! What the tests on a real cluster share: the cluster and its API, the registry, a client outside the pods, and
//! waiting for conditions. Everything here does IO.
//!
//! The cluster is up and Podless is installed before a test starts: `make test-cluster` sees to it and sets
//! `KUBECONFIG`, `REGISTRY`, `PODLESS_CLUSTER` (the harness with its name), `PODLESS_CLIENT_NETNS` (the client's network
//! namespace) and `PODLESS_TEST_ARTIFACTS` (the built guests).

mod client;
mod cluster;
pub mod figures;
mod loss;
mod registry;
mod service;

pub use client::{Answer, Target, all_serve, get, in_client, post};
pub use cluster::{Cluster, SERVING_SHIM, SUPERVISING_SHIM};
pub use loss::{Guest, Kind, Lane, Loss, Plan, Report, Traffic};
pub use registry::{COMPONENT, Registry};
pub use service::{Namespace, condition, is, wasm_service};

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Whether the tests take their long forms, as `make soak` asks for. Those that have no short one are `#[ignore]`d.
pub fn soak() -> bool {
    std::env::var("PODLESS_SOAK").is_ok_and(|value| value == "1")
}

/// Release namespace of Podless on the test cluster.
pub const RELEASE_NAMESPACE: &str = "podless-system";

/// Asks again until the answer is there, and fails with the last thing that was seen when `within` has passed.
///
/// `ask` answers `Ok(value)` when the condition holds and `Err(what is there instead)` when it does not hold yet.
pub async fn eventually<T, F>(what: &str, within: Duration, mut ask: F) -> Result<T>
where
    F: AsyncFnMut() -> Result<T>,
{
    let start = Instant::now();
    loop {
        match ask().await {
            Ok(value) => return Ok(value),
            Err(seen) if start.elapsed() > within => bail!("{what}: not within {within:?}; last seen: {seen:#}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// An environment variable that the Makefile sets.
pub(crate) fn env(name: &str) -> Result<String> {
    std::env::var(name).map_err(|_| anyhow::anyhow!("{name} is not set: run these tests by `make test-cluster`"))
}
