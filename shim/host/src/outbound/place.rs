//! How many requests may be on their way out, and how many names being resolved: a slow server must not take the node's
//! descriptors, nor a slow resolver its threads. What the node has is shared by namespaces. No IO but the clock.

use std::sync::{Arc, OnceLock};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::turns::{self, Way};

/// Requests of one service that may be on their way out of a node.
const OF_A_SERVICE: usize = 128;
/// Requests of one service that may wait for that, or be on their way.
const ADMITTED: usize = 256;
/// Names of one service that may be being resolved, each on a thread of its own.
const LOOKUPS_OF_A_SERVICE: usize = 8;
/// The same of all services.
const LOOKUPS: usize = 256;

/// A service's places for connections and look-ups.
pub(crate) struct Places {
    /// Made for the first request: most services never send one.
    own: OnceLock<Box<Own>>,
    node: Arc<Way>,
    node_lookups: Arc<Semaphore>,
}

/// What is the service's own.
struct Own {
    admitted: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
}

impl Default for Own {
    fn default() -> Self {
        let places = |number| Arc::new(Semaphore::new(number));
        Self { admitted: places(ADMITTED), connections: places(OF_A_SERVICE), lookups: places(LOOKUPS_OF_A_SERVICE) }
    }
}

/// A connection's place of the service's and of the node's, given back when the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Place(
    #[expect(dead_code, reason = "held until it is dropped")] Arc<(OwnedSemaphorePermit, turns::Place)>,
);

/// A look-up's places, likewise.
pub(crate) struct Lookup(#[expect(dead_code, reason = "held until it is dropped")] [OwnedSemaphorePermit; 2]);

/// The node's places for look-ups.
pub(crate) fn node_lookups() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(LOOKUPS))
}

impl Places {
    /// The places of one service, whose namespace has this way to those of the node.
    pub(crate) fn new(node: Arc<Way>, node_lookups: Arc<Semaphore>) -> Self {
        Self { own: OnceLock::new(), node, node_lookups }
    }

    fn own(&self) -> &Own {
        self.own.get_or_init(Box::default)
    }

    /// A place to wait in, if there is one at once.
    pub(crate) fn admit(&self) -> Option<OwnedSemaphorePermit> {
        self.own().admitted.clone().try_acquire_owned().ok()
    }

    /// A place for a connection, of the service first: who has none there takes none of the node's.
    pub(crate) async fn connection(&self, until: Instant) -> Option<Place> {
        let ours = one(&self.own().connections, until).await?;
        Some(Place(Arc::new((ours, self.node.take(until).await.ok()?))))
    }

    /// A place for a look-up, likewise.
    pub(crate) async fn lookup(&self, until: Instant) -> Option<Lookup> {
        Some(Lookup([one(&self.own().lookups, until).await?, one(&self.node_lookups, until).await?]))
    }
}

async fn one(places: &Arc<Semaphore>, until: Instant) -> Option<OwnedSemaphorePermit> {
    timeout_at(until, places.clone().acquire_owned()).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::turns::Turns;

    #[test]
    fn who_asks_without_end_is_refused_at_once() {
        let places = Places::new(Turns::new(1).of("a"), node_lookups());
        let mut admitted: Vec<_> = (0..ADMITTED).map(|_| places.admit().expect("a place")).collect();
        assert!(places.admit().is_none());
        admitted.pop();
        assert!(places.admit().is_some(), "given back");
    }

    #[tokio::test]
    async fn neither_a_service_nor_a_namespace_takes_what_others_need() {
        let (turns, lookups) = (Turns::new(2 * OF_A_SERVICE), node_lookups());
        let places = |namespace| Places::new(turns.of(namespace), lookups.clone());
        let soon = || Instant::now() + Duration::from_millis(100);
        let (loud, louder, quiet) = (places("loud"), places("loud"), places("quiet"));
        let mut held = vec![];
        while let Some(place) = loud.connection(soon()).await {
            held.push(place);
        }
        assert_eq!(held.len(), OF_A_SERVICE);
        while let Some(place) = louder.connection(soon()).await {
            held.push(place);
        }
        assert_eq!(held.len(), 2 * OF_A_SERVICE * 7 / 8, "an eighth is left for others");
        assert!(quiet.connection(soon()).await.is_some());
        held.remove(0);
        assert!(loud.connection(soon()).await.is_some(), "given back");
    }

    #[tokio::test]
    async fn names_are_resolved_a_few_at_a_time() {
        let places = Places::new(Turns::new(1).of("a"), Arc::new(Semaphore::new(1)));
        let soon = || Instant::now() + Duration::from_millis(100);
        let lookup = places.lookup(soon()).await;
        assert!(lookup.is_some() && places.lookup(soon()).await.is_none(), "the node has one");
    }
}
