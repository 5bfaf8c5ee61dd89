//! The ticks at which running guests give their thread to others. IO: a thread that sleeps.

use std::time::Duration;

use wasmtime::Engine;

/// Longest time that a guest keeps a thread of the shim.
const TICK: Duration = Duration::from_millis(10);

/// Starts the ticks; they end with the engine.
pub(crate) fn start(engine: &Engine) -> std::io::Result<()> {
    let engine = engine.weak();
    std::thread::Builder::new().name("epoch".to_owned()).spawn(move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(TICK);
        }
    })?;
    Ok(())
}
