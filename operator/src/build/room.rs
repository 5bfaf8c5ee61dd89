//! Room to compile in. In: what the command line says, and what this container may use; out: how many children there may be
//! at once. Pure, but for `memory`.
//!
//! All children's limits and the operator's own share fit into the container's memory: when the kernel kills for want of
//! it, it takes the operator along.

use std::fs;

/// What the operator itself takes, in bytes; the chart's template of the Deployment counts with the same.
const OWN_BYTES: u64 = 512 << 20;

/// How many children with so much memory each there may be at once: as many as asked for, or with 0 as there are CPUs; never
/// more than fit into the memory, and one in any case.
pub(super) fn at_once(asked: usize, each: u64, memory: u64, cpus: usize) -> usize {
    let fit = memory.saturating_sub(OWN_BYTES).checked_div(each).unwrap_or(0);
    let wanted = if asked == 0 { cpus } else { asked };
    wanted.min(usize::try_from(fit).unwrap_or(usize::MAX)).max(1)
}

/// Bytes that this container may use, or this machine has.
pub(super) fn memory() -> u64 {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let files = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = files.into_iter().find_map(number).unwrap_or(u64::MAX);
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    });
    limit.min(machine.map_or(u64::MAX, |kilobytes| kilobytes.saturating_mul(1024)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_as_many_as_fit() {
        const GI: u64 = 1 << 30;
        for (asked, each, memory, cpus, want) in [
            (0, 2 * GI, 3 * GI, 8, 1),
            (0, 2 * GI, 9 * GI, 8, 4),
            (0, 2 * GI, 64 * GI, 8, 8),
            (2, 2 * GI, 64 * GI, 8, 2),
            (20, GI, 64 * GI, 8, 20),
            (20, 2 * GI, 9 * GI, 8, 4),
            // Less than one: what does not fit is a limit that the chart refuses.
            (3, 2 * GI, GI, 8, 1),
            (0, 0, GI, 2, 1),
        ] {
            assert_eq!(at_once(asked, each, memory, cpus), want, "{asked} {each} {memory} {cpus}");
        }
    }

    #[test]
    fn this_machine_has_memory() {
        assert!((1 << 20..u64::MAX).contains(&memory()));
    }
}
