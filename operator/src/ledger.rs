//! What each service has been given, and keeps: its port and its share of the nodes. In: what slices have recorded, then
//! what is planned; out: ports and loads. Pure.

use crate::{ports::Ports, schedule::Loads};

/// What each service has been given.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Ports of services.
    pub ports: Ports,
    /// Shares of nodes.
    pub loads: Loads,
}

impl Ledger {
    /// Uids of the services that have been given something.
    pub fn services(&self) -> impl Iterator<Item = &String> {
        // Nobody has a place without a port.
        self.ports.services()
    }

    /// Takes everything back from a service that is gone.
    pub fn release(&mut self, service: &str) {
        self.ports.release(service);
        self.loads.release(service);
    }
}
