//! The end: from SIGTERM to the last answer. IO: signals and time.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::signal::unix::{SignalKind, signal};

use crate::{
    serve::{Node, Phase},
    shared::Shared,
};

/// Waits for SIGTERM or SIGINT, then lingers: not ready any more, serving on while the endpoints are taken away,
/// clients asked to come again elsewhere. Returns when the ports are to be closed.
pub(crate) async fn wait(node: Arc<Node>, shared: Arc<Shared>, linger: Duration) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut asked = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    asked().await;
    tracing::info!(seconds = linger.as_secs(), "asked to stop: serving on for a while");
    shared.draining.store(true, Relaxed);
    node.phase.send_replace(Phase::Lingering);
    // Asked twice: somebody does not want to wait.
    tokio::select! {
        () = tokio::time::sleep(linger) => {}
        () = asked() => {}
    }
    tracing::info!("closing");
    node.phase.send_replace(Phase::Closing);
    Ok(())
}
