//! A user's mistakes: each has its reason and a sentence that names what is wrong.

use std::fmt::Write as _;

use podless_artifact::{Limits, push};
use podless_engine::Recipe;

use crate::support::{Fixture, Registry, guest, machine_code};

const WASM: &str = "application/wasm";

#[tokio::test]
async fn each_mistake_has_its_reason_and_a_sentence() {
    let registry = Registry::start();
    let fixture = Fixture::new(&registry.host);
    let hello = guest("hello");
    let native = machine_code(&hello, Recipe::default());
    let torn = &hello[..hello.len() - 100];
    let precompiled_type = "application/vnd.example.cwasm";

    let layer = async |tag: &str, layers: &[(&[u8], &str)]| registry.push(layers, &format!("mistakes:{tag}")).await;
    for (image, reason, says) in [
        ("Not A Reference".to_owned(), "InvalidReference", "registry/repository:tag"),
        (registry.image("nothing:1"), "ImageNotFound", "nothing:1"),
        ("127.0.0.1:9/a:1".to_owned(), "RegistryUnreachable", "127.0.0.1:9/a:1"),
        (layer("text", &[(b"good evening", "text/plain")]).await, "UnsupportedLayer", "text/plain"),
        (layer("two", &[(&hello, WASM), (&hello, WASM)]).await, "UnsupportedLayer", "2 layers"),
        (layer("typed", &[(&native, precompiled_type)]).await, "PrecompiledLayer", precompiled_type),
        (layer("native", &[(&native, WASM)]).await, "PrecompiledLayer", "precompiled"),
        (layer("garbage", &[(b"good evening", WASM)]).await, "NotWebAssembly", "not a valid WebAssembly component"),
        (layer("torn", &[(torn, WASM)]).await, "NotWebAssembly", "not a valid WebAssembly component"),
        (layer("module", &[(b"\0asm\x01\0\0\0", WASM)]).await, "CoreModule", "wasm32-wasip2"),
        (layer("empty", &[(b"\0asm\x0d\0\x01\0", WASM)]).await, "NoHttpExport", "exports nothing"),
        (layer("command", &[(&guest("no-http"), WASM)]).await, "NoHttpExport", "wasi:cli/run@"),
        (layer("unsupported", &[(&around("(core module (memory i64 1))"), WASM)]).await, "CompileFailed", "memory64"),
        (layer("import", &[(&guest("logger"), WASM)]).await, "ImportDenied", "wasi:logging/logging@0.1.0-draft"),
    ] {
        let (got, message) = fixture.refusal(&image).await;
        assert_eq!(got, reason, "{image}: {message}");
        assert!(message.contains(says), "{image}: {message}");
        assert!(message.split_whitespace().count() >= 8, "{image}: a sentence, not {message:?}");
    }
}

#[tokio::test]
async fn what_takes_too_much_is_told_so() {
    let registry = Registry::start();
    let image = registry.image("hello:1");
    push(guest("hello"), &image, None, true).await.expect("pushed");
    // Too little to compile it, and too little even to read it.
    for mebibytes in [24, 8] {
        let limits = Limits { memory_bytes: mebibytes << 20, ..Limits::default() };
        let fixture = Fixture::with(&registry.host, |options| options.limits = limits);
        let (reason, message) = fixture.refusal(&image).await;
        assert_eq!(reason, "CompileLimit", "{message}");
        assert!(message.contains(&format!("{mebibytes} MiB of memory")) && message.contains("smaller"), "{message}");
    }
    // More than a second's work.
    let layer = long_to_compile();
    let image = registry.push(&[(&layer, WASM)], "long:1").await;
    let limits = Limits { cpu_seconds: 1, ..Limits::default() };
    let (reason, message) = Fixture::with(&registry.host, |options| options.limits = limits).refusal(&image).await;
    assert_eq!(reason, "CompileLimit", "{message}");
    assert!(message.contains("1 s of CPU time") && message.contains("smaller"), "{message}");
}

/// A component that exports a handler, which is an empty one, and has some two million instructions.
fn long_to_compile() -> Vec<u8> {
    let mut text = "(core module ".to_owned();
    for n in 0..4000 {
        text.push_str("(func (param i64 i64) (result i64) local.get 0");
        for step in 0..100 {
            write!(text, " local.get 1 i64.mul local.get 0 i64.add i64.const {} i64.xor", n * step).expect("text");
        }
        text.push(')');
    }
    around(&format!("{text})"))
}

/// A component with this core module in it, and a handler, which is an empty one.
pub(crate) fn around(module: &str) -> Vec<u8> {
    let text = format!(
        r#"(component {module} (component $empty) (instance $handler (instantiate $empty))
            (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#
    );
    wat::parse_str(text).expect("a component")
}
