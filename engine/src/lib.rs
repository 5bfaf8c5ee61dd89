//! The one Wasmtime configuration of both sides, and its fingerprint. No IO, but for one environment variable, see
//! [`edition`].
//!
//! The operator compiles with it (feature `compile`) and the shim runs with it (feature `run`). Code that was compiled
//! under one fingerprint runs only under the same one.

#[cfg(feature = "compile")]
mod compile;
#[cfg(feature = "compile")]
pub use compile::{CompileError, Compiler};
#[cfg(feature = "run")]
mod pool;
#[cfg(feature = "run")]
pub use pool::{MAX_PARTS, MAX_TABLE_ELEMENTS, PartLimits, Pool, runner};

use std::sync::LazyLock;

use sha2::{Digest, Sha256};
use wasmtime::{Config, ModuleVersionStrategy, WasmBacktraceDetails, WasmFeatures};

/// Wasmtime's version: what Cargo.lock says, checked by a test.
pub const WASMTIME_VERSION: &str = "48.0.8";
/// The environment variable that [`edition`] reads.
pub const EDITION: &str = "PODLESS_ENGINE_EDITION";
/// Target triple of the machine code.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";
/// CPU features that the code may use: x86-64-v3, every server since 2013. Named on both sides because a named target
/// switches off the inference, and a cluster's nodes may differ from the operator's.
pub const CPU_FEATURES: [&str; 11] = [
    "has_sse3",
    "has_ssse3",
    "has_sse41",
    "has_sse42",
    "has_popcnt",
    "has_avx",
    "has_avx2",
    "has_bmi1",
    "has_bmi2",
    "has_lzcnt",
    "has_fma",
];
/// Largest linear memory of an instance, in bytes: what a slot of the shim's pool reserves.
pub const MAX_INSTANCE_MEMORY: u64 = 128 << 20;

/// Every setting that changes the code and is ours to choose. The fingerprint is over its debug text and [`config`]
/// takes it apart field by field, so the two cannot say different things.
#[derive(Debug)]
struct Settings {
    /// Async component functions (WASI 0.3); `Store::run_concurrent` needs it for 0.2 too.
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

const SETTINGS: Settings = Settings {
    concurrency: true,
    epoch_interruption: true,
    address_map: false,
    native_unwind_info: false,
    memory64: false,
    threads: false,
    gc: false,
    exceptions: false,
};

/// The configuration of both sides; each adds what does not change the code (the shim: its pool).
pub fn config() -> Config {
    let Settings {
        concurrency,
        epoch_interruption,
        address_map,
        native_unwind_info,
        memory64,
        threads,
        gc,
        exceptions,
    } = SETTINGS;
    let mut config = Config::new();
    config
        .module_version(ModuleVersionStrategy::Custom(format!("podless-{}", fingerprint())))
        .unwrap_or_else(|_| unreachable!("the fingerprint is shorter than 255 bytes"))
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

/// Stable name of Wasmtime's version, the settings, the target, its CPU features and the edition: 16 hexadecimal digits.
pub fn fingerprint() -> String {
    fingerprint_of(edition())
}

fn fingerprint_of(edition: &str) -> String {
    let mut text = format!("wasmtime {WASMTIME_VERSION} {TARGET} {} {SETTINGS:?}", CPU_FEATURES.join(","));
    if !edition.is_empty() {
        text.push_str(&format!(" edition {edition}"));
    }
    hex::encode(&Sha256::digest(text)[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_edition_has_a_fingerprint_of_its_own() {
        assert_eq!(fingerprint(), fingerprint_of(""), "none was given to this process");
        assert_ne!(fingerprint_of(""), fingerprint_of("2"));
        assert_ne!(fingerprint_of("2"), fingerprint_of("3"));
    }

    #[test]
    fn the_version_is_the_one_that_is_linked() {
        let lock = include_str!("../../Cargo.lock");
        let entry = format!("name = \"wasmtime\"\nversion = \"{WASMTIME_VERSION}\"\n");
        assert!(lock.contains(&entry), "WASMTIME_VERSION is {WASMTIME_VERSION}; Cargo.lock has another");
    }
}
