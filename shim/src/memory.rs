//! Looks how much memory is resident, and tells who gives out more. IO: a thread, `/proc/self/statm`.

use std::{fs, io, sync::Arc, thread, time::Duration};

use podless_host::memory::NodeMemory;

/// How often, while there is plenty, and when there is not: in that time as much as the margin must not become resident.
const SELDOM: Duration = Duration::from_millis(100);
const OFTEN: Duration = Duration::from_millis(10);

/// Starts looking; it ends with the node.
pub(crate) fn watch(node: &Arc<NodeMemory>) -> io::Result<()> {
    let node = Arc::downgrade(node);
    thread::Builder::new().name("memory".to_owned()).spawn(move || {
        while let Some(node) = node.upgrade() {
            // What cannot be read is as it was.
            let often = resident().is_some_and(|bytes| node.look(bytes));
            drop(node);
            thread::sleep(if often { OFTEN } else { SELDOM });
        }
    })?;
    Ok(())
}

fn resident() -> Option<u64> {
    let pages: u64 = fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
