//! Cores: one for what is measured, another for who asks. IO: where threads and processes run.

use std::thread;

use anyhow::{Context, Result, anyhow};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::sync::oneshot;

/// The two cores.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    /// Of the server.
    pub(crate) server: usize,
    /// Of who asks it.
    pub(crate) client: usize,
}

impl Cores {
    /// The first two that this process may use.
    pub(crate) fn find() -> Result<Self> {
        let mine = sched_getaffinity(None)?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| mine.is_set(*core));
        let two = cores.next().zip(cores.next());
        let (server, client) = two.context("two cores are needed: one serves, the other asks")?;
        Ok(Self { server, client })
    }
}

/// Does this on a thread of its own, on this core; what it starts runs there as well.
pub(crate) async fn on<T: Send + 'static>(
    core: Option<usize>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (done, result) = oneshot::channel();
    thread::Builder::new().name("measure".to_owned()).spawn(move || {
        let pinned = core.map_or(Ok(()), |core| {
            let mut only = CpuSet::new();
            only.set(core);
            sched_setaffinity(None, &only)
        });
        // Who does not wait any more has given up.
        let _ = done.send(pinned.map_err(Into::into).and_then(|()| work()));
    })?;
    result.await.map_err(|_| anyhow!("a measurement panicked"))?
}
