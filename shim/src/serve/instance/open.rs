//! Instances that take another call: who has room comes in, the one that came last is given the next call. No IO; a lock
//! for a moment.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::oneshot;

use super::Call;

/// The place of one instance, for one call. Dropped, it tells the instance that none comes.
pub(super) type Place = oneshot::Sender<Call>;

/// The instances of one generation of a service that take another call.
pub(crate) struct Open {
    places: Mutex<Vec<Place>>,
    most: usize,
}

impl Open {
    /// Of these many at most.
    pub(super) fn new(most: usize) -> Self {
        Self { places: Mutex::default(), most }
    }

    /// Gives a call to an instance; or back, when there is none that takes it. The one that came last is taken: the
    /// others get old, and end.
    pub(super) fn give(&self, mut call: Call) -> Option<Call> {
        loop {
            let Some(place) = self.places().pop() else { return Some(call) };
            match place.send(call) {
                Ok(()) => return None,
                // It has ended meanwhile.
                Err(returned) => call = returned,
            }
        }
    }

    /// An instance takes one more call, unless enough do.
    pub(super) fn list(&self) -> Option<oneshot::Receiver<Call>> {
        let mut places = self.places();
        // Those that have ended are found when there is no room.
        if places.len() >= self.most {
            places.retain(|place| !place.is_closed());
        }
        (places.len() < self.most).then(|| {
            let (place, call) = oneshot::channel();
            places.push(place);
            call
        })
    }

    fn close(&self) {
        self.places().clear();
    }

    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The open instances of all services of the node: they give way when there is no slot for another's.
#[derive(Default)]
pub(crate) struct AllOpen(Mutex<Vec<Weak<Open>>>);

impl AllOpen {
    /// One more service keeps instances.
    pub(super) fn add(&self, open: &Arc<Open>) {
        let mut all = self.all();
        all.retain(|open| open.strong_count() > 0);
        all.push(Arc::downgrade(open));
    }

    /// Tells those that wait for a call to end, which they do when it is their turn to run.
    pub(super) fn close(&self) {
        self.all().iter().filter_map(Weak::upgrade).for_each(|open| open.close());
    }

    fn all(&self) -> MutexGuard<'_, Vec<Weak<Open>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
