//! Instances that take another call: who has room comes in, the one that came last is given the next call. No IO; a lock
//! for a moment.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use podless_engine::Flavour;
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

/// The open instances of all services of the node: they give way when there is no slot for another's, those of the one
/// engine that has none, or no memory.
#[derive(Default)]
pub(crate) struct AllOpen {
    p2: Mutex<Vec<Weak<Open>>>,
    p3: Mutex<Vec<Weak<Open>>>,
}

impl AllOpen {
    /// One more service keeps instances, on this engine.
    pub(super) fn add(&self, flavour: Flavour, open: &Arc<Open>) {
        let mut all = self.all(flavour);
        all.retain(|open| open.strong_count() > 0);
        all.push(Arc::downgrade(open));
    }

    /// Tells those on this engine that wait for a call to end, which they do when it is their turn to run.
    pub(super) fn close(&self, flavour: Flavour) {
        self.all(flavour).iter().filter_map(Weak::upgrade).for_each(|open| open.close());
    }

    fn all(&self, flavour: Flavour) -> MutexGuard<'_, Vec<Weak<Open>>> {
        let all = match flavour {
            Flavour::P2 => &self.p2,
            Flavour::P3 => &self.p3,
        };
        all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_on_one_engine_does_not_give_way_for_the_other() {
        let all = AllOpen::default();
        let opens = Flavour::ALL.map(|flavour| {
            let open = Arc::new(Open::new(1));
            all.add(flavour, &open);
            open
        });
        let mut places = opens.each_ref().map(|open| open.list().expect("there is room"));
        all.close(Flavour::P3);
        let closed =
            places.each_mut().map(|place| matches!(place.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        assert_eq!(closed, [false, true]);
    }
}
