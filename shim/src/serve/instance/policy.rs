//! How often, how long and by how many requests at once an instance is used: what a service asks for and the interface
//! that it exports in, a policy out. Pure.

use std::time::Duration;

use podless_artifact::seal::HttpWorld;

/// Requests that an instance of WASI 0.3 answers, and of these at once, when the service says nothing: Wasmtime's own
/// numbers (`wasmtime serve`). One of WASI 0.2 answers one.
const INVOCATIONS_P3: u32 = 128;
const CONCURRENCY_P3: u32 = 16;
/// Instances that are kept for the next request.
const POOL: u32 = 32;
/// How long one is kept that no request wants.
const IDLE: Duration = Duration::from_secs(10);

/// What a service asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Requests that an instance answers.
    pub(crate) invocations: Option<u32>,
    /// Of these at once.
    pub(crate) concurrency: Option<u32>,
    /// Instances that are kept for the next request.
    pub(crate) pool: Option<u32>,
    /// How long each is kept that no request wants.
    pub(crate) idle: Option<Duration>,
}

/// What becomes of instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Requests that an instance answers, one at least.
    pub(crate) invocations: u32,
    /// Of these at once, one at least.
    pub(crate) concurrency: u32,
    /// Instances that wait for another request, or could take one more, at once.
    pub(crate) pool: usize,
    /// How long an instance waits for its next request.
    pub(crate) idle: Duration,
}

impl Policy {
    /// What is asked for, and what is usual otherwise. A handler of WASI 0.2 has one request at a time.
    pub(crate) fn new(asked: Asked, http: HttpWorld) -> Self {
        let (invocations, concurrency) = match http {
            HttpWorld::P2 => (1, 1),
            HttpWorld::P3 => (INVOCATIONS_P3, asked.concurrency.unwrap_or(CONCURRENCY_P3)),
        };
        Self {
            invocations: asked.invocations.unwrap_or(invocations).max(1),
            concurrency: concurrency.max(1),
            pool: asked.pool.unwrap_or(POOL) as usize,
            idle: asked.idle.unwrap_or(IDLE),
        }
    }

    /// Whether an instance may answer a second request.
    pub(crate) fn reuses(&self) -> bool {
        self.invocations > 1 && self.pool > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_asked_for_is_fresh_for_0_2_and_reused_for_0_3() {
        let nothing = Asked::default();
        assert!(!Policy::new(nothing, HttpWorld::P2).reuses());
        let usual = Policy::new(nothing, HttpWorld::P3);
        assert_eq!((usual.invocations, usual.concurrency, usual.reuses()), (128, 16, true));
        let asked = Asked { invocations: Some(9), concurrency: Some(3), ..nothing };
        assert_eq!(
            (Policy::new(asked, HttpWorld::P3).invocations, Policy::new(asked, HttpWorld::P3).concurrency),
            (9, 3)
        );
        let old = Policy::new(asked, HttpWorld::P2);
        assert_eq!((old.invocations, old.concurrency), (9, 1), "one request at a time");
        assert!(!Policy::new(Asked { pool: Some(0), ..asked }, HttpWorld::P3).reuses(), "nothing is kept");
        assert_eq!(Policy::new(Asked { invocations: Some(0), ..nothing }, HttpWorld::P3).invocations, 1);
    }
}
