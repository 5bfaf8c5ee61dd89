//! How many instances fit on this node: the kernel's and the pod's limits in, a number and what bounds it out. `read`
//! is IO, `capacity` is pure.

use std::fs;

use podless_link::SERVICE_PORTS;
use rustix::process::{Resource, Rlimit, getrlimit, nice, setrlimit};

/// Slots that are made when nothing else bounds them.
const POOL: u64 = 10_000;
/// Most that a pool may have.
const LARGEST_POOL: u64 = 30_000;
/// Addresses that are reserved for one: 4 GiB of linear memory and its guard, tables and a stack; and a quarter of that in
/// the other engine's pool, see `engine::slots`.
const ADDRESSES_PER_INSTANCE: u64 = (5 << 30) + (80 << 20);
/// Addresses that are left for everything else, of the 128 TiB that a process has by default.
const ADDRESSES_LEFT: u64 = 64 << 30;
/// Mappings of one: a live instance has four of its own, and each stack's guard splits the pool in two: nine stacks for
/// eight instances in one engine, three for each of a quarter as many in the other.
const MAPPINGS_PER_INSTANCE: u64 = 8;
/// Mappings of one service's code.
const MAPPINGS_PER_CODE: u64 = 5;
/// Mappings that are left for the shim itself.
const MAPPINGS_LEFT: u64 = 2_000;
/// Services whose code is mapped that the pool leaves mappings for. Mappings that the pool does not need are for more.
const RESIDENT: u64 = 4_000;
/// Resident memory of a small live instance, with its stack and what the host keeps for it.
const BYTES_PER_INSTANCE: u64 = 64 << 10;
/// Descriptors that are left for everything but ports and connections, when there are many.
const FILES_LEFT: u64 = 1024;
/// Connections of all services together, when descriptors allow.
const CONNECTIONS: u64 = 65_536;

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
    /// Addresses of the process, in bytes.
    pub(crate) addresses: u64,
}

/// How many instances fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Instances that may be live at once.
    pub(crate) instances: u32,
    /// What bounds them: `pool`, `maxMapCount`, `memory` or `addressSpace`.
    pub(crate) bounded_by: &'static str,
}

/// How much code may be mapped at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Different codes.
    pub(crate) codes: usize,
    /// Memory that they take, in bytes.
    pub(crate) bytes: u64,
}

/// Sizes the pool. What was asked for is bounded by what could not work, and by nothing else; what was not asked for
/// is also bounded by half of the memory, because instances are not the only thing in it.
pub(crate) fn capacity(asked: Option<u32>, limits: Limits) -> Capacity {
    let left = MAPPINGS_LEFT + RESIDENT * MAPPINGS_PER_CODE;
    let maps = limits.max_map_count.saturating_sub(left).max(MAPPINGS_PER_INSTANCE * 16) / MAPPINGS_PER_INSTANCE;
    let addresses = (limits.addresses.saturating_sub(ADDRESSES_LEFT) / ADDRESSES_PER_INSTANCE).max(16);
    let memory = asked.is_none().then_some((limits.memory / 2 / BYTES_PER_INSTANCE).max(16));
    let pool = asked.map_or(POOL, u64::from).clamp(1, LARGEST_POOL);
    let bounds =
        [(pool, "pool"), (maps, "maxMapCount"), (memory.unwrap_or(u64::MAX), "memory"), (addresses, "addressSpace")];
    let (instances, bounded_by) = bounds.into_iter().min_by_key(|(n, _)| *n).unwrap_or((1, "pool"));
    Capacity { instances: u32::try_from(instances).unwrap_or(u32::MAX), bounded_by }
}

/// How much code may be mapped beside so many instances, in so many mebibytes or a fifth of the memory.
pub(crate) fn room(instances: u32, mebibytes: Option<u32>, limits: Limits) -> Room {
    let taken = MAPPINGS_LEFT + u64::from(instances) * MAPPINGS_PER_INSTANCE;
    let codes = (limits.max_map_count.saturating_sub(taken) / MAPPINGS_PER_CODE).max(16);
    let bytes = mebibytes.map_or(limits.memory / 5, |mebibytes| u64::from(mebibytes) << 20);
    Room { codes: usize::try_from(codes).unwrap_or(usize::MAX), bytes }
}

/// Services that may have a port of their own, and connections that may be open at once: half of the descriptors each.
pub(crate) fn ports_and_connections(limits: Limits) -> (u32, usize) {
    let half = (limits.files - FILES_LEFT.min(limits.files / 4)) / 2;
    let ports = half.min(SERVICE_PORTS.len() as u64);
    // For eight clients one connection to another server: see `Node::new`.
    let connections = (half - half / 9).clamp(32, CONNECTIONS);
    (u32::try_from(ports).unwrap_or(u32::MAX), usize::try_from(connections).unwrap_or(usize::MAX))
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
        // Half of what 48 bits name is the kernel's.
        addresses: getrlimit(Resource::As).current.unwrap_or(u64::MAX).min(1 << 47),
    }
}

/// Makes the calling thread give way to those that serve, when there are not enough cores for both.
pub(crate) fn give_way() {
    // What is refused is left as it was.
    let _ = nice(5);
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

    fn limits(max_map_count: u64, gibibytes_16th: u64) -> Limits {
        Limits { max_map_count, memory: gibibytes_16th << 26, swap: false, files: 1024, addresses: 1 << 47 }
    }

    #[test]
    fn what_is_scarcest_bounds() {
        for (asked, limits, instances, bounded_by) in [
            (None, limits(1 << 20, 1 << 10), 10_000, "pool"),
            (None, limits(65_530, 1 << 10), 5_441, "maxMapCount"),
            (None, limits(65_530, 8), 4_096, "memory"),
            (None, limits(65_530, 0), 16, "memory"),
            (Some(100), limits(65_530, 8), 100, "pool"),
            (Some(5_000), limits(65_530, 8), 5_000, "pool"),
            (Some(20_000), limits(65_530, 8), 5_441, "maxMapCount"),
            (Some(60_000), limits(1 << 20, 8), 25_798, "addressSpace"),
            (Some(0), limits(65_530, 8), 1, "pool"),
            (None, limits(0, 8), 16, "maxMapCount"),
            (None, Limits { addresses: 1 << 40, ..limits(1 << 20, 1 << 10) }, 189, "addressSpace"),
            (None, Limits { addresses: 1 << 30, ..limits(1 << 20, 1 << 10) }, 16, "addressSpace"),
        ] {
            assert_eq!(capacity(asked, limits), Capacity { instances, bounded_by }, "{asked:?} {limits:?}");
        }
    }

    #[test]
    fn what_the_pool_leaves_is_for_code() {
        let small = limits(65_530, 16);
        assert_eq!(room(5_441, None, small), Room { codes: 4_000, bytes: 214_748_364 });
        assert_eq!(room(1_000, Some(512), small), Room { codes: 11_106, bytes: 512 << 20 });
        assert_eq!(room(10_000, None, limits(1 << 18, 256)).codes, 36_028, "a node that was tuned");
        assert_eq!(room(10_000, None, limits(0, 16)).codes, 16);
    }

    #[test]
    fn ports_and_connections_share_the_descriptors() {
        let of = |files| ports_and_connections(Limits { files, ..limits(65_530, 16) });
        assert_eq!(of(1 << 20), (30_000, 65_536));
        assert_eq!(of(20_000), (9_488, 8_434));
        assert_eq!(of(256), (96, 86));
        assert_eq!(of(0), (0, 32));
    }

    #[test]
    fn this_machine_has_limits() {
        let limits = read();
        assert!(limits.memory > 0 && limits.files > 0 && limits.max_map_count > 1000, "{limits:?}");
    }
}
