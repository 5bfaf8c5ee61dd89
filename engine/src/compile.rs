//! Compiling: a component's bytes in, machine code for a target out. No IO.
//!
//! It parses untrusted bytes, so it runs in a sandboxed child; see `podless_artifact`.

use wasmtime::{Config, Engine, Inlining, OptLevel};

use crate::{CompilerOptions, Flavour, Optimize, Target, config, label};

/// Why there is no machine code.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The settings contradict each other: a mistake of ours.
    #[error("the compiler cannot be set up: {0:#}")]
    Setup(wasmtime::Error),
    /// The bytes are not a valid component, or use what this engine does not support.
    #[error("{0:#}")]
    Component(wasmtime::Error),
    /// The code's label was not found where it should be.
    #[error("the label of inlined code cannot be made out")]
    Label,
}

/// A compiler for both engines of the shims, ready: made before untrusted bytes are read, which say what they need.
pub struct Compiler {
    p2: Flavoured,
    p3: Flavoured,
}

/// A compiler for one of them.
struct Flavoured {
    engine: Engine,
    /// What inlined code says of itself, and what the shims want to read.
    label: Option<(Vec<u8>, Vec<u8>)>,
}

impl Compiler {
    /// Sets the compiler up for shims of this target, whatever machine this is.
    pub fn new(target: Target, options: CompilerOptions) -> Result<Self, CompileError> {
        let flavoured = |flavour| Flavoured::new(target, flavour, options);
        Ok(Self { p2: flavoured(Flavour::P2)?, p3: flavoured(Flavour::P3)? })
    }

    /// Validates a component and compiles it for the engine of this flavour.
    pub fn precompile(&self, component: &[u8], flavour: Flavour) -> Result<Vec<u8>, CompileError> {
        self.of(flavour).precompile(component)
    }

    fn of(&self, flavour: Flavour) -> &Flavoured {
        match flavour {
            Flavour::P2 => &self.p2,
            Flavour::P3 => &self.p3,
        }
    }
}

impl Flavoured {
    fn new(target: Target, flavour: Flavour, options: CompilerOptions) -> Result<Self, CompileError> {
        let plain = engine(target, flavour, CompilerOptions { inlining: false, ..options })?;
        if !options.inlining {
            return Ok(Self { engine: plain, label: None });
        }
        let inlining = engine(target, flavour, options)?;
        let label = relabel(&label(target, flavour), &inlining, &plain)?;
        Ok(Self { engine: inlining, label: Some(label) })
    }

    fn precompile(&self, component: &[u8]) -> Result<Vec<u8>, CompileError> {
        let mut code = self.engine.precompile_component(component).map_err(CompileError::Component)?;
        if let Some((from, to)) = &self.label {
            let at = only(&code, from).ok_or(CompileError::Label)?;
            code[at..at + to.len()].copy_from_slice(to);
        }
        Ok(code)
    }
}

fn engine(target: Target, flavour: Flavour, options: CompilerOptions) -> Result<Engine, CompileError> {
    let mut config = config(target, flavour);
    config
        .target(target.triple())
        .map_err(CompileError::Setup)?
        .cranelift_opt_level(match options.optimize {
            Optimize::Speed => OptLevel::Speed,
            Optimize::SpeedAndSize => OptLevel::SpeedAndSize,
            Optimize::Fast => OptLevel::None,
        })
        .compiler_inlining(if options.inlining { Inlining::Yes } else { Inlining::No });
    enable_cpu_features(&mut config, target);
    Engine::new(&config).map_err(CompileError::Setup)
}

/// The smallest component there is.
const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";

/// Wasmtime notes in the code whether it was inlined, and an engine takes only what says the same as itself, though how
/// code was inlined makes no difference to who runs it. So that one engine runs both, inlined code is given the other's
/// note. Which bytes those are is seen at the smallest component: from our own name, with which Wasmtime begins its notes,
/// to the one byte by which the two differ.
fn relabel(label: &str, inlining: &Engine, plain: &Engine) -> Result<(Vec<u8>, Vec<u8>), CompileError> {
    let compile = |engine: &Engine| engine.precompile_component(EMPTY).map_err(CompileError::Setup);
    let (from, to) = (compile(inlining)?, compile(plain)?);
    let mut differs = from.iter().zip(&to).enumerate().filter(|(_, (a, b))| a != b).map(|(at, _)| at);
    let start = only(&from, label.as_bytes());
    match (start, differs.next(), differs.next()) {
        (Some(start), Some(end), None) if start < end && from.len() == to.len() => {
            Ok((from[start..=end].to_vec(), to[start..=end].to_vec()))
        }
        _ => Err(CompileError::Label),
    }
}

/// Where these bytes are, if they are in one place only: a component that brings them itself is none of ours.
fn only(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let mut found = bytes.windows(wanted.len()).enumerate().filter(|(_, window)| *window == wanted).map(|(at, _)| at);
    match (found.next(), found.next()) {
        (Some(at), None) => Some(at),
        _ => None,
    }
}

#[expect(unsafe_code, reason = "Wasmtime has no safe call that names CPU features")]
fn enable_cpu_features(config: &mut Config, target: Target) {
    for feature in target.cpu_features() {
        // SAFETY: the call is unsafe because some of Cranelift's flags break the ABI that Wasmtime relies on, and
        // because code may use instructions that a CPU lacks. A target has only `has_*` flags, which leave the
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

    const fn options(optimize: Optimize, inlining: bool) -> CompilerOptions {
        CompilerOptions { optimize, inlining }
    }

    const OPTIONS: [CompilerOptions; 6] = [
        options(Optimize::Speed, false),
        options(Optimize::SpeedAndSize, false),
        options(Optimize::Fast, false),
        options(Optimize::Speed, true),
        options(Optimize::SpeedAndSize, true),
        options(Optimize::Fast, true),
    ];

    fn compiler(options: CompilerOptions) -> Compiler {
        Compiler::new(Target::default(), options).expect("a compiler")
    }

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
    /// fingerprint itself. When one of a line changes, both must: a new hash under an old fingerprint means that a
    /// setting is missing from `Settings`.
    #[test]
    fn the_fingerprint_names_what_wasmtime_compiles_with() {
        let names = Target::ALL.map(|target| {
            let mut hash = Sha(Sha256::new());
            let compiler = Compiler::new(target, OPTIONS[0]).expect("a compiler");
            for flavour in Flavour::ALL {
                compiler.of(flavour).engine.precompile_compatibility_hash().hash(&mut hash);
            }
            format!("{target} {} {:016x}", fingerprint(target), hash.finish())
        });
        let want = [
            "x86-64-v3 d0235d2b2034f8e7 4cb8787530b98089",
            "x86-64-v2 28f0c3c29cafd19a 1109be65ba9de316",
            "aarch64 ab1fca0b78953d28 0f84ca63c7b373dc",
        ];
        assert_eq!(names, want);
    }

    #[test]
    fn code_is_for_its_target_and_another_target_is_no_shim_s_own() {
        for target in Target::ALL {
            let compiler = Compiler::new(target, OPTIONS[0]).expect("a compiler");
            for flavour in Flavour::ALL {
                let code = compiler.precompile(&caller(), flavour).expect("code");
                // e_machine of an ELF file: x86-64 is 62, AArch64 is 183.
                let machine = if target == Target::Aarch64 { 183 } else { 62 };
                assert_eq!((&code[..4], &code[18..20]), (&b"\x7fELF"[..], &[machine, 0][..]), "{target}");
                for other in Target::ALL.iter().flat_map(|target| Flavour::ALL.map(|flavour| (*target, flavour))) {
                    let found = only(&code, label(other.0, other.1).as_bytes()).is_some();
                    assert_eq!(found, other == (target, flavour), "{target} {flavour} {other:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_asynchronous_compiles_for_one_engine_only() {
        let text = r#"(component
            (core module $m (func (export "f") (result i32) i32.const 0)
                (func (export "callback") (param i32 i32 i32) (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func (export "f") async (canon lift (core func $i "f") async (callback (core func $i "callback")))))"#;
        let component = wat::parse_str(text).expect("valid text");
        let compiles = Flavour::ALL.map(|flavour| compiler(OPTIONS[0]).precompile(&component, flavour).is_ok());
        assert_eq!(compiles, [false, true]);
    }

    #[test]
    fn only_components_compile() {
        let compiler = compiler(OPTIONS[0]);
        let code = compiler.precompile(EMPTY, Flavour::P2).expect("the empty component compiles");
        assert_eq!(Engine::detect_precompiled(&code), Some(wasmtime::Precompiled::Component));
        assert!(compiler.precompile(b"\0asm\x01\0\0\0", Flavour::P2).is_err(), "a core module");
        assert!(compiler.precompile(b"(component)", Flavour::P2).is_err(), "text is not read");
        assert!(compiler.precompile(&code, Flavour::P2).is_err(), "machine code is not read");
    }

    #[test]
    fn code_is_the_same_each_time() {
        let code = |_| compiler(OPTIONS[0]).precompile(EMPTY, Flavour::P3).expect("code");
        assert_eq!(code(1), code(2));
    }

    /// A caller in one module of a function in another, which is small enough to be put into it.
    fn caller() -> Vec<u8> {
        let text = r#"(component
            (core module $a (func (export "f") (param i32) (result i32) local.get 0 i32.const 7 i32.mul))
            (core module $b (import "a" "f" (func $f (param i32) (result i32)))
                (func (export "g") (param i32) (result i32) local.get 0 call $f i32.const 1 i32.add))
            (core instance $ia (instantiate $a))
            (core instance $ib (instantiate $b (with "a" (instance $ia))))
            (func (export "g") (param "n" u32) (result u32) (canon lift (core func $ib "g"))))"#;
        wat::parse_str(text).expect("valid text")
    }

    #[test]
    fn options_change_the_code_and_not_what_it_says_of_its_engine() {
        let engine = |options| engine(Target::default(), Flavour::P2, options).expect("an engine");
        let plain = engine(OPTIONS[0]);
        let precompile = |options| compiler(options).precompile(&caller(), Flavour::P2).expect("code");
        let mut all: Vec<_> = OPTIONS.map(precompile).into();
        for (code, options) in all.iter().zip(OPTIONS) {
            // The engine of a shim has the defaults, and no compiler.
            let with = |inlining| engine(CompilerOptions { inlining, ..options });
            let label = label(Target::default(), Flavour::P2);
            let (inlined, as_wanted) = relabel(&label, &with(true), &with(false)).expect("a label");
            assert_eq!((only(code, &inlined), only(code, &as_wanted).is_some()), (None, true), "{options}");
        }
        assert_eq!(compiler(OPTIONS[3]).precompile(EMPTY, Flavour::P2).ok(), plain.precompile_component(EMPTY).ok());
        all.sort();
        all.dedup();
        assert!(all.len() > 3, "{} kinds of code by {} options", all.len(), OPTIONS.len());
    }

    #[test]
    fn a_component_cannot_bring_a_label_of_its_own() {
        let compiler = compiler(OPTIONS[3]);
        let (label, _) = compiler.p2.label.clone().expect("a label");
        let data: String = label.iter().map(|byte| format!("\\{byte:02x}")).collect();
        let text = format!(r#"(component (core module (memory 1) (data (i32.const 0) "{data}")))"#);
        let component = wat::parse_str(text).expect("valid text");
        assert!(matches!(compiler.precompile(&component, Flavour::P2), Err(CompileError::Label)));
    }
}
