//! Linear memory: what instances want in, whether they get it out. An instance has its own limit; what instances of a
//! node have together is shared by namespaces. Pure accounting.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use podless_engine::{MAX_PARTS, MAX_TABLE_ELEMENTS};
use wasmtime::{ResourceLimiter, StoreLimits, StoreLimitsBuilder};

use crate::{
    pressure::{Pressure, Tenant},
    share::{Share, Shares},
};

/// Linear memory of one instance that is not counted against the node: what nearly all components declare and most
/// never touch. How many instances there are bounds it.
const FREE: u64 = 2 << 20;

/// Of a node's memory, three quarters may be linear memory that is counted.
fn counted(memory: u64) -> u64 {
    memory / 4 * 3
}

/// What all instances of a node have.
pub struct NodeMemory {
    shares: Shares,
    pressure: Pressure,
}

impl NodeMemory {
    /// Of a node with so many bytes.
    pub fn new(memory: u64) -> Arc<Self> {
        Arc::new(Self { shares: Shares::new(counted(memory)), pressure: Pressure::new(memory) })
    }

    /// So many bytes of the process are resident now. Whether it is worth looking often.
    pub fn look(&self, resident: u64) -> bool {
        self.pressure.look(resident)
    }

    /// Bytes of linear memory that are counted, and how many may be.
    pub fn held(&self) -> (u64, u64) {
        (self.shares.held(), self.shares.limit())
    }
}

/// The node, or the namespace's share of it, has not as much memory left.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the node has not as much memory left: its instances have all that they may have together")]
pub struct NoMemory;

/// What instances of one service have of the node's memory.
pub struct ServiceMemory {
    node: Arc<NodeMemory>,
    share: Arc<Share>,
    tenant: Arc<Tenant>,
    bytes: Arc<AtomicU64>,
}

impl ServiceMemory {
    /// Of a service of this namespace; what its live instances have is counted.
    pub fn new(node: Arc<NodeMemory>, namespace: &str, bytes: Arc<AtomicU64>) -> Self {
        let (share, tenant) = (node.shares.of(namespace), node.pressure.tenant(namespace, &bytes));
        Self { node, share, tenant, bytes }
    }

    fn take(&self, bytes: u64) -> bool {
        self.node.pressure.allows(&self.tenant) && self.share.take(bytes)
    }
}

/// Limits of one instance, and what it has: given back when dropped.
pub(crate) struct Limits {
    own: StoreLimits,
    /// Most bytes of all its memories together.
    most: u64,
    service: Arc<ServiceMemory>,
    bytes: u64,
    /// Of these, what was taken from the share.
    counted: u64,
    /// What was allowed last.
    last: u64,
}

impl Limits {
    /// Of an instance with so much memory at most.
    pub(crate) fn new(memory: usize, service: Arc<ServiceMemory>) -> Self {
        let own = StoreLimitsBuilder::new()
            .memory_size(memory)
            .instances(MAX_PARTS.instances)
            .tables(MAX_PARTS.tables)
            .memories(MAX_PARTS.memories)
            .table_elements(MAX_TABLE_ELEMENTS)
            .build();
        Self { own, most: memory as u64, service, bytes: 0, counted: 0, last: 0 }
    }

    /// Bytes of all its memories together.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn grow(&mut self, by: u64) -> bool {
        let wanted = (self.bytes + by).saturating_sub(FREE).saturating_sub(self.counted);
        if !self.service.take(wanted) {
            return false;
        }
        self.counted += wanted;
        self.bytes += by;
        self.last = by;
        self.service.bytes.fetch_add(by, Relaxed);
        true
    }

    fn shrink(&mut self, by: u64) {
        self.bytes -= by;
        let too_much = self.counted - self.bytes.saturating_sub(FREE).min(self.counted);
        self.counted -= too_much;
        self.service.share.give_back(too_much);
        self.service.bytes.fetch_sub(by, Relaxed);
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

impl ResourceLimiter for Limits {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let by = desired.saturating_sub(current) as u64;
        self.last = 0;
        // A component may have several memories.
        let mine = self.own.memory_growing(current, desired, maximum)? && self.bytes + by <= self.most;
        if !mine || maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        // A guest can do nothing about it, and its client is to know that it is not the guest's fault.
        if self.grow(by) { Ok(true) } else { Err(NoMemory.into()) }
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        let last = std::mem::take(&mut self.last);
        self.shrink(last);
        self.own.memory_grow_failed(error)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.own.table_growing(current, desired, maximum)
    }

    fn instances(&self) -> usize {
        self.own.instances()
    }

    fn tables(&self) -> usize {
        self.own.tables()
    }

    fn memories(&self) -> usize {
        self.own.memories()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn an_instance_has_its_limit_and_all_together_have_theirs() {
        let node = NodeMemory::new(32 << 20);
        let service = Arc::new(ServiceMemory::new(node.clone(), "a", Arc::default()));
        let mut one = Limits::new(16 * MIB, service.clone());
        assert!(one.memory_growing(0, MIB, None).expect("allowed"));
        assert_eq!((service.bytes.load(Relaxed), node.held().0), (1 << 20, 0), "so much is free");
        assert!(one.memory_growing(MIB, 16 * MIB, None).expect("allowed"));
        assert_eq!((service.bytes.load(Relaxed), node.held().0), (16 << 20, 14 << 20));
        assert!(!one.memory_growing(16 * MIB, 17 * MIB, None).expect("its own limit is no trap"));
        let mut other = Limits::new(16 * MIB, service.clone());
        assert!(other.memory_growing(0, 12 * MIB, None).expect("allowed"));
        let refused = other.memory_growing(12 * MIB, 13 * MIB, None).expect_err("all have what they may have");
        assert!(refused.is::<NoMemory>());
        drop(one);
        node.look(31 << 20);
        assert!(other.memory_growing(12 * MIB, 13 * MIB, None).is_err(), "the node is full, whatever is counted");
        node.look(0);
        assert!(other.memory_growing(12 * MIB, 13 * MIB, None).expect("there is room again"));
        drop(other);
        assert_eq!((service.bytes.load(Relaxed), node.held().0), (0, 0));
    }

    proptest! {
        #[test]
        fn what_failed_is_not_counted(steps in prop::collection::vec((0..8usize, any::<bool>()), 0..60)) {
            let node = NodeMemory::new(64 << 20);
            let service = Arc::new(ServiceMemory::new(node.clone(), "a", Arc::default()));
            let mut limits = Limits::new(32 * MIB, service.clone());
            let mut has = 0;
            for (more, fails) in steps {
                let desired = has + more * MIB;
                let allowed = limits.memory_growing(has, desired, None).unwrap_or(false);
                prop_assert_eq!(allowed, desired <= 32 * MIB);
                if !allowed || fails {
                    let _ = limits.memory_grow_failed(wasmtime::Error::msg("no"));
                } else {
                    has = desired;
                }
                prop_assert_eq!(service.bytes.load(Relaxed), has as u64);
                prop_assert_eq!(node.held().0, (has as u64).saturating_sub(FREE));
            }
            drop(limits);
            prop_assert_eq!((service.bytes.load(Relaxed), node.held().0), (0, 0));
        }
    }
}
