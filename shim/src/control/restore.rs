//! After a restart: what was assigned before, verified anew, is wanted again. Its ports are open at once, each loads what a
//! request waits for, and all is loaded in the background. IO.

use std::{sync::Arc, time::Duration};

use podless_artifact::seal::TrustedKeys;
use podless_engine::Target;
use podless_link::v1;
use tokio::time;

use super::{
    Control, trust,
    verify::{Order, Refused, verify},
};
use crate::serve::service::Handler;

impl Control {
    /// Wants again what was served before the restart.
    pub(super) async fn restore(&mut self) {
        let trust = loop {
            match trust::read(&self.config.trust_dir) {
                Ok(trust) => break trust,
                Err(error) => tracing::warn!("waiting for the operator's public keys: {error}"),
            }
            time::sleep(Duration::from_millis(500)).await;
        };
        let kept = self.state.read().unwrap_or_else(|error| {
            tracing::warn!(%error, "the kept assignments cannot be read");
            vec![]
        });
        for verified in verified(kept, &trust.keys, self.config.target).await {
            match verified {
                Ok(order) => self.answer_again(&Arc::new(order)),
                Err(refused) => tracing::warn!("a kept assignment is not taken: {refused}"),
            }
        }
        // Only now: of a host that is not there yet it would be said that nobody has it.
        if let Err(error) = self.ports.open_shared(self.hosts.table()) {
            tracing::error!(%error, "nobody is answered on the shared port");
        }
        tracing::info!(services = self.wanted.len(), "serving what is kept");
        self.changed = true;
        self.step();
    }

    /// Opens the port at once: who asks has the service loaded and does not wait for all the others.
    fn answer_again(&mut self, order: &Arc<Order>) {
        self.wanted.insert(order.identity.uid.clone(), order.clone());
        // It lies there.
        order.received.forget();
        let entry = self.entry(order);
        let (gate, stats) = (entry.gate.clone(), entry.stats.clone());
        let handler = if order.budget == 0 { Handler::Stopped } else { self.parked(order.clone(), gate, stats) };
        if let Err(error) = self.answer(order, handler, None) {
            // Tried again when its turn comes, and said then.
            tracing::debug!(%error, uid = order.identity.uid, "not answered yet");
        }
        self.host(order);
        if let Some(serving) = self.entries.get_mut(&order.identity.uid).and_then(|entry| entry.serving.as_mut()) {
            serving.restored = true;
        }
    }
}

/// Verifies on all cores: signatures of thousands take a while.
async fn verified(kept: Vec<v1::Assign>, keys: &TrustedKeys, target: Target) -> Vec<Result<Order, Refused>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (each, mut kept, mut parts) = (kept.len().div_ceil(cores).max(1), kept.into_iter().peekable(), vec![]);
    while kept.peek().is_some() {
        let (part, keys): (Vec<_>, _) = (kept.by_ref().take(each).collect(), keys.clone());
        parts.push(tokio::task::spawn_blocking(move || {
            part.into_iter().map(|received| verify(received, &keys, target)).collect::<Vec<_>>()
        }));
    }
    let parts = futures::future::join_all(parts).await;
    // None is cut off: the runtime does not end while this waits.
    parts.into_iter().flatten().flatten().collect()
}
