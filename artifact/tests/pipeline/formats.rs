//! Machine code in every form that engines keep it in: refused wherever it comes from, by the name of what it is.

use std::fs;

use podless_artifact::{Grants, push};
use podless_engine::{Compiler, CompilerOptions, Flavour, Target};

use crate::support::{Fixture, Registry, guest};

/// A shared object that this process has mapped.
fn shared_object() -> Vec<u8> {
    let maps = fs::read_to_string("/proc/self/maps").expect("maps");
    let path = maps.split_whitespace().find(|word| word.starts_with('/') && word.contains(".so"));
    fs::read(path.expect("a shared object")).expect("read")
}

#[tokio::test]
async fn machine_code_is_refused_in_every_form() {
    let registry = Registry::start();
    let fixture = Fixture::new(&registry.host);
    let engine = wasmtime::Engine::new(&podless_engine::config(Target::default(), Flavour::P2)).expect("an engine");
    let native = Compiler::new(Target::default(), CompilerOptions::default())
        .expect("a compiler")
        .precompile(&guest("hello"), Flavour::P2)
        .expect("code");
    for (form, bytes) in [
        ("a component of this very engine", native),
        ("a module of Wasmtime's", engine.precompile_module(b"\0asm\x01\0\0\0").expect("code")),
        ("Wasmtime's before it was ELF", b"\0wasmtime-aot\x07\x000.26.0".to_vec()),
        ("Wasmer's", b"wasmer-universal\x0e\0\0\0".to_vec()),
        ("Wasmer's old ones", b"\0wasmer-jit\0\0\0\0".to_vec()),
        ("WAMR's", b"\0aot\x04\0\0\0".to_vec()),
        ("a shared object", shared_object()),
        ("a program", fs::read("/bin/sh").expect("read")),
        ("a program for macOS", b"\xcf\xfa\xed\xfe\x07\0\0\x01".to_vec()),
        ("a program for Windows", b"MZ\x90\0\x03\0\0\0".to_vec()),
    ] {
        let image = registry.push(&[(&bytes, "application/wasm")], "native:1").await;
        let (reason, message) = fixture.refusal(&image).await;
        assert_eq!(reason, "PrecompiledLayer", "{form}: {message}");
        assert!(message.contains(".wasm file"), "{form}: {message}");
    }
}

/// WasmEdge keeps machine code in a section of the WebAssembly itself: to us it is a section that nobody reads.
#[tokio::test]
async fn machine_code_inside_a_component_goes_nowhere() {
    const MARK: &[u8] = b"\x90\x90\x90\x90 machine code that nobody has compiled \x90\x90\x90\x90";
    let mut component = guest("hello");
    let name = b"\x08wasmedge";
    component.extend([0, u8::try_from(name.len() + MARK.len()).expect("a short section")]);
    component.extend([name, MARK].concat());
    let registry = Registry::start();
    let (fixture, image) = (Fixture::new(&registry.host), registry.image("edge:1"));
    push(component, &image, None, true).await.expect("pushed");
    let made = fixture.build_with(&image, Grants::default()).await.expect("an artifact");
    let mut code = vec![];
    std::io::Read::read_to_end(&mut made.code().try_clone().expect("a file"), &mut code).expect("read");
    assert!(!code.windows(MARK.len()).any(|window| window == MARK));
}
