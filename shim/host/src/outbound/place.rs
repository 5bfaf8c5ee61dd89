//! How many requests may be on their way out, and how many names being resolved: a slow server must not take the node's
//! descriptors, nor a slow resolver its threads. No IO but the clock.

use std::sync::Arc;

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

/// Requests of one service that may be on their way out of a node.
const OF_A_SERVICE: usize = 128;
/// Requests of one service that may wait for that, or be on their way.
const ADMITTED: usize = 256;
/// Names of one service that may be being resolved, each on a thread of its own.
const LOOKUPS_OF_A_SERVICE: usize = 8;
/// The same of all services.
const LOOKUPS: usize = 256;

/// Places for connections and look-ups.
pub(crate) struct Places {
    admitted: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
}

/// One place of the service's and one of the node's, given back when the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Place(#[expect(dead_code, reason = "held until it is dropped")] Arc<[OwnedSemaphorePermit; 2]>);

impl Places {
    /// The places of one service.
    pub(crate) fn of_a_service() -> Self {
        Self::new(OF_A_SERVICE, LOOKUPS_OF_A_SERVICE)
    }

    /// The places of a node that may have so many connections to other servers.
    pub(crate) fn of_a_node(connections: usize) -> Self {
        Self::new(connections, LOOKUPS)
    }

    fn new(connections: usize, lookups: usize) -> Self {
        let places = |number| Arc::new(Semaphore::new(number));
        Self { admitted: places(ADMITTED), connections: places(connections), lookups: places(lookups) }
    }

    /// A place to wait in, if there is one at once.
    pub(crate) fn admit(&self) -> Option<OwnedSemaphorePermit> {
        self.admitted.clone().try_acquire_owned().ok()
    }

    /// A place for a connection, of the service first: who has none there takes none of the node's.
    pub(crate) async fn connection(service: &Self, node: &Self, until: Instant) -> Option<Place> {
        both(&service.connections, &node.connections, until).await
    }

    /// A place for a look-up, likewise.
    pub(crate) async fn lookup(service: &Self, node: &Self, until: Instant) -> Option<Place> {
        both(&service.lookups, &node.lookups, until).await
    }
}

async fn both(service: &Arc<Semaphore>, node: &Arc<Semaphore>, until: Instant) -> Option<Place> {
    let ours = timeout_at(until, service.clone().acquire_owned()).await.ok()?.ok()?;
    let nodes = timeout_at(until, node.clone().acquire_owned()).await.ok()?.ok()?;
    Some(Place(Arc::new([ours, nodes])))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_asks_without_end_is_refused_at_once() {
        let places = Places::of_a_service();
        let mut admitted: Vec<_> = (0..ADMITTED).map(|_| places.admit().expect("a place")).collect();
        assert!(places.admit().is_none());
        admitted.pop();
        assert!(places.admit().is_some(), "given back");
    }

    #[tokio::test]
    async fn one_service_does_not_take_anothers_places() {
        let (node, loud, quiet) = (Places::new(4, 1), Places::new(3, 1), Places::new(3, 1));
        let soon = || Instant::now() + Duration::from_millis(200);
        let mut held = vec![];
        for _ in 0..5 {
            held.push(Places::connection(&loud, &node, soon()).await);
        }
        assert_eq!(held.iter().flatten().count(), 3);
        assert!(Places::connection(&quiet, &node, soon()).await.is_some());
        held.remove(0);
        assert!(Places::connection(&loud, &node, soon()).await.is_some(), "given back");
        let lookup = Places::lookup(&quiet, &node, soon()).await;
        assert!(lookup.is_some() && Places::lookup(&loud, &node, soon()).await.is_none(), "the node has one");
    }
}
