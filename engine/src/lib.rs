//! The one Wasmtime configuration of both sides, and its fingerprint. No IO, but for one environment variable, see
//! [`edition`].
//!
//! The operator's child compiles with it (feature `compile`) and the shim runs with it (feature `run`). Code that was compiled
//! under one fingerprint runs only under the same one.

#[cfg(feature = "compile")]
mod compile;
#[cfg(feature = "compile")]
pub use compile::{CompileError, Compiler};
mod flavour;
pub use flavour::Flavour;
mod options;
pub use options::{CompilerOptions, Optimize};
#[cfg(feature = "run")]
mod pool;
#[cfg(feature = "run")]
pub use pool::{KEPT, MAX_PARTS, MAX_TABLE_ELEMENTS, PartLimits, Pool, runner};
mod recipe;
pub use recipe::Recipe;
mod target;
pub use target::{Target, UnknownTarget};

use std::sync::LazyLock;

use sha2::{Digest, Sha256};
#[cfg(any(feature = "compile", feature = "run"))]
use wasmtime::{Config, ModuleVersionStrategy, WasmBacktraceDetails, WasmFeatures};

/// Wasmtime's version: what Cargo.lock says, checked by a test.
pub const WASMTIME_VERSION: &str = "48.0.8";
/// The environment variable that [`edition`] reads.
pub const EDITION: &str = "PODLESS_ENGINE_EDITION";
/// Largest linear memory of an instance, in bytes: what a slot of the shim's pool reserves.
pub const MAX_INSTANCE_MEMORY: u64 = 128 << 20;

/// Every setting that changes the code and is ours to choose. The fingerprint is over its debug text and [`config`]
/// takes it apart field by field, so the two cannot say different things.
#[derive(Debug)]
#[cfg_attr(
    not(any(feature = "compile", feature = "run")),
    expect(dead_code, reason = "who neither compiles nor runs knows the fingerprint alone")
)]
struct Settings {
    /// Async component functions, and calls of one instance beside each other: WASI 0.3. It makes each call dearer.
    concurrency: bool,
    /// A check at every loop and function entry: what ends a guest that does not return.
    epoch_interruption: bool,
    /// Maps machine code back to wasm offsets: bytes that only a debugger wants.
    address_map: bool,
    /// Unwind tables for native debuggers; Wasmtime itself walks frame pointers.
    native_unwind_info: bool,
    memory64: bool,
    threads: bool,
    gc: bool,
    exceptions: bool,
}

const fn settings(flavour: Flavour) -> Settings {
    Settings {
        concurrency: matches!(flavour, Flavour::P3),
        epoch_interruption: true,
        address_map: false,
        native_unwind_info: false,
        memory64: false,
        threads: false,
        gc: false,
        exceptions: false,
    }
}

/// What machine code says of the engine that it is for: the other one refuses it.
#[cfg(any(feature = "compile", feature = "run"))]
fn label(target: Target, flavour: Flavour) -> String {
    format!("podless-{}-{flavour}", fingerprint(target))
}

/// The configuration of both sides; each adds what does not change the code (the shim: its pool).
#[cfg(any(feature = "compile", feature = "run"))]
pub fn config(target: Target, flavour: Flavour) -> Config {
    let Settings {
        concurrency,
        epoch_interruption,
        address_map,
        native_unwind_info,
        memory64,
        threads,
        gc,
        exceptions,
    } = settings(flavour);
    let mut config = Config::new();
    config
        .module_version(ModuleVersionStrategy::Custom(label(target, flavour)))
        .unwrap_or_else(|_| unreachable!("the label is shorter than 255 bytes"))
        .concurrency_support(concurrency)
        .wasm_component_model_async(concurrency)
        .epoch_interruption(epoch_interruption)
        .generate_address_map(address_map)
        .native_unwind_info(native_unwind_info)
        .wasm_memory64(memory64)
        // Named even where Wasmtime's Cargo features leave them out: another crate of the build may switch those on.
        .wasm_features(WasmFeatures::THREADS, threads)
        .wasm_features(WasmFeatures::EXCEPTIONS, exceptions)
        .gc_support(gc)
        // The default asks an environment variable, which must not change what is compiled.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config
}

/// What tells apart two engines that are otherwise the same, as when a compiler's bug was mended without a new version:
/// any word, by default none. It is what this process was started with; operator and shims must have the same.
pub fn edition() -> &'static str {
    static READ: LazyLock<String> =
        LazyLock::new(|| std::env::var_os(EDITION).unwrap_or_default().to_string_lossy().into_owned());
    &READ
}

/// Stable name of Wasmtime's version, the settings of both flavours, the target, its CPU features and the edition: 16
/// hexadecimal digits. One name for both: whoever has one of the two engines has the other.
pub fn fingerprint(target: Target) -> String {
    fingerprint_of(target, edition())
}

fn fingerprint_of(target: Target, edition: &str) -> String {
    let (triple, features) = (target.triple(), target.cpu_features().join(","));
    let settings = Flavour::ALL.map(settings);
    let mut text = format!("wasmtime {WASMTIME_VERSION} {target} {triple} {features} {settings:?}");
    if !edition.is_empty() {
        text.push_str(&format!(" edition {edition}"));
    }
    hex::encode(&Sha256::digest(text)[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_target_and_edition_has_a_fingerprint_of_its_own() {
        let all =
            Target::ALL.into_iter().flat_map(|target| ["", "2", "3"].map(|edition| fingerprint_of(target, edition)));
        assert_eq!(all.collect::<std::collections::BTreeSet<_>>().len(), 9);
        assert_eq!(
            fingerprint(Target::default()),
            fingerprint_of(Target::default(), ""),
            "none was given to this process"
        );
    }

    #[test]
    fn the_version_is_the_one_that_is_linked() {
        let lock = include_str!("../../Cargo.lock");
        let entry = format!("name = \"wasmtime\"\nversion = \"{WASMTIME_VERSION}\"\n");
        assert!(lock.contains(&entry), "WASMTIME_VERSION is {WASMTIME_VERSION}; Cargo.lock has another");
    }
}
