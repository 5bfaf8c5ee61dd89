//! Whatever can be wrong: a sentence that names it, and the right code.

use std::net::TcpListener;

use serde_json::Value;

use crate::support::{Home, Registry, guest};

const HEAD: &str =
    "apiVersion: podless.dev/v1alpha1\nkind: WasmService\nmetadata: {name: cart}\nspec:\n  image: r.local/cart:1\n";

#[test]
fn each_mistake_has_its_sentence_and_its_code() {
    let (home, registry) = (Home::new(), Registry::start());
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address").to_string();
    let path = |name: &str| guest(name).display().to_string();
    let secret = "  env: [{name: TOKEN, valueFrom: {secretKeyRef: {name: s, key: k}}}]\n";
    let (text, module) = (home.file("text.wasm", "good evening"), home.file("module.wasm", b"\0asm\x01\0\0\0"));
    let unknown = home.file("unknown.yaml", format!("{HEAD}  replicsa: 2\n"));
    let (broken, other) = (home.file("broken.yaml", "a: ["), home.file("other.yaml", "apiVersion: v1\nkind: Secret\n"));
    let secret = home.file("secret.yaml", format!("{HEAD}{secret}"));
    let memory = home.file(
        "memory.yaml",
        format!("{}  instance: {{memory: 1Gi}}\n", HEAD.replace("r.local/cart:1", &path("hello"))),
    );
    let (hello, nothing) = (path("hello"), format!("{}/nothing:1", registry.host));
    for (arguments, code, says) in [
        (vec!["run", "nowhere.wasm"], 1, "cannot read nowhere.wasm: No such file"),
        (vec!["run", "./nowhere"], 1, "No such file"),
        (vec!["run", "nowhere.yaml"], 1, "cannot read nowhere.yaml: No such file"),
        (vec!["run", &text], 1, "not a valid WebAssembly component"),
        (vec!["run", &module], 1, "wasm32-wasip2"),
        (vec!["run", &path("no-http")], 1, "does not export an HTTP handler"),
        (vec!["run", &path("logger")], 1, "give --logging, or set spec.capabilities.logging: {}"),
        (vec!["run", &unknown], 1, "spec.replicsa is no field"),
        (vec!["run", &broken], 1, "not YAML"),
        (vec!["run", &other], 1, "holds no WasmService"),
        (vec!["run", &secret], 1, "--env TOKEN="),
        (vec!["run", &memory], 1, "from 1Mi to 128Mi"),
        (vec!["run", "Not A Reference"], 1, "registry/repository:tag"),
        (vec!["run", &nothing, "--plain-http", &registry.host], 1, "the registry has no"),
        (vec!["run", "127.0.0.1:9/a:1", "--plain-http", "127.0.0.1:9"], 3, "Connection refused"),
        (vec!["run", &hello, "--listen", &taken], 3, "give another address by --listen"),
        (vec!["run"], 2, "Usage"),
        (vec!["run", &hello, "--env", "NAME"], 2, "NAME is not set here: write it as NAME=VALUE"),
        (vec!["run", &hello, "--listen", "8080"], 2, "--listen"),
        (vec!["push", &text, "r.local/a:1"], 1, "not a valid WebAssembly component"),
        (vec!["push", "nowhere.wasm", "r.local/a:1"], 1, "No such file"),
        (vec!["push", &hello, "a b"], 1, "registry/repository:tag"),
        (vec!["push", &hello, "127.0.0.1:9/a:1", "--plain-http", "127.0.0.1:9"], 3, "cannot push"),
        (vec!["inspect", &unknown], 1, "give this by --service"),
        (vec!["inspect", &hello, "--service", &broken], 1, "not YAML"),
        (vec!["compile", &module], 1, "wasm32-wasip2"),
        (vec!["compile", &hello, "-o", "nowhere/out"], 3, "cannot write nowhere/out"),
        (vec!["compile", &hello, "-o", "/dev/null"], 3, "cannot write /dev/null: it is no regular file"),
        (vec!["fly"], 2, "fly"),
    ] {
        let mut arguments = arguments;
        if arguments[0] == "run" && !arguments.contains(&"--listen") {
            arguments.extend(["--listen", "127.0.0.1:0"]);
        }
        let (got, printed, said) = home.podless(&arguments);
        assert_eq!(got, code, "{arguments:?}: {said}");
        assert!(said.contains(says), "{arguments:?}: {said}");
        assert!(!said.contains("it is tried again") && !said.contains("panicked"), "{arguments:?}: {said}");
        assert_eq!(printed, "", "{arguments:?}");
    }
}

#[test]
fn a_mistake_is_a_result_too() {
    let home = Home::new();
    let logger = guest("logger").display().to_string();
    let (code, printed, _) = home.podless(&["run", &logger, "--listen", "127.0.0.1:0", "--output", "json"]);
    let answer: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!((code, &answer["reason"]), (1, &"ImportDenied".into()));
    assert!(answer["message"].as_str().is_some_and(|message| message.contains("wasi:logging/logging@0.1.0-draft")));
}
