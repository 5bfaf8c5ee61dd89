//! Replicas over time, as a watch tells them: what users see who run `kubectl get wasmservice --watch`. IO.

use std::{future::Future, pin::pin, time::Instant};

use anyhow::{Context, Result};
use futures::TryStreamExt;
use kube::runtime::watcher;
use podless_e2e::Namespace;
use tokio::select;

use super::bench::changes;

/// What status said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replicas {
    pub(crate) desired: i32,
    /// Placed on nodes, and served there.
    pub(crate) ready: i32,
}

/// Watches a service while something goes on; answers what that came to, and each change of its replicas with the
/// seconds since `start`.
pub(crate) async fn watching<T>(
    namespace: &Namespace,
    name: &str,
    start: Instant,
    work: impl Future<Output = Result<T>>,
) -> Result<(T, Vec<(f64, Replicas)>)> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let (mut changes, mut work) = (pin!(changes(namespace.services(), config)), pin!(work));
    let mut seen: Vec<(f64, Replicas)> = vec![];
    loop {
        select! {
            done = &mut work => return Ok((done?, seen)),
            change = changes.try_next() => {
                let Some(status) = change?.context("the watch has ended")?.status else { continue };
                let now = Replicas { desired: status.desired_replicas.unwrap_or(0), ready: status.ready_replicas };
                if seen.last().is_none_or(|(_, last)| *last != now) {
                    seen.push((start.elapsed().as_secs_f64(), now));
                }
            }
        }
    }
}
