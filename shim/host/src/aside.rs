//! Who is about to keep a thread for long says so first: an instance that is given much memory may fill all of it with one
//! instruction, for which the kernel has to find the pages, and nothing of ours interrupts that. What is allowed in, the
//! same out, in a later step when it is for much. No IO.

use std::cell::Cell;

use tokio::task::yield_now;
use wasmtime::{ResourceLimiter, ResourceLimiterAsync};
use wasmtime_wasi::async_trait;

use crate::memory::Limits;

/// Memory of an instance that it may fill for the first time wherever it is. A MiB takes up to a millisecond and a quarter here.
const MUCH: u64 = 32 << 20;

thread_local! {
    static WANTED: Cell<bool> = const { Cell::new(false) };
}

/// Whether the step that this thread has just done wants the next one to be done where it keeps nobody waiting. It is
/// told once.
pub fn wanted() -> bool {
    WANTED.take()
}

/// Ends this step, and wants the next one to be done where it keeps nobody waiting.
pub async fn step() {
    WANTED.set(true);
    yield_now().await;
}

#[async_trait]
impl ResourceLimiterAsync for Limits {
    async fn memory_growing(&mut self, current: usize, desired: usize, most: Option<usize>) -> wasmtime::Result<bool> {
        let before = self.bytes();
        let allowed = ResourceLimiter::memory_growing(self, current, desired, most)?;
        // Once: from then on it is where it keeps nobody waiting.
        if allowed && (before..self.bytes()).contains(&MUCH) {
            step().await;
        }
        Ok(allowed)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        ResourceLimiter::memory_grow_failed(self, error)
    }

    async fn table_growing(&mut self, current: usize, desired: usize, most: Option<usize>) -> wasmtime::Result<bool> {
        ResourceLimiter::table_growing(self, current, desired, most)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        ResourceLimiter::table_grow_failed(self, error)
    }

    fn instances(&self) -> usize {
        ResourceLimiter::instances(self)
    }

    fn tables(&self) -> usize {
        ResourceLimiter::tables(self)
    }

    fn memories(&self) -> usize {
        ResourceLimiter::memories(self)
    }
}
