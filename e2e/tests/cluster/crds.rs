//! What the real API server takes and what it refuses, naming the field.

use anyhow::Result;
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, TypeMeta},
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
    let env = |variable: Value| with("env", json!([variable]));
    let from = |source: Value| env(json!({"name": "A", "valueFrom": source}));
    let key = json!({"name": "s", "key": "k"});
    let hosts = |host: &str| with("capabilities", json!({"outboundHttp": {"allowedHosts": [host]}}));
    let cidrs = |cidr: &str| with("capabilities", json!({"outboundHttp": {"allowedCidrs": [cidr]}}));
    let requests = |field: &str, value: Value| with("resources", json!({"requests": {field: value}}));
    let scaling = |scaling: Value| with("scaling", scaling);
    let by_cpu = |metric: Value, cpu: Value| {
        let mut spec = scaling(json!({"metric": metric}));
        spec["scaling"]["metric"]["type"] = json!("CPU");
        spec["resources"] = json!({"requests": {"cpu": cpu}});
        spec
    };
    let toleration = |toleration: Value| with("tolerations", json!([toleration]));
    let node_affinity = |affinity: Value| with("affinity", json!({"nodeAffinity": affinity}));
    let terms = |terms: Value| {
        node_affinity(json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}))
    };
    let label = |label: Value| terms(json!([{"matchExpressions": [label]}]));
    let field = |field: Value| terms(json!([{"matchFields": [field]}]));
    vec![
        ("the least", json!({"image": "a"}), None),
        ("no image", json!({}), Some("spec.image")),
        ("empty image", json!({"image": ""}), Some("spec.image")),
        ("long image", json!({"image": long}), Some("spec.image")),
        ("image is a number", json!({"image": 5}), Some("spec.image")),
        ("a field that there is not", with("imagee", json!("a")), Some("imagee")),
        ("replicas", with("replicas", json!(3)), None),
        ("replicas 0", with("replicas", json!(0)), None),
        ("replicas negative", with("replicas", json!(-1)), Some("spec.replicas")),
        ("replicas too many", with("replicas", json!(10_001)), Some("spec.replicas")),
        ("replicas a text", with("replicas", json!("3")), Some("spec.replicas")),
        ("replicas and scaling", json!({"image": "a", "replicas": 1, "scaling": {}}), Some("replicas")),
        ("scaling", scaling(json!({"minReplicas": 1, "maxReplicas": 5, "metric": {"utilization": 50}})), None),
        ("scaling by RPS", scaling(json!({"metric": {"type": "RPS", "value": 100}})), None),
        ("RPS without a value", scaling(json!({"metric": {"type": "RPS"}})), Some("spec.scaling.metric")),
        ("scaling by CPU", scaling(json!({"metric": {"type": "CPU", "value": 500}})), None),
        ("scaling by a hundredth of a CPU", scaling(json!({"metric": {"type": "CPU", "value": 10}})), None),
        (
            "CPUs in place of thousandths",
            scaling(json!({"metric": {"type": "CPU", "value": 1}})),
            Some("spec.scaling.metric.value"),
        ),
        ("a value of 1 that is not of CPU", scaling(json!({"metric": {"value": 1}})), None),
        ("CPU without a value", scaling(json!({"metric": {"type": "CPU"}})), Some("spec.scaling.metric")),
        (
            "CPU, percent of nothing",
            scaling(json!({"metric": {"type": "CPU", "utilization": 50}})),
            Some("requests.cpu"),
        ),
        ("CPU, percent of a request", by_cpu(json!({"utilization": 50}), json!("250m")), None),
        ("CPU, percent of a number", by_cpu(json!({"utilization": 50}), json!(2)), None),
        ("CPU, 70 percent of a request", by_cpu(json!({}), json!("250m")), None),
        ("CPU, percent of a request of 0", by_cpu(json!({"utilization": 50}), json!("0")), Some("spec.scaling.metric")),
        ("CPU, two targets", by_cpu(json!({"utilization": 50, "value": 3}), json!(1)), Some("spec.scaling.metric")),
        ("another metric", scaling(json!({"metric": {"type": "Memory"}})), Some("spec.scaling.metric.type")),
        ("two targets", scaling(json!({"metric": {"utilization": 50, "value": 3}})), Some("spec.scaling.metric")),
        ("utilization too much", scaling(json!({"metric": {"utilization": 101}})), Some("utilization")),
        ("minimum over maximum", scaling(json!({"minReplicas": 3, "maxReplicas": 2})), Some("spec.scaling")),
        ("maximum 0", scaling(json!({"maxReplicas": 0})), Some("spec.scaling.maxReplicas")),
        ("window too short", scaling(json!({"windowSeconds": 5})), Some("spec.scaling.windowSeconds")),
        ("panic over window", scaling(json!({"windowSeconds": 6, "panicWindowSeconds": 7})), Some("spec.scaling")),
        ("scaling null beside replicas", json!({"image": "a", "replicas": 1, "scaling": null}), Some("spec.scaling")),
        ("panic null", scaling(json!({"panicWindowSeconds": null})), Some("spec.scaling.panicWindowSeconds")),
        (
            "utilization null",
            scaling(json!({"metric": {"utilization": null, "value": 3}})),
            Some("spec.scaling.metric.utilization"),
        ),
        ("scaling a number", scaling(json!(3)), Some("spec.scaling")),
        ("replicas a fraction", with("replicas", json!(1.5)), Some("spec.replicas")),
        ("env", with("env", json!([{"name": "A", "value": "b"}, {"name": "B"}])), None),
        ("env twice", with("env", json!([{"name": "A"}, {"name": "A"}])), Some("env")),
        ("env without a name", env(json!({"value": "b"})), Some("name")),
        ("env with a bad name", env(json!({"name": "1=2"})), Some("spec.env[0].name")),
        ("env a number", env(json!({"name": "A", "value": 5})), Some(".value")),
        ("env too long", env(json!({"name": "A", "value": "x".repeat(40_000)})), Some("spec.env[0].value")),
        ("env too many", with("env", json!(many_env)), Some("spec.env")),
        ("env from a secret", from(json!({"secretKeyRef": key})), None),
        ("env from a map", from(json!({"configMapKeyRef": {"name": "m", "key": "k", "optional": true}})), None),
        ("env from nothing", from(json!({})), Some("spec.env[0].valueFrom")),
        ("env from two", from(json!({"secretKeyRef": key, "configMapKeyRef": key})), Some("spec.env[0].valueFrom")),
        ("env from a field", from(json!({"fieldRef": {"fieldPath": "metadata.name"}})), Some("fieldRef")),
        ("env from a secret without key", from(json!({"secretKeyRef": {"name": "s"}})), Some("secretKeyRef.key")),
        ("env from a path", from(json!({"secretKeyRef": {"name": "../s", "key": "k"}})), Some("secretKeyRef.name")),
        ("env from a bad key", from(json!({"secretKeyRef": {"name": "s", "key": "a/b"}})), Some("secretKeyRef.key")),
        (
            "env with a value and a source",
            env(json!({"name": "A", "value": "b", "valueFrom": {"secretKeyRef": key}})),
            Some("spec.env[0]"),
        ),
        ("logging", with("capabilities", json!({"logging": {}})), None),
        ("a capability that there is not", with("capabilities", json!({"sockets": {}})), Some("sockets")),
        ("no host", with("capabilities", json!({"outboundHttp": {}})), None),
        ("a host", hosts("https://api.example.com"), None),
        ("a host with a port", hosts("http://api.example.com:8080"), None),
        ("all below a name", hosts("https://*.example.com"), None),
        ("every host", hosts("https://*"), None),
        ("an address", hosts("http://10.1.2.3"), None),
        ("an address in brackets", hosts("http://[fd00::1]:80"), None),
        ("a host without scheme", hosts("api.example.com"), Some("allowedHosts[0]")),
        ("a host with another scheme", hosts("ftp://a.example"), Some("allowedHosts[0]")),
        ("a host with a path", hosts("https://a.example/path"), Some("allowedHosts[0]")),
        ("a host with credentials", hosts("https://u:p@a.example"), Some("allowedHosts[0]")),
        ("a host with port 0", hosts("https://a.example:0"), Some("allowedHosts[0]")),
        ("a host with port 65536", hosts("https://a.example:65536"), Some("allowedHosts[0]")),
        ("a star within a name", hosts("https://a*.example"), Some("allowedHosts[0]")),
        ("a range", cidrs("10.96.0.0/12"), None),
        ("a range of 128 bits", cidrs("fd00::/8"), None),
        ("a range that is an address", cidrs("10.96.0.1"), Some("allowedCidrs[0]")),
        ("a range that is too narrow", cidrs("10.96.0.0/33"), Some("allowedCidrs[0]")),
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
        ("concurrency too high", with("concurrency", json!(10_001)), Some("spec.concurrency")),
        ("cpu", requests("cpu", json!("50m")), None),
        ("cpu a number", requests("cpu", json!(2)), None),
        ("cpu negative", requests("cpu", json!("-1")), Some("spec.resources.requests.cpu")),
        ("cpu no quantity", requests("cpu", json!("much")), Some("spec.resources.requests.cpu")),
        ("cpu too many", requests("cpu", json!(1001)), Some("spec.resources.requests.cpu")),
        ("memory request", requests("memory", json!("128Mi")), None),
        ("memory request too large", requests("memory", json!("2Ti")), Some("spec.resources.requests.memory")),
        ("a request of something else", requests("gpu", json!(1)), Some("gpu")),
        ("limits", with("resources", json!({"limits": {"cpu": 1}})), Some("limits")),
        ("node selector", with("nodeSelector", json!({"kubernetes.io/os": "linux", "empty": ""})), None),
        ("node selector with a number", with("nodeSelector", json!({"a": 5})), Some("spec.nodeSelector.a")),
        ("node selector with no label", with("nodeSelector", json!({"a": "b c"})), Some("spec.nodeSelector.a")),
        ("toleration", toleration(json!({"key": "a", "value": "b", "effect": "NoSchedule"})), None),
        ("toleration of all", toleration(json!({"operator": "Exists"})), None),
        ("toleration without key", toleration(json!({"value": "b"})), Some("spec.tolerations[0]")),
        (
            "toleration of all with a value",
            toleration(json!({"key": "a", "operator": "Exists", "value": "b"})),
            Some("spec.tolerations[0]"),
        ),
        ("toleration by another operator", toleration(json!({"key": "a", "operator": "In"})), Some("operator")),
        ("toleration of another effect", toleration(json!({"key": "a", "effect": "Always"})), Some("effect")),
        ("resolved once", with("imageResolution", json!({"policy": "OnChange"})), None),
        ("resolved again", with("imageResolution", json!({"policy": "Interval"})), None),
        ("each minute", with("imageResolution", json!({"policy": "Interval", "interval": "1m"})), None),
        ("each week", with("imageResolution", json!({"policy": "Interval", "interval": "167h59m60s"})), None),
        ("an interval without", with("imageResolution", json!({"interval": "10m"})), Some("spec.imageResolution")),
        (
            "too often",
            with("imageResolution", json!({"policy": "Interval", "interval": "59s"})),
            Some("spec.imageResolution.interval"),
        ),
        (
            "too seldom",
            with("imageResolution", json!({"policy": "Interval", "interval": "169h"})),
            Some("spec.imageResolution.interval"),
        ),
        (
            "no time",
            with("imageResolution", json!({"policy": "Interval", "interval": "often"})),
            Some("spec.imageResolution.interval"),
        ),
        ("another policy", with("imageResolution", json!({"policy": "Always"})), Some("spec.imageResolution.policy")),
        ("near clients first", with("trafficDistribution", json!("PreferSameNode")), None),
        ("another distribution", with("trafficDistribution", json!("PreferFar")), Some("spec.trafficDistribution")),
        ("affinity to nothing known", with("affinity", json!({})), Some("spec.affinity.nodeAffinity")),
        (
            "affinity that requires nothing",
            node_affinity(json!({})),
            Some("spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"),
        ),
        ("affinity of null", with("affinity", json!(null)), Some("spec.affinity")),
        ("affinity to labels", label(json!({"key": "example.com/disk", "operator": "In", "values": ["a", "b"]})), None),
        ("affinity to a name", field(json!({"key": "metadata.name", "operator": "NotIn", "values": ["n1"]})), None),
        ("affinity to a number", label(json!({"key": "a", "operator": "Gt", "values": ["15"]})), None),
        ("affinity to a label that is there", label(json!({"key": "a", "operator": "Exists"})), None),
        ("affinity to nothing", terms(json!([{}])), None),
        ("affinity without terms", terms(json!([])), Some("nodeSelectorTerms")),
        ("affinity null", with("affinity", json!({"nodeAffinity": null})), Some("nodeAffinity")),
        (
            "affinity that prefers",
            node_affinity(json!({"preferredDuringSchedulingIgnoredDuringExecution": []})),
            Some("preferred"),
        ),
        ("affinity to pods", with("affinity", json!({"podAffinity": {}})), Some("podAffinity")),
        ("affinity without key", label(json!({"operator": "Exists"})), Some("matchExpressions[0].key")),
        (
            "affinity with a bad key",
            label(json!({"key": "a b", "operator": "Exists"})),
            Some("matchExpressions[0].key"),
        ),
        (
            "affinity by another operator",
            label(json!({"key": "a", "operator": "Equal", "values": ["b"]})),
            Some("matchExpressions[0].operator"),
        ),
        ("affinity in nothing", label(json!({"key": "a", "operator": "In"})), Some("matchExpressions[0].values")),
        (
            "affinity in no value",
            label(json!({"key": "a", "operator": "NotIn", "values": []})),
            Some("matchExpressions[0].values"),
        ),
        (
            "affinity to what is there, with a value",
            label(json!({"key": "a", "operator": "DoesNotExist", "values": ["b"]})),
            Some("matchExpressions[0].values"),
        ),
        (
            "affinity to more than a text",
            label(json!({"key": "a", "operator": "Gt", "values": ["many"]})),
            Some("matchExpressions[0].values"),
        ),
        (
            "affinity to a number below 0",
            label(json!({"key": "a", "operator": "Lt", "values": ["-1"]})),
            Some("matchExpressions[0].values"),
        ),
        (
            "affinity to less than two numbers",
            label(json!({"key": "a", "operator": "Lt", "values": ["1", "2"]})),
            Some("matchExpressions[0].values"),
        ),
        (
            "affinity with no label's value",
            label(json!({"key": "a", "operator": "In", "values": ["b c"]})),
            Some("matchExpressions[0].values[0]"),
        ),
        (
            "affinity to another field",
            field(json!({"key": "spec.unschedulable", "operator": "In", "values": ["a"]})),
            Some("matchFields[0].key"),
        ),
        (
            "affinity to a name that is there",
            field(json!({"key": "metadata.name", "operator": "Exists", "values": ["a"]})),
            Some("matchFields[0].operator"),
        ),
        (
            "affinity to two names",
            field(json!({"key": "metadata.name", "operator": "In", "values": ["a", "b"]})),
            Some("matchFields[0].values"),
        ),
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
    assert!(table().iter().filter(|(_, _, refusal)| refusal.is_some()).count() >= 40);
    Ok(())
}

#[tokio::test]
async fn a_yaml_of_another_version_or_kind_is_refused() -> Result<()> {
    let cluster = Cluster::connect().await?;
    for (version, kind, code) in [("podless.dev/v1", "WasmService", 404), ("podless.dev/v1alpha1", "WasmServices", 404)]
    {
        let gvk = GroupVersionKind::try_from(&TypeMeta { api_version: version.into(), kind: kind.into() })?;
        let resource = ApiResource::from_gvk_with_plural(&gvk, &format!("{}s", kind.to_lowercase()));
        let api = Api::<DynamicObject>::namespaced_with(cluster.kube.clone(), "default", &resource);
        let mut object = wasm_service("version", json!({"image": "a"}));
        (object["apiVersion"], object["kind"]) = (json!(version), json!(kind));
        let answer = api.patch("version", &PatchParams::apply("e2e"), &Patch::Apply(object)).await;
        let Err(kube::Error::Api(status)) = answer else { panic!("{version} {kind}: {answer:?}") };
        assert_eq!(status.code, code, "{status:?}");
    }
    // What was sent to the right place under another name is told so, too.
    let api = Api::<WasmService>::namespaced(cluster.kube.clone(), "default");
    let mut object = wasm_service("version", json!({"image": "a"}));
    object["apiVersion"] = json!("podless.dev/v1");
    let answer = api.patch("version", &PatchParams::apply("e2e"), &Patch::Apply(object)).await;
    let Err(kube::Error::Api(status)) = answer else { panic!("{answer:?}") };
    assert!(status.code == 400 && status.message.contains("podless.dev/v1"), "{status:?}");
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
    assert_eq!((spec.get("replicas"), spec.get("scaling")), (None, None), "as many as the load needs");
    assert_eq!(spec["instance"]["memory"], "64Mi");
    let object = wasm_service("defaults", json!({"image": "a", "scaling": {}}));
    let spec = serde_json::to_value(api.patch("defaults", &params, &Patch::Apply(object)).await?.spec)?;
    let scaling = &spec["scaling"];
    assert_eq!((&scaling["minReplicas"], &scaling["maxReplicas"]), (&json!(0), &json!(20)));
    assert_eq!((&scaling["windowSeconds"], &scaling["scaleToZeroAfterSeconds"]), (&json!(60), &json!(30)));
    assert_eq!(scaling["metric"]["type"], "Concurrency");
    Ok(())
}
