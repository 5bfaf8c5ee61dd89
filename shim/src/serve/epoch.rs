//! The ticks at which running guests give their thread to others. IO: a thread that sleeps.

use std::time::Duration;

use wasmtime::{Engine, EngineWeak};

/// Longest time that a guest keeps a thread of the shim.
const TICK: Duration = Duration::from_millis(10);

/// Starts the ticks of all engines; they end with them.
pub(crate) fn start<const N: usize>(engines: [&Engine; N]) -> std::io::Result<()> {
    let engines = engines.map(Engine::weak);
    std::thread::Builder::new().name("epoch".to_owned()).spawn(move || {
        let tick = |engine: &EngineWeak| engine.upgrade().inspect(Engine::increment_epoch).is_some();
        // Every one of them, whether another is gone or not.
        while engines.iter().filter(|engine| tick(engine)).count() > 0 {
            std::thread::sleep(TICK);
        }
    })?;
    Ok(())
}
