//! One replica leads. In: the lease; out: the leader's work run for as long as it is held, its writes behind a fence. IO.

mod fence;

use std::{future::Future, time::Duration};

use k8s_controller::LeaderElection;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};

pub use fence::{Fence, Fenced};

/// Name of the Lease.
const LEASE: &str = "podless-operator";
/// Another replica takes over when the lease was not renewed for this long.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// The leader gives up earlier than that, and so do its writes.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often the lease is renewed, and looked at by those who wait: up to half more by chance. A lease that was
/// released is therefore taken within two seconds.
const RETRY_PERIOD: Duration = Duration::from_secs(1);

/// Why a replica ends.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The process exits at once: what it has spawned must not outlive the lease.
    #[error("the lease was lost: another replica leads, or the API server was away for too long")]
    Lost,
    /// The leader cannot go on.
    #[error("the leader's work has failed: {0:#}")]
    Failed(anyhow::Error),
    /// There is no way to be told to stop.
    #[error("signals cannot be received: {0}")]
    Signals(#[from] std::io::Error),
}

/// Waits for the lease, then runs `work` until the lease is lost, the work fails, or SIGTERM or SIGINT comes: then the
/// lease is released and all is well. `work` writes through the fence's client.
pub async fn lead(
    client: Client,
    fence: &Fence,
    namespace: &str,
    identity: &str,
    work: impl Future<Output = anyhow::Error>,
) -> Result<(), Ended> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let election = LeaderElection::new(fence.renewed_by(client), namespace, LEASE, identity)
        .with_lease_duration(LEASE_DURATION)
        .with_renew_deadline(RENEW_DEADLINE)
        .with_retry_period(RETRY_PERIOD);
    let ended = tokio::select! {
        ended = election.with_lease(work) => Some(ended),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    // What is still on its way ends here: another replica may lead as soon as the lease is free.
    fence.shut();
    match ended {
        None => {
            election.release().await;
            Ok(())
        }
        Some(None) => Err(Ended::Lost),
        Some(Some(error)) => Err(Ended::Failed(error)),
    }
}
