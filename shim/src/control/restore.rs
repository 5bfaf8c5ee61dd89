//! After a restart: what was assigned before, verified anew, is wanted again. IO.

use std::{sync::Arc, time::Duration};

use tokio::time;

use super::{Control, trust, verify::verify};

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
        for received in kept {
            match verify(received, &trust.keys, self.config.target) {
                Ok(order) => {
                    self.wanted.insert(order.identity.uid.clone(), Arc::new(order));
                }
                Err(refused) => tracing::warn!("a kept assignment is not taken: {refused}"),
            }
        }
        tracing::info!(services = self.wanted.len(), "serving what is kept");
        self.changed = true;
        self.step();
    }
}
