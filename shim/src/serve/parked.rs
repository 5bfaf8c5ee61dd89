//! A service of which nothing is resident: its first request has it loaded, and whoever comes meanwhile waits for the
//! same load. No IO: the one who loads is told, and says how it went.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};

use tokio::{
    sync::SetOnce,
    time::{self, timeout_at},
};

use super::refusal::Refusal;

/// A `T` that is loaded when it is asked for. It is loaded once: what could not be loaded, or is to be parked again,
/// gets another one of these.
pub(crate) struct Parked<T> {
    /// Tells who can load it.
    wake: Box<dyn Fn(Arc<Self>) + Send + Sync>,
    woken: AtomicBool,
    /// What was loaded; or since when it is known that it cannot be.
    loaded: SetOnce<Result<T, Instant>>,
}

impl<T> Parked<T> {
    /// Something that `wake` has loaded: it is called once, must not block, and sees to it that [`Self::load`] or
    /// [`Self::refuse`] follows.
    pub(crate) fn new(wake: impl Fn(Arc<Self>) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { wake: Box::new(wake), woken: AtomicBool::new(false), loaded: SetOnce::new() })
    }

    /// What was loaded, waited for until `deadline`.
    pub(crate) async fn get(self: &Arc<Self>, deadline: time::Instant) -> Result<&T, Refusal> {
        let loaded = match self.loaded.get() {
            Some(loaded) => loaded,
            None => {
                if !self.woken.swap(true, Relaxed) {
                    (self.wake)(self.clone());
                }
                timeout_at(deadline, self.loaded.wait()).await.map_err(|_| Refusal::Timeout)?
            }
        };
        loaded.as_ref().map_err(|_| Refusal::NotLoaded)
    }

    /// It is loaded: whoever waits goes on.
    pub(crate) fn load(&self, loaded: T) {
        let _ = self.loaded.set(Ok(loaded));
    }

    /// It cannot be loaded, unless it is: whoever waits, or comes from now on, is refused.
    pub(crate) fn refuse(&self, now: Instant) {
        let _ = self.loaded.set(Err(now));
    }

    /// Whether it is loaded.
    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded.get().is_some_and(Result::is_ok)
    }

    /// Since when whoever asks is refused.
    pub(crate) fn refused(&self) -> Option<Instant> {
        self.loaded.get()?.as_ref().err().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicU32, time::Duration};

    use futures::{FutureExt, future::join_all};

    use super::*;

    fn parked() -> (Arc<Parked<u32>>, Arc<AtomicU32>) {
        let wakes = Arc::<AtomicU32>::default();
        let counted = wakes.clone();
        let parked = Parked::new(move |_| {
            counted.fetch_add(1, Relaxed);
        });
        (parked, wakes)
    }

    fn soon() -> time::Instant {
        time::Instant::now() + Duration::from_millis(200)
    }

    #[tokio::test]
    async fn many_wait_for_one_load() {
        let (parked, wakes) = parked();
        let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(parked.get(soon()))).collect();
        assert!(waiting.iter_mut().all(|one| one.now_or_never().is_none()));
        parked.load(7);
        assert!(join_all(waiting).await.into_iter().all(|one| one == Ok(&7)));
        assert_eq!(parked.get(time::Instant::now()).await, Ok(&7), "from now on nobody waits");
        assert_eq!((wakes.load(Relaxed), parked.refused()), (1, None));
        parked.refuse(Instant::now());
        assert_eq!(parked.get(soon()).await, Ok(&7), "what is loaded stays");
    }

    #[tokio::test]
    async fn what_cannot_be_loaded_is_refused_to_all() {
        let (parked, wakes) = parked();
        let mut waiting = Box::pin(parked.get(soon()));
        assert!((&mut waiting).now_or_never().is_none());
        let now = Instant::now();
        parked.refuse(now);
        assert_eq!((waiting.await, parked.get(soon()).await), (Err(Refusal::NotLoaded), Err(Refusal::NotLoaded)));
        assert_eq!((wakes.load(Relaxed), parked.refused()), (1, Some(now)));
    }

    #[tokio::test]
    async fn nobody_waits_longer_than_a_request_may_take() {
        let (parked, _) = parked();
        assert_eq!(parked.get(soon()).await, Err(Refusal::Timeout));
    }
}
