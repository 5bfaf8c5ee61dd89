//! What the real API server takes and what it refuses, naming the field.

use anyhow::Result;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use podless_crds::WasmService;
use podless_e2e::{Cluster, wasm_service};
use serde_json::{Value, json};

/// A table of specs: each with what the refusal must say, or nothing when it must be taken.
fn table() -> Vec<(&'static str, Value, Option<&'static str>)> {
    let with = |field: &str, value: Value| {
        let mut spec = json!({"image": "registry.example/hello:1"});
        spec[field] = value;
        spec
    };
    let long = "x".repeat(600);
    let many_env: Vec<_> = (0..257).map(|i| json!({"name": format!("V{i}"), "value": ""})).collect();
    vec![
        ("the least", json!({"image": "a"}), None),
        ("no image", json!({}), Some("spec.image")),
        ("empty image", json!({"image": ""}), Some("spec.image")),
        ("long image", json!({"image": long}), Some("spec.image")),
        ("image is a number", json!({"image": 5}), Some("spec.image")),
        ("a field that there is not", with("imagee", json!("a")), Some("imagee")),
        ("replicas", with("replicas", json!(3)), None),
        ("replicas 0", with("replicas", json!(0)), Some("spec.replicas")),
        ("replicas negative", with("replicas", json!(-1)), Some("spec.replicas")),
        ("replicas too many", with("replicas", json!(10_001)), Some("spec.replicas")),
        ("replicas a text", with("replicas", json!("3")), Some("spec.replicas")),
        ("env", with("env", json!([{"name": "A", "value": "b"}, {"name": "B"}])), None),
        ("env twice", with("env", json!([{"name": "A"}, {"name": "A"}])), Some("env")),
        ("env without a name", with("env", json!([{"value": "b"}])), Some("name")),
        ("env with a bad name", with("env", json!([{"name": "1=2"}])), Some("spec.env")),
        ("env a number", with("env", json!([{"name": "A", "value": 5}])), Some("spec.env")),
        ("env too many", with("env", json!(many_env)), Some("spec.env")),
        ("logging", with("capabilities", json!({"logging": {}})), None),
        ("a capability that there is not", with("capabilities", json!({"sockets": {}})), Some("sockets")),
        ("memory", with("instance", json!({"memory": "32Mi"})), None),
        ("memory at its edges", with("instance", json!({"memory": "134217728"})), None),
        ("memory too small", with("instance", json!({"memory": "1Ki"})), Some("spec.instance.memory")),
        ("memory too large", with("instance", json!({"memory": "1Gi"})), Some("spec.instance.memory")),
        ("memory no quantity", with("instance", json!({"memory": "lots"})), Some("spec.instance.memory")),
        ("timeout", with("timeoutSeconds", json!(3600)), None),
        ("timeout 0", with("timeoutSeconds", json!(0)), Some("spec.timeoutSeconds")),
        ("timeout too long", with("timeoutSeconds", json!(3601)), Some("spec.timeoutSeconds")),
        ("concurrency", with("concurrency", json!(1)), None),
        ("concurrency 0", with("concurrency", json!(0)), Some("spec.concurrency")),
        ("pull secret", with("imagePullSecrets", json!([{"name": "regcred"}])), None),
        ("pull secret with a path", with("imagePullSecrets", json!([{"name": "../a?watch=true"}])), Some("name")),
        ("pull secret without a name", with("imagePullSecrets", json!([{}])), Some("name")),
    ]
}

#[tokio::test]
async fn specs_are_taken_or_refused_with_the_field_named() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let api = Api::<WasmService>::namespaced(cluster.kube.clone(), "default");
    // `strict` is what kubectl asks for: unknown fields are errors.
    let params = PatchParams { dry_run: true, ..PatchParams::apply("e2e").force().validation_strict() };
    let mut wrong = vec![];
    for (case, spec, refusal) in table() {
        let answer = api.patch("table", &params, &Patch::Apply(wasm_service("table", spec))).await;
        match (answer, refusal) {
            (Ok(_), None) => {}
            (Err(error), Some(field)) if error.to_string().contains(field) => {}
            (answer, refusal) => {
                wrong.push(format!("{case}: {:?}, expected {refusal:?}", answer.map(|_| "taken")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[tokio::test]
async fn names_become_services_so_they_are_as_short_as_a_services_name() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let api = Api::<WasmService>::namespaced(cluster.kube.clone(), "default");
    let params = PatchParams { dry_run: true, ..PatchParams::apply("e2e") };
    for (name, taken) in [("a".repeat(63), true), ("a".repeat(64), false), ("1a".into(), false), ("a.b".into(), false)]
    {
        let object = wasm_service(&name, json!({"image": "a"}));
        let answer = api.patch(&name, &params, &Patch::Apply(object)).await;
        assert_eq!(answer.is_ok(), taken, "{name}: {answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn defaults_are_filled_in_by_the_api_server() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let api = Api::<WasmService>::namespaced(cluster.kube.clone(), "default");
    let params = PatchParams { dry_run: true, ..PatchParams::apply("e2e") };
    let object = wasm_service("defaults", json!({"image": "a"}));
    let spec = serde_json::to_value(api.patch("defaults", &params, &Patch::Apply(object)).await?.spec)?;
    assert_eq!(spec["timeoutSeconds"], 30);
    assert_eq!(spec["concurrency"], 100);
    assert_eq!(spec["instance"]["memory"], "64Mi");
    Ok(())
}
