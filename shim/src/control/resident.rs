//! Who the process's resident memory belongs to: the text of `/proc/self/maps` and a count of resident bytes in, bytes
//! by artifact out. Pure; `measure` does the reading.
//!
//! Two kinds of mappings have an artifact's file: its machine code, and, in the slots of the pool, the initial memory
//! of its instances, copied on write. A slot's other pages are anonymous and touch that mapping on one side or both:
//! neighbours that are readable and writable belong to the same instance. What is kept of a slot for the next instance
//! of the same component is counted too: it is resident, and for this component.
//!
//! Not attributed: the shim itself, connections, guests' stacks, and the linear memory of components that have no
//! initial data.

use std::{collections::HashMap, ops::Range};

/// What is resident.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resident {
    /// All of the process, in bytes.
    pub(crate) total: u64,
    /// By the file of the artifact.
    pub(crate) artifacts: HashMap<String, Share>,
}

/// What is resident of one artifact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    /// Bytes of its machine code.
    pub(crate) code: u64,
    /// Bytes of its instances' linear memory, live ones and kept slots.
    pub(crate) memory: u64,
    /// Slots of the pool that hold these.
    pub(crate) slots: u64,
}

impl Share {
    /// All its bytes.
    pub(crate) fn bytes(self) -> u64 {
        self.code + self.memory
    }
}

struct Mapping<'a> {
    addresses: Range<u64>,
    writable: bool,
    file: &'a str,
}

/// Shares out memory among the artifacts, which are the files below `dir`; `resident` counts the resident bytes of a
/// range of addresses.
pub(crate) fn share_out(maps: &str, dir: &str, mut resident: impl FnMut(Range<u64>) -> u64) -> HashMap<String, Share> {
    let mappings: Vec<_> = maps.lines().filter_map(mapping).collect();
    let runs =
        mappings.chunk_by(|last, next| last.writable && next.writable && last.addresses.end == next.addresses.start);
    let mut artifacts = HashMap::<_, Share>::new();
    for run in runs {
        let Some(owner) = run.iter().find(|mapping| mapping.file.starts_with(dir)) else { continue };
        // A file that was removed after an update is still mapped while its requests end.
        let file = owner.file.strip_suffix(" (deleted)").unwrap_or(owner.file);
        let share = artifacts.entry(file.to_owned()).or_default();
        let bytes = run.iter().map(|mapping| resident(mapping.addresses.clone())).sum::<u64>();
        if owner.writable {
            share.memory += bytes;
            share.slots += 1;
        } else {
            share.code += bytes;
        }
    }
    artifacts
}

/// `7f00-7f10 rw-p 00000000 08:01 123   /path with spaces`
fn mapping(line: &str) -> Option<Mapping<'_>> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let addresses = u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
    let (permissions, rest) = rest.split_once(' ')?;
    // After offset, device and inode.
    let file = rest.splitn(4, ' ').nth(3).unwrap_or("").trim_start();
    Some(Mapping { addresses, writable: permissions.starts_with("rw"), file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_slots_find_their_artifact() {
        let maps = "\
1000-2000 r-xp 00000000 08:01 9                          /bin/podless-shim
2000-3000 r--p 00000000 08:01 1234                       /data/a.cwasm
3000-4000 r-xp 00001000 08:01 1234                       /data/a.cwasm
10000-11000 rw-p 00000000 00:00 0
11000-12000 rw-p 00002000 08:01 1234                     /data/a.cwasm
12000-18000 rw-p 00000000 00:00 0
18000-20000 ---p 00000000 00:00 0
20000-21000 rw-p 00002000 08:01 1234                     /data/a.cwasm
21000-22000 rw-p 00000000 00:00 0
22000-30000 ---p 00000000 00:00 0
30000-31000 rw-p 00000000 08:01 77                       /data/b of c.cwasm (deleted)
31000-32000 ---p 00000000 00:00 0
40000-41000 rw-p 00000000 00:00 0                        [heap]
";
        // Everything is resident here.
        let artifacts = share_out(maps, "/data", |range| range.end - range.start);
        assert_eq!(
            artifacts,
            HashMap::from([
                ("/data/a.cwasm".to_owned(), Share { code: 0x2000, memory: 0xa000, slots: 2 }),
                ("/data/b of c.cwasm".to_owned(), Share { code: 0, memory: 0x1000, slots: 1 }),
            ])
        );
    }

    #[test]
    fn neighbours_that_do_not_touch_are_not_taken() {
        let maps = "\
1000-2000 rw-p 00000000 00:00 0
2001-3000 rw-p 00000000 08:01 1234                       /data/a.cwasm
3000-4000 r--p 00000000 00:00 0
";
        let artifacts = share_out(maps, "/data", |range| range.end - range.start);
        assert_eq!(artifacts["/data/a.cwasm"].bytes(), 0xfff);
    }
}
