//! Looks how much memory is resident, and tells who gives out more. Pages of files that came since the start do not
//! count: they are the code of services, which the kernel drops and reads again as it likes. IO: a thread,
//! `/proc/self/statm`.

use std::{fs, io, sync::Arc, thread, time::Duration};

use podless_host::memory::NodeMemory;

/// How often, while there is plenty, and when there is not: in that time as much as the margin must not become resident.
const SELDOM: Duration = Duration::from_millis(100);
const OFTEN: Duration = Duration::from_millis(10);

/// Starts looking; it ends with the node.
pub(crate) fn watch(node: &Arc<NodeMemory>) -> io::Result<()> {
    let node = Arc::downgrade(node);
    // Its own program it needs.
    let own = pages().map_or(0, |(_, shared)| shared);
    thread::Builder::new().name("memory".to_owned()).spawn(move || {
        while let Some(node) = node.upgrade() {
            // What cannot be read is as it was.
            let often = pages().is_some_and(|pages| node.look(counted(pages, own)));
            drop(node);
            thread::sleep(if often { OFTEN } else { SELDOM });
        }
    })?;
    Ok(())
}

/// Bytes that count, of these pages and with so many of files at the start.
fn counted((all, shared): (u64, u64), own: u64) -> u64 {
    all.saturating_sub(shared.saturating_sub(own)) * rustix::param::page_size() as u64
}

fn pages() -> Option<(u64, u64)> {
    parse(&fs::read_to_string("/proc/self/statm").ok()?)
}

/// Resident pages, and those of them that are of files.
fn parse(statm: &str) -> Option<(u64, u64)> {
    let mut fields = statm.split(' ').skip(1).map(|field| field.parse().ok());
    Some((fields.next()??, fields.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_that_came_since_the_start_does_not_count() {
        let page = rustix::param::page_size() as u64;
        assert_eq!(parse("9000 500 200 20 0 300 0\n"), Some((500, 200)));
        assert_eq!([parse(""), parse("9000 500"), parse("9000 x 200")], [None; 3]);
        for (pages, counts) in [
            ((500, 200), 500),
            // As much more of files: nothing more.
            ((900, 600), 500),
            // As much more of its own.
            ((900, 200), 900),
            // Part of its own program was dropped.
            ((400, 100), 400),
        ] {
            assert_eq!(counted(pages, 200), counts * page, "{pages:?}");
        }
        assert!(pages().is_some_and(|(all, shared)| all > shared && shared > 0), "this process has some");
    }
}
