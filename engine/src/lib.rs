//! The one Wasmtime configuration of both sides, and its fingerprint. No IO.
//!
//! The operator compiles with it (feature `compile`) and the shim runs with it (feature `run`). Code that was compiled
//! under one fingerprint runs only under the same one.

use sha2::{Digest, Sha256};
use wasmtime::{Config, ModuleVersionStrategy};

/// Wasmtime's version: what Cargo.lock says, checked by a test.
pub const WASMTIME_VERSION: &str = "48.0.8";
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

/// Every setting that changes the code, with its value. The fingerprint is over this text, so each line here must be
/// what [`config`] sets.
const SETTINGS: &str = "concurrency_support=true component_model_async=true epoch_interruption=true \
    generate_address_map=false memory64=false threads=false gc=false opt_level=speed";

/// The configuration of both sides; each adds what does not change the code (the shim: its pool).
pub fn config() -> Config {
    let mut config = Config::new();
    config
        .module_version(ModuleVersionStrategy::Custom(format!("podless-{}", fingerprint())))
        .unwrap_or_else(|_| unreachable!("the fingerprint is shorter than 255 bytes"))
        .concurrency_support(true)
        .wasm_component_model_async(true)
        .epoch_interruption(true)
        .generate_address_map(false)
        .wasm_memory64(false);
    config
}

/// Stable name of Wasmtime's version, the settings, the target and its CPU features: 16 hexadecimal digits.
pub fn fingerprint() -> String {
    let text = format!("wasmtime {WASMTIME_VERSION} {TARGET} {} {SETTINGS}", CPU_FEATURES.join(","));
    hex::encode(&Sha256::digest(text)[..8])
}
