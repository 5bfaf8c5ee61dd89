//! `podless inspect`, `compile` and `completion`.

use std::{fs, os::unix::fs::symlink};

use serde_json::Value;

use crate::support::{Home, guest};

fn json(printed: &str) -> Value {
    serde_json::from_str(printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

#[test]
fn what_would_be_denied_ends_with_4() {
    let home = Home::new();
    let (hello, logger) = (guest("hello").display().to_string(), guest("logger").display().to_string());
    let (code, printed, said) = home.podless(&["inspect", &hello, "--output", "json"]);
    assert_eq!(code, 0, "{said}");
    let found = json(&printed);
    let size = fs::metadata(guest("hello")).expect("the guest").len();
    assert_eq!((&found["component"]["size"], &found["http"]), (&size.into(), &"wasi:http@0.2".into()));
    assert!(found["code"]["size"].as_u64() > Some(0) && found["code"]["fingerprint"].is_string());
    assert!(found["exports"].as_array().is_some_and(|exports| !exports.is_empty()));
    assert_eq!((&found["capabilities"], &found["problems"]), (&serde_json::json!({}), &serde_json::json!([])));

    let (code, printed, _) = home.podless(&["inspect", &logger]);
    assert_eq!(code, 4);
    let denied = |line: &str| line.contains("wasi:logging/logging@0.1.0-draft") && line.ends_with("Denied");
    assert!(printed.lines().any(denied), "{printed}");
    for says in ["    logging: {}", "It would not be served"] {
        assert!(printed.contains(says), "{says} in\n{printed}");
    }
    let service = |capabilities: &str| {
        let head = "apiVersion: podless.dev/v1alpha1\nkind: WasmService\nmetadata: {name: a}\nspec";
        home.file("service.yaml", format!("{head}: {{image: a, capabilities: {capabilities}}}"))
    };
    let strict = service("{logging: {}, strict: true}");
    let (code, printed, said) = home.podless(&["inspect", &logger, "--service", &strict, "--output", "json"]);
    assert_eq!(code, 4, "{said}");
    let inert =
        |import: &&Value| import["interface"].as_str().is_some_and(|name| name.starts_with("wasi:cli/terminal-"));
    let imports = json(&printed)["imports"].clone();
    let inert: Vec<_> = imports.as_array().expect("imports").iter().filter(inert).collect();
    assert!(!inert.is_empty() && inert.iter().all(|import| import["grant"] == "Denied"), "{imports}");

    let service = service("{logging: {}}");
    let (code, printed, said) = home.podless(&["inspect", &logger, "--service", &service, "--output", "json"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(json(&printed)["capabilities"], serde_json::json!({"logging": {}}));

    let (code, printed, _) = home.podless(&["inspect", &guest("no-http").display().to_string(), "--output", "json"]);
    let found = json(&printed);
    assert_eq!((code, &found["http"]), (4, &Value::Null));
    assert!(found["code"]["size"].as_u64() > Some(0), "it has a size all the same");
}

#[test]
fn machine_code_is_measured_and_written() {
    let home = Home::new();
    let hello = guest("hello").display().to_string();
    let (code, printed, said) = home.podless(&["compile", &hello, "-o", "hello.cwasm", "--output", "json"]);
    assert_eq!(code, 0, "{said}");
    let written = fs::read(home.path().join("hello.cwasm")).expect("written");
    assert_eq!(json(&printed)["size"], written.len());
    assert!(written.starts_with(b"\x7fELF"));
    // What is there is replaced as a whole, and a link is not followed.
    let other = home.file("other", "untouched");
    symlink(&other, home.path().join("link")).expect("linked");
    let (code, _, said) = home.podless(&["compile", &hello, "-o", "link"]);
    assert!(code == 3 && said.contains("cannot write link: it is no regular file"), "{code}: {said}");
    assert_eq!(fs::read(&other).expect("there"), b"untouched");
    let (code, _, said) = home.podless(&["compile", &hello, "-o", "other"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(fs::read(&other).expect("there"), written);
    let (_, printed, _) = home.podless(&["compile", &hello]);
    assert!(printed.contains("bytes for x86-64-v3, engine "), "{printed}");
}

#[test]
fn shells_can_complete() {
    for (shell, says) in [("bash", "complete -F"), ("zsh", "#compdef podless"), ("fish", "complete -c podless")] {
        let (code, printed, _) = Home::new().podless(&["completion", shell]);
        assert_eq!(code, 0);
        assert!(printed.contains(says) && !printed.contains("compile-child"), "{shell}");
    }
}

#[test]
fn options_of_the_compiler_change_the_code() {
    let home = Home::new();
    let hello = guest("hello").display().to_string();
    let size = |options: &[&str]| {
        let (code, printed, said) = home.podless(&[&["--output", "json", "compile", &hello], options].concat());
        assert_eq!(code, 0, "{said}");
        json(&printed)["size"].as_u64().expect("a number")
    };
    let (speed, fast, inlined) = (size(&[]), size(&["--optimize", "fast"]), size(&["--inlining"]));
    assert!(fast > speed && inlined != speed, "{speed} {fast} {inlined}");
}
