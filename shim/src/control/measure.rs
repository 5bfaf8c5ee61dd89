//! Reading what is resident: `/proc/self` in, the shares of the artifacts out. IO.
//!
//! `maps` and, of the few ranges that matter, `pagemap`: ten times cheaper than `smaps`, which walks the pages of every
//! mapping, and a pool of instances has tens of thousands.

use std::{
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
};

use rustix::process::Pid;

use super::resident::{Resident, share_out};

/// In an entry of pagemap: the page is in memory.
const PRESENT: u64 = 1 << 63;
/// Bytes of one entry.
const ENTRY: u64 = 8;

/// Measures this process, and what its keeper has beside it; artifacts lie below `dir`.
pub(crate) fn measure(dir: &Path, keeper: Option<Pid>) -> io::Result<Resident> {
    let page = rustix::param::page_size() as u64;
    let ours = pages("self")?.resident;
    // The two run the same program: the pages of its file are counted here already.
    let beside = keeper.map_or(Ok(0), |keeper| pages(&keeper.to_string()).map(|pages| pages.private));
    let total = (ours + beside.unwrap_or(0)) * page;
    let pagemap = File::open("/proc/self/pagemap")?;
    let mut failed = None;
    let artifacts = share_out(&fs::read_to_string("/proc/self/maps")?, &dir.display().to_string(), |range| {
        resident(&pagemap, range, page).unwrap_or_else(|error| {
            failed = Some(error);
            0
        })
    });
    failed.map_or(Ok(Resident { total, artifacts }), Err)
}

struct Pages {
    resident: u64,
    private: u64,
}

fn pages(process: &str) -> io::Result<Pages> {
    let statm = fs::read_to_string(format!("/proc/{process}/statm"))?;
    let mut fields = statm.split(' ').skip(1).map_while(|field| field.parse::<u64>().ok());
    match (fields.next(), fields.next()) {
        (Some(resident), Some(shared)) => Ok(Pages { resident, private: resident.saturating_sub(shared) }),
        _ => Err(io::Error::other(format!("/proc/{process}/statm is not as expected"))),
    }
}

fn resident(pagemap: &File, range: Range<u64>, page: u64) -> io::Result<u64> {
    let mut entries = vec![0; ((range.end - range.start) / page * ENTRY) as usize];
    pagemap.read_exact_at(&mut entries, range.start / page * ENTRY)?;
    let (entries, _) = entries.as_chunks::<{ ENTRY as usize }>();
    Ok(entries.iter().filter(|entry| u64::from_ne_bytes(**entry) & PRESENT != 0).count() as u64 * page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_what_smaps_counts() {
        let pagemap = File::open("/proc/self/pagemap").expect("pagemap");
        let page = rustix::param::page_size();
        let mut memory = vec![0u8; 64 * page];
        let start = (memory.as_ptr() as usize).next_multiple_of(page) as u64;
        let range = start..start + 32 * page as u64;
        for touched in [0, 5, 20] {
            for n in 0..touched {
                let offset = start as usize - memory.as_ptr() as usize + n * page;
                memory[offset] = 1;
            }
            let bytes = resident(&pagemap, range.clone(), page as u64).expect("read") as usize;
            assert!(bytes >= touched * page && bytes <= 32 * page, "{bytes} of {touched} pages");
        }
        let total = measure(Path::new("/nowhere"), None).expect("measured").total as f64;
        let rollup = fs::read_to_string("/proc/self/smaps_rollup").expect("smaps_rollup");
        let rss =
            rollup.lines().find_map(|line| line.strip_prefix("Rss:")).and_then(|line| line.split_whitespace().next());
        let rss = rss.and_then(|rss| rss.parse::<f64>().ok()).expect("a number") * 1024.0;
        assert!((total / rss - 1.0).abs() < 0.1, "{total} and {rss}");
    }
}
