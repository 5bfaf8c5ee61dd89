//! Compiling: a component's bytes in, machine code for [`TARGET`](crate::TARGET) out. No IO.
//!
//! It parses untrusted bytes, so it runs in a sandboxed child; see `podless_artifact`.

use wasmtime::{Config, Engine, OptLevel};

use crate::{CPU_FEATURES, TARGET, config};

/// Why there is no machine code.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The settings contradict each other: a mistake of ours.
    #[error("the compiler cannot be set up: {0:#}")]
    Setup(wasmtime::Error),
    /// The bytes are not a valid component, or use what this engine does not support.
    #[error("{0:#}")]
    Component(wasmtime::Error),
}

/// A compiler, ready: made before untrusted bytes are read.
pub struct Compiler(Engine);

impl Compiler {
    /// Sets the compiler up for the target and CPU features that every shim has.
    pub fn new() -> Result<Self, CompileError> {
        let mut config = config();
        config.target(TARGET).map_err(CompileError::Setup)?.cranelift_opt_level(OptLevel::Speed);
        enable_cpu_features(&mut config);
        Engine::new(&config).map(Self).map_err(CompileError::Setup)
    }

    /// Validates a component and compiles it.
    pub fn precompile(&self, component: &[u8]) -> Result<Vec<u8>, CompileError> {
        self.0.precompile_component(component).map_err(CompileError::Component)
    }
}

#[expect(unsafe_code, reason = "Wasmtime has no safe call that names CPU features")]
fn enable_cpu_features(config: &mut Config) {
    for feature in CPU_FEATURES {
        // SAFETY: the call is unsafe because some of Cranelift's flags break the ABI that Wasmtime relies on, and
        // because code may use instructions that a CPU lacks. CPU_FEATURES holds only `has_*` flags, which leave the
        // ABI alone and are recorded in the code; Wasmtime on the shim refuses code whose features its CPU lacks.
        unsafe { config.cranelift_flag_enable(feature) };
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{Hash, Hasher};

    use sha2::{Digest, Sha256};

    use super::*;
    use crate::fingerprint;

    struct Sha(Sha256);

    impl Hasher for Sha {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }

        fn finish(&self) -> u64 {
            u64::from_be_bytes(self.0.clone().finalize()[..8].try_into().expect("eight bytes"))
        }
    }

    /// Wasmtime's hash covers every setting that changes the code, also those that we leave at their defaults, and the
    /// fingerprint itself. When the two lines change, both must: a new hash under an old fingerprint means that a
    /// setting is missing from `Settings`.
    #[test]
    fn the_fingerprint_names_what_wasmtime_compiles_with() {
        let mut hash = Sha(Sha256::new());
        Compiler::new().expect("a compiler").0.precompile_compatibility_hash().hash(&mut hash);
        assert_eq!([fingerprint(), format!("{:016x}", hash.finish())], ["6d4c2a610cc9243c", "bcd5f8f8815cc2ce"]);
    }

    #[test]
    fn only_components_compile() {
        let compiler = Compiler::new().expect("a compiler");
        let code = compiler.precompile(b"\0asm\x0d\0\x01\0").expect("the empty component compiles");
        assert_eq!(Engine::detect_precompiled(&code), Some(wasmtime::Precompiled::Component));
        assert!(compiler.precompile(b"\0asm\x01\0\0\0").is_err(), "a core module");
        assert!(compiler.precompile(b"(component)").is_err(), "text is not read");
        assert!(compiler.precompile(&code).is_err(), "machine code is not read");
    }

    #[test]
    fn code_is_the_same_each_time() {
        let code = |_| Compiler::new().expect("a compiler").precompile(b"\0asm\x0d\0\x01\0").expect("code");
        assert_eq!(code(1), code(2));
    }
}
