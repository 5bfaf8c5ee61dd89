//! The shim's pool of instances: its size in, Wasmtime's configuration for running out. Pure; nothing here changes
//! machine code.

use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::{Flavour, MAX_INSTANCE_MEMORY, Target, config};

/// Most core instances, tables and linear memories that one component may have.
pub const MAX_PARTS: PartLimits = PartLimits { instances: 16, tables: 16, memories: 8 };
/// Most elements of one table.
pub const MAX_TABLE_ELEMENTS: usize = 20_000;
/// Most bytes of linear memory that a slot keeps which nobody uses, for the next instance of the same component.
pub const KEPT: u64 = 256 << 10;
/// Stack of a guest's call, in bytes, and what of it WebAssembly may use.
const STACK: usize = 1 << 20;
const WASM_STACK: usize = 512 << 10;

/// How many parts one component may have.
#[derive(Clone, Copy, Debug)]
pub struct PartLimits {
    /// Core instances.
    pub instances: usize,
    /// Tables.
    pub tables: usize,
    /// Linear memories.
    pub memories: usize,
}

/// How large the pool is.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    /// Instances that may be live at once.
    pub instances: u32,
    /// Slots that may keep memory which nobody uses. Without one an instance begins in a slot that has to be made ready.
    pub warm: u32,
    /// Whether used pages are found by asking the kernel (`PAGEMAP_SCAN`) when it can. Never where the process may be
    /// swapped out: a swapped-out page is not seen and would not be reset.
    pub pagemap_scan: bool,
}

/// An engine that runs machine code of this target and flavour and cannot make any.
pub fn runner(target: Target, flavour: Flavour, pool: Pool) -> wasmtime::Result<Engine> {
    Engine::new(&runner_config(target, flavour, pool))
}

fn runner_config(target: Target, flavour: Flavour, pool: Pool) -> Config {
    let parts = u32::try_from(MAX_PARTS.memories).unwrap_or(u32::MAX);
    // Most components have one memory, two or three core instances and tables: the pools of parts are for those, and
    // a request whose component finds none free is answered 503, as when instances run out.
    let several = pool.instances.saturating_mul(4).max(MAX_PARTS.instances as u32);
    let mut allocation = PoolingAllocationConfig::new();
    allocation
        .total_component_instances(pool.instances)
        .total_core_instances(several)
        .total_memories(pool.instances.max(parts))
        .total_tables(several)
        .total_stacks(stacks(flavour, pool.instances))
        .max_core_instances_per_component(MAX_PARTS.instances as u32)
        .max_memories_per_component(parts)
        .max_tables_per_component(MAX_PARTS.tables as u32)
        .max_tables_per_module(MAX_PARTS.tables as u32)
        .max_memories_per_module(parts)
        .max_memory_size(MAX_INSTANCE_MEMORY as usize)
        .table_elements(MAX_TABLE_ELEMENTS)
        .max_component_instance_size(1 << 20)
        .max_core_instance_size(1 << 20)
        .max_unused_warm_slots(pool.warm)
        .table_keep_resident(64 << 10)
        .async_stack_keep_resident(32 << 10)
        .pagemap_scan(if pool.pagemap_scan { Enabled::Auto } else { Enabled::No })
        // With the scan only dirty pages are wiped, so much may stay; without it every kept byte is written each time.
        .linear_memory_keep_resident(if pool.pagemap_scan { KEPT as usize } else { 64 << 10 });
    let mut config = config(target, flavour);
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(allocation))
        .async_stack_size(STACK)
        .max_wasm_stack(WASM_STACK)
        // One guest's stack is the next one's: it must not find what was there.
        .async_stack_zeroing(true);
    config
}

/// Stacks for so many instances, and some: one that finds none ends with all its requests. Of WASI 0.2 one that blocks
/// in async code holds a second one for a moment; of 0.3 it holds one for its event loop, and one for each component
/// inside that waits in a blocking call.
fn stacks(flavour: Flavour, instances: u32) -> u32 {
    let stacks = match flavour {
        Flavour::P2 => instances.saturating_add(instances / 8),
        Flavour::P3 => instances.saturating_mul(3),
    };
    stacks.saturating_add(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_of_0_3_has_a_stack_beside_that_of_its_event_loop() {
        assert_eq!(Flavour::ALL.map(|flavour| stacks(flavour, 80)), [98, 248]);
        assert_eq!(Flavour::ALL.map(|flavour| stacks(flavour, u32::MAX)), [u32::MAX; 2]);
    }

    #[test]
    fn pools_of_all_sizes_start() {
        for instances in [1, 4, 1000] {
            for pagemap_scan in [false, true] {
                for flavour in Flavour::ALL {
                    runner(Target::default(), flavour, Pool { instances, warm: 1, pagemap_scan }).expect("an engine");
                }
            }
        }
    }
}
