//! What a port answers with: the service that has the port now, or on the shared port whoever has the request's host. A
//! request in, one snapshot of who answers it out. Pure.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use arc_swap::ArcSwapOption;
use http::Request;
use tokio::sync::watch;

use super::{
    hosts::{HostTable, Seat, host_of},
    refusal::Refusal,
    service::Service,
    spread::Spread,
};

/// Most connections of one service's port: its clients must leave room for the others'.
const CONNECTIONS: usize = 4096;
/// Most connections of the shared port: as many as of eight services.
const SHARED_CONNECTIONS: usize = 8 * CONNECTIONS;

/// Who answers on a port, and which of its connections are to come again.
pub(crate) struct Route {
    answers: Answers,
    /// Made for the first connection: there is nobody to tell before.
    spread: OnceLock<watch::Sender<Option<Spread>>>,
}

enum Answers {
    /// The service that has the port now.
    One(ArcSwapOption<Service>),
    /// Whoever has the host.
    Hosts(Arc<HostTable<Seat>>),
}

impl Route {
    /// A route to a service.
    pub(crate) fn new(service: Arc<Service>) -> Self {
        Self { answers: Answers::One(ArcSwapOption::new(Some(service))), spread: OnceLock::new() }
    }

    /// The route of the shared port.
    pub(crate) fn shared(hosts: Arc<HostTable<Seat>>) -> Self {
        Self { answers: Answers::Hosts(hosts), spread: OnceLock::new() }
    }

    /// Routes a service's port to another one or another generation; requests in flight keep the one they have.
    pub(crate) fn swap(&self, service: Option<Arc<Service>>) {
        if let Answers::One(one) = &self.answers {
            one.store(service);
        }
    }

    /// More shims than before get connections of this port: a share of those that are open is asked to come again. The
    /// draw is random.
    pub(crate) fn spread(&self, before: u32, after: u32, now: Instant, draw: u64) {
        if let Some(connections) = self.spread.get() {
            connections.send_modify(|spread| *spread = Some(Spread::after(*spread, before, after, now, draw)));
        }
    }

    /// Tells a connection which of them are to come again.
    pub(super) fn spreads(&self) -> watch::Receiver<Option<Spread>> {
        self.spread.get_or_init(|| watch::Sender::new(None)).subscribe()
    }

    /// Who answers a request.
    pub(super) fn resolve<B>(&self, request: &Request<B>) -> Result<Arc<Service>, Refusal> {
        match &self.answers {
            Answers::One(one) => one.load_full().ok_or(Refusal::NoService),
            Answers::Hosts(hosts) => {
                let seat = hosts.find(&host_of(request)?, request.uri().path()).ok_or(Refusal::UnknownHost)?;
                seat.load_full().ok_or(Refusal::UnknownHost)
            }
        }
    }

    /// Most connections at once.
    pub(super) fn connections(&self) -> usize {
        match self.answers {
            Answers::One(_) => CONNECTIONS,
            Answers::Hosts(_) => SHARED_CONNECTIONS,
        }
    }
}
