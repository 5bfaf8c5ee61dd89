//! What each service has been given, and keeps: its port, its share of the nodes, and the slices that say so. In: what
//! slices have recorded, then what is planned; out: ports, loads and names. Pure.

use crate::{ports::Ports, reconcile::slices::SliceNames, schedule::Loads};

/// What each service has been given.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Ports of services.
    pub ports: Ports,
    /// Shares of nodes.
    pub loads: Loads,
    /// Slices of services.
    pub slices: SliceNames,
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
        self.slices.release(service);
    }
}
