//! Shares: so many at once for each name. In: a name; out: a share, which is given back when it is dropped. Who waits for
//! one name waits for no other.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// So many for each name.
pub(super) struct Shares<K> {
    each: usize,
    taken: Mutex<HashMap<K, Arc<Semaphore>>>,
}

impl<K: Eq + Hash> Shares<K> {
    pub(super) fn new(each: usize) -> Self {
        Self { each, taken: Mutex::default() }
    }

    /// Waits for a share; never an error, as none is ever closed.
    pub(super) async fn take(&self, name: K) -> Result<OwnedSemaphorePermit, AcquireError> {
        self.of(name).acquire_owned().await
    }

    /// Those of this name. Names that nobody uses or waits for are forgotten.
    fn of(&self, name: K) -> Arc<Semaphore> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|_, shares| Arc::strong_count(shares) > 1);
        taken.entry(name).or_insert_with(|| Arc::new(Semaphore::new(self.each))).clone()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_name_has_its_shares_for_as_long_as_someone_holds_one() {
        let shares = Shares::new(1);
        let take = |name| shares.take(name).now_or_never();
        let one = take("a");
        assert!(one.is_some() && take("a").is_none() && take("b").is_some());
        drop(one);
        assert!(take("a").is_some());
        assert_eq!(shares.taken.lock().expect("no panic").len(), 1, "b is forgotten");
    }
}
