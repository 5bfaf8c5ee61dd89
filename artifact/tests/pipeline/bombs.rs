//! Components that are made to hurt who compiles them: each is compiled within the child's limits or refused with a
//! reason, whoever asks for a good one beside it is served, and nothing is left behind.

use std::{fmt::Write, time::Instant};

use podless_artifact::{Limits, push};

use crate::{
    refusals::around,
    support::{Fixture, Registry, guest},
};

const WASM: &str = "application/wasm";
/// Less than the operator gives, so that the worst of them ends soon.
const CPU_SECONDS: u64 = 2;

fn repeated(times: usize, text: impl Fn(usize) -> String) -> String {
    (0..times).map(text).collect()
}

/// A component with this text in it.
fn component(text: &str) -> Vec<u8> {
    wat::parse_str(format!("(component {text})")).expect("a component")
}

/// A component in a component in a component: text cannot be nested as deeply.
fn nested(depth: usize) -> Vec<u8> {
    const HEADER: &[u8] = b"\0asm\x0d\0\x01\0";
    let mut bytes = HEADER.to_vec();
    for _ in 0..depth {
        let mut length = bytes.len();
        let mut around = [HEADER, &[4]].concat();
        while length >= 0x80 {
            around.push(length as u8 | 0x80);
            length >>= 7;
        }
        around.push(length as u8);
        bytes.splice(0..0, around);
    }
    bytes
}

/// So many times the same function, in which blocks hand on a thousand values each.
fn hands_on(blocks: usize, functions: usize) -> String {
    let (values, drops) = ("i64.const 0 ".repeat(1000), "drop ".repeat(1000));
    let all = "i64 ".repeat(1000);
    let block = "block (type 0) end ".repeat(blocks);
    let function = format!("(func {values}{block}{drops})");
    format!("(type (func (param {all}) (result {all}))){}", function.repeat(functions))
}

/// Blocks within blocks, and a table of jumps out of each to all of them: everything leads everywhere.
fn everything_leads_everywhere(depth: usize) -> String {
    let (mut open, mut close) = (String::new(), String::new());
    for at in 0..depth {
        open.push_str("loop ");
        write!(close, "local.get 0 br_table {} end ", repeated(depth - at, |to| format!("{to} "))).expect("text");
    }
    format!("(func (param i32) {open}{close})")
}

/// A type that stands for twice the one before it, and so on.
fn doubling_types(times: usize) -> String {
    let doubled = repeated(times, |n| format!("(type $t{} (tuple $t{n} $t{n}))", n + 1));
    format!("(type $t0 (tuple u8 u8)) {doubled}")
}

fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let core = |text: String| around(&format!("(core module {text})"));
    vec![
        ("blocks, 50,000 deep", core(format!("(func {}{})", "block ".repeat(50_000), "end ".repeat(50_000)))),
        ("loops, 5,000 deep", core(format!("(func {}{})", "loop ".repeat(5000), "br 0 end ".repeat(5000)))),
        ("components, 200 deep", nested(200)),
        ("types that double 40 times", component(&doubling_types(40))),
        ("a hundred tables of four billion", core("(table 4294967295 funcref)".repeat(100))),
        ("a table filled at its end", core("(table 9999999 funcref) (elem (i32.const 9999998) func 0) (func)".into())),
        (
            "memory filled at both ends",
            core(r#"(memory 65535) (data (i32.const 0) "a") (data (i32.const -65537) "b")"#.into()),
        ),
        ("100,000 functions", core("(func)".repeat(100_000))),
        ("100,000 functions that call", core(repeated(100_000, |n| format!("(func call {n})")))),
        (
            "50,000 locals in 5,000 blocks",
            core(format!(
                "(func (local {}){}{})",
                "i64 ".repeat(50_000),
                "block end ".repeat(5000),
                repeated(50_000, |n| format!("i64.const 0 local.set {n} "))
            )),
        ),
        ("jumps from everywhere to everywhere", core(everything_leads_everywhere(1500))),
        ("blocks that hand on a thousand values", core(hands_on(100, 1000))),
    ]
}

#[tokio::test]
async fn a_bomb_is_its_own_senders_loss() {
    let registry = Registry::start();
    let limits = Limits { cpu_seconds: CPU_SECONDS, ..Limits::default() };
    let fixture = Fixture::with(&registry.host, |options| options.limits = limits);
    let good = guest("hello");
    let mut at_the_limit = vec![];
    for (number, (name, bomb)) in bombs().into_iter().enumerate() {
        let image = registry.push(&[(&bomb, WASM)], &format!("bombs:{number}")).await;
        // Its own bytes each time: what the cache knows would be no test.
        let beside = registry.image(&format!("good:{number}"));
        push([&good[..], &[0, 2, 1, b'a' + number as u8]].concat(), &beside, None, true).await.expect("pushed");
        let started = Instant::now();
        let (outcome, served) = tokio::join!(fixture.build(&image), fixture.build(&beside));
        let took = started.elapsed();
        served.unwrap_or_else(|error| panic!("beside {name}: {error}"));
        match outcome {
            Ok(made) => eprintln!("{name}: {} bytes become {} of code, {took:.1?}", bomb.len(), made.seal().code_size),
            Err(rejection) => {
                let (reason, message) = (rejection.reason(), rejection.to_string());
                eprintln!("{name}: {reason} after {took:.1?}: {message}");
                let expected = ["CompileLimit", "CompileFailed", "NotWebAssembly", "NoHttpExport"];
                assert!(expected.contains(&reason), "{name}: {reason}: {message}");
                assert!(!rejection.is_transient(), "{name}: it is not tried again");
                assert!(message.len() < 1000, "{name}: {message}");
                if reason == "CompileLimit" {
                    at_the_limit.push(name);
                }
            }
        }
    }
    assert!(at_the_limit.contains(&"blocks that hand on a thousand values"), "{at_the_limit:?}");
    let unfinished = std::fs::read_dir(fixture.cache.path().join("unfinished")).expect("a folder").count();
    assert_eq!(unfinished, 0, "bombs left files behind");
}

#[tokio::test]
async fn thousands_of_imports_are_answered_in_a_sentence() {
    let registry = Registry::start();
    let fixture = Fixture::new(&registry.host);
    let handler = r#"(component $empty) (instance $handler (instantiate $empty))
        (export "wasi:http/incoming-handler@0.2.0" (instance $handler))"#;
    let functions = repeated(10_000, |n| format!(r#"(import "f{n}" (func))"#));
    let types = repeated(10_000, |n| format!(r#"(import "t{n}" (type (eq $t)))"#));
    let instances = repeated(2000, |n| format!(r#"(import "a:b/c{n}" (instance))"#));
    let long = "n".repeat(90_000);
    let long = repeated(100, |n| format!(r#"(import "{long}{n}" (func))"#));
    for (tag, imports, reason, says) in [
        ("functions", functions, "ImportDenied", "10001 imports and exports"),
        ("types", format!("(type $t u8) {types}"), "ImportDenied", "10001 imports and exports"),
        ("instances", instances, "NotWebAssembly", "limit of 1000"),
        ("long", long, "ImportDenied", "and 96 more"),
    ] {
        let component = component(&format!("{imports} {handler}"));
        let image = registry.push(&[(&component, WASM)], &format!("imports:{tag}")).await;
        let (got, message) = fixture.refusal(&image).await;
        assert_eq!(got, reason, "{tag}: {message}");
        assert!(message.contains(says) && message.len() < 4000, "{tag}, {} bytes: {message}", message.len());
    }
}
