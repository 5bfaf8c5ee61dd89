//! Who the process's resident memory belongs to: the text of `/proc/self/smaps` in, bytes by artifact out. Pure.
//!
//! Two kinds of mappings have an artifact's file: its machine code, and, in the slots of the pool, the initial memory
//! of its instances, copied on write. A slot's other pages are anonymous and touch that mapping on one side or both:
//! neighbours that are readable and writable belong to the same instance. What is kept of a slot for the next instance
//! of the same component is counted too: it is resident, and for this component.
//!
//! Not attributed: the shim itself, connections, guests' stacks, and the linear memory of components that have no
//! initial data.

use std::collections::HashMap;

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
    start: u64,
    end: u64,
    writable: bool,
    file: &'a str,
    resident: u64,
}

/// Reads the text of smaps; artifacts are the files below `dir`.
pub(crate) fn parse(smaps: &str, dir: &str) -> Resident {
    let mut resident = Resident::default();
    let mut run: Vec<Mapping<'_>> = vec![];
    for mapping in mappings(smaps) {
        resident.total += mapping.resident;
        let joins = run.last().is_some_and(|last| last.writable && mapping.writable && last.end == mapping.start);
        if !joins {
            attribute(&run, dir, &mut resident.artifacts);
            run.clear();
        }
        run.push(mapping);
    }
    attribute(&run, dir, &mut resident.artifacts);
    resident
}

/// Gives a run of adjacent mappings to the artifact whose file is among them.
fn attribute(run: &[Mapping<'_>], dir: &str, artifacts: &mut HashMap<String, Share>) {
    let owner = run.iter().find(|mapping| mapping.file.starts_with(dir));
    let Some(owner) = owner else { return };
    // A file that was removed after an update is still mapped while its requests end.
    let file = owner.file.strip_suffix(" (deleted)").unwrap_or(owner.file);
    let share = artifacts.entry(file.to_owned()).or_default();
    let bytes = run.iter().map(|mapping| mapping.resident).sum::<u64>();
    if owner.writable {
        share.memory += bytes;
        share.slots += 1;
    } else {
        share.code += bytes;
    }
}

fn mappings(smaps: &str) -> impl Iterator<Item = Mapping<'_>> {
    let mut lines = smaps.lines().peekable();
    std::iter::from_fn(move || {
        let mut mapping = lines.by_ref().find_map(header)?;
        while let Some(line) = lines.next_if(|line| header(line).is_none()) {
            if let Some(kilobytes) = line.strip_prefix("Rss:") {
                let number = kilobytes.trim().trim_end_matches("kB").trim_end();
                mapping.resident = number.parse::<u64>().unwrap_or(0) * 1024;
            }
        }
        Some(mapping)
    })
}

/// `7f00-7f10 rw-p 00000000 08:01 123   /path with spaces`
fn header(line: &str) -> Option<Mapping<'_>> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    let (permissions, rest) = rest.split_once(' ')?;
    // After offset, device and inode.
    let file = rest.splitn(4, ' ').nth(3).unwrap_or("").trim_start();
    Some(Mapping { start, end, writable: permissions.starts_with("rw"), file, resident: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn smaps(mappings: &[(&str, &str, &str, u64)]) -> String {
        let text = mappings.iter().map(|(range, permissions, file, kilobytes)| {
            format!(
                "{range} {permissions} 00000000 08:01 1234                       {file}\n\
                 Size:               4 kB\nRss:      {kilobytes} kB\nPss:   1 kB\nVmFlags: rd wr mr\n"
            )
        });
        text.collect()
    }

    #[test]
    fn code_and_slots_find_their_artifact() {
        let text = smaps(&[
            ("1000-2000", "r-xp", "/bin/podless-shim", 900),
            ("2000-3000", "r--p", "/data/a.cwasm", 40),
            ("3000-4000", "r-xp", "/data/a.cwasm", 60),
            // Two slots of a: stack, initial data, heap; then what is reserved.
            ("10000-11000", "rw-p", "", 8),
            ("11000-12000", "rw-p", "/data/a.cwasm", 4),
            ("12000-13000", "rw-p", "", 20),
            ("13000-20000", "---p", "", 0),
            ("20000-21000", "rw-p", "/data/a.cwasm", 4),
            ("21000-22000", "rw-p", "", 12),
            ("22000-30000", "---p", "", 0),
            // A slot of b whose file was replaced.
            ("30000-31000", "rw-p", "/data/b.cwasm (deleted)", 5),
            ("31000-32000", "---p", "", 0),
            ("40000-41000", "rw-p", "[heap]", 700),
        ]);
        let resident = parse(&text, "/data");
        assert_eq!(resident.total, 1753 * 1024);
        assert_eq!(
            resident.artifacts,
            HashMap::from([
                ("/data/a.cwasm".to_owned(), Share { code: 100 * 1024, memory: 48 * 1024, slots: 2 }),
                ("/data/b.cwasm".to_owned(), Share { code: 0, memory: 5 * 1024, slots: 1 }),
            ])
        );
    }

    #[test]
    fn neighbours_that_do_not_touch_are_not_taken() {
        let text = smaps(&[
            ("1000-2000", "rw-p", "", 8),
            ("2001-3000", "rw-p", "/data/a.cwasm", 4),
            ("3000-4000", "r--p", "", 16),
        ]);
        assert_eq!(parse(&text, "/data").artifacts["/data/a.cwasm"].bytes(), 4 * 1024);
    }

    #[test]
    fn what_this_machine_says_adds_up() {
        let text = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
        let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").expect("smaps_rollup");
        let want = mappings(&rollup).next().expect("one").resident as f64;
        let total = parse(&text, "/nowhere").total as f64;
        assert!((total / want - 1.0).abs() < 0.1, "{total} and {want}");
    }
}
