//! How many instances fit on this node: the kernel's and the pod's limits in, a number and what bounds it out. `read`
//! is IO, `capacity` is pure.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Slots that are made when nothing else bounds them. Each reserves 4 GiB of a 128 TiB address space.
const POOL: u64 = 10_000;
/// Mappings of one slot: its stack's guard splits the pool in two, and a live instance has four of its own.
const MAPPINGS_PER_INSTANCE: u64 = 6;
/// Mappings that are left for the shim itself and for the code of 4,000 services, three each.
const MAPPINGS_LEFT: u64 = 2_000 + 3 * 4_000;
/// Resident memory of a small live instance, with its stack and what the host keeps for it.
const BYTES_PER_INSTANCE: u64 = 64 << 10;

/// What the node allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// `vm.max_map_count`.
    pub(crate) max_map_count: u64,
    /// Memory of the cgroup, or of the machine, in bytes.
    pub(crate) memory: u64,
    /// Whether pages may be swapped out.
    pub(crate) swap: bool,
    /// Descriptors.
    pub(crate) files: u64,
}

/// How many instances fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Instances that may be live at once.
    pub(crate) instances: u32,
    /// What bounds them: `pool`, `maxMapCount` or `memory`.
    pub(crate) bounded_by: &'static str,
}

/// Sizes the pool. What was asked for is bounded by what could not work, and by nothing else; what was not asked for
/// is also bounded by half of the memory, because instances are not the only thing in it.
pub(crate) fn capacity(asked: Option<u32>, limits: Limits) -> Capacity {
    let maps =
        limits.max_map_count.saturating_sub(MAPPINGS_LEFT).max(MAPPINGS_PER_INSTANCE * 16) / MAPPINGS_PER_INSTANCE;
    let memory = asked.is_none().then_some((limits.memory / 2 / BYTES_PER_INSTANCE).max(16));
    let pool = asked.map_or(POOL, u64::from).clamp(1, 30_000);
    let bounds = [(pool, "pool"), (maps, "maxMapCount"), (memory.unwrap_or(u64::MAX), "memory")];
    let (instances, bounded_by) = bounds.into_iter().min_by_key(|(n, _)| *n).unwrap_or((1, "pool"));
    Capacity { instances: u32::try_from(instances).unwrap_or(u32::MAX), bounded_by }
}

/// Reads the limits; what cannot be read is taken as the kernel's default.
pub(crate) fn read() -> Limits {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let machine = |field: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next());
        line.and_then(|kilobytes| kilobytes.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    let cgroup = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .into_iter()
        .find_map(number)
        .unwrap_or(u64::MAX);
    let no_swap = number("/sys/fs/cgroup/memory.swap.max") == Some(0) || machine("SwapTotal:") == 0;
    Limits {
        max_map_count: number("/proc/sys/vm/max_map_count").unwrap_or(65_530),
        memory: cgroup.min(machine("MemTotal:")),
        swap: !no_swap,
        files: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
    }
}

/// Allows this process and its children as many descriptors as the container's runtime does: the limit that it starts
/// with is often far lower.
pub(crate) fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    // What is refused is left as it was: `capacity` counts with what there is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_scarcest_bounds() {
        let limits = |max_map_count, gibibytes_16th: u64| Limits {
            max_map_count,
            memory: gibibytes_16th << 26,
            swap: false,
            files: 1024,
        };
        for (asked, limits, instances, bounded_by) in [
            (None, limits(1 << 20, 1 << 10), 10_000, "pool"),
            (None, limits(65_530, 1 << 10), 8_588, "maxMapCount"),
            (None, limits(65_530, 8), 4_096, "memory"),
            (None, limits(65_530, 0), 16, "memory"),
            (Some(100), limits(65_530, 8), 100, "pool"),
            (Some(6_000), limits(65_530, 8), 6_000, "pool"),
            (Some(20_000), limits(65_530, 8), 8_588, "maxMapCount"),
            (Some(0), limits(65_530, 8), 1, "pool"),
            (None, limits(0, 8), 16, "maxMapCount"),
        ] {
            assert_eq!(capacity(asked, limits), Capacity { instances, bounded_by }, "{asked:?} {limits:?}");
        }
    }

    #[test]
    fn this_machine_has_limits() {
        let limits = read();
        assert!(limits.memory > 0 && limits.files > 0 && limits.max_map_count > 1000, "{limits:?}");
    }
}
