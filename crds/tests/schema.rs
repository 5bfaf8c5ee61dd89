//! The schemas that are made from the types hold what Kubernetes and `kubectl explain` ask of them.

#![allow(clippy::expect_used, reason = "tests")]

use kube::CustomResourceExt;
use podless_crds::{ConditionType, Scaling, WasmNode, WasmPolicy, WasmService, WasmServiceSpec};
use serde_json::Value;

fn schemas() -> [(&'static str, Value); 3] {
    let schema =
        |crd| serde_json::to_value(crd).expect("JSON")["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take();
    [
        ("wasmservice", schema(WasmService::crd())),
        ("wasmnode", schema(WasmNode::crd())),
        ("wasmpolicy", schema(WasmPolicy::crd())),
    ]
}

/// Calls `check` with the path and the schema of every property, and of what lists hold.
fn walk(path: &str, schema: &Value, check: &mut impl FnMut(&str, &Value)) {
    check(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), property, check);
    }
    for (key, end) in [("items", "[]"), ("additionalProperties", ".*")] {
        if !schema[key].is_null() {
            walk(&format!("{path}{end}"), &schema[key], check);
        }
    }
}

#[test]
fn every_property_is_described_and_structural() {
    for (kind, schema) in schemas() {
        let mut seen = 0;
        walk(kind, &schema, &mut |path, property| {
            seen += 1;
            assert!(property["description"].as_str().is_some_and(|text| text.len() > 5), "{path} has no description");
            let has_type = property["type"].is_string() || property["x-kubernetes-int-or-string"] == true;
            assert!(has_type, "{path} has no type, so the schema is not structural");
            for key in ["$ref", "oneOf", "anyOf", "allOf", "not"] {
                assert!(property.get(key).is_none(), "{path} has {key}");
            }
            let is_map = property.get("additionalProperties").is_some();
            let labels = path.ends_with("spec.nodeSelector") || path.ends_with("namespaceSelector.matchLabels");
            assert!(!is_map || labels, "{path} takes any field");
        });
        assert!(seen > 20, "{kind}: {seen} properties");
    }
}

#[test]
fn what_users_write_is_bounded() {
    let [(_, service), _, (_, policy)] = schemas();
    for schema in [service, policy] {
        walk("spec", &schema["properties"]["spec"], &mut is_bounded);
    }
}

fn is_bounded(path: &str, property: &Value) {
    match property["type"].as_str() {
        Some("string") if property["enum"].is_array() => {}
        Some("string") => assert!(property["maxLength"].is_u64(), "{path} has no maxLength"),
        Some("array") => assert!(property["maxItems"].is_u64(), "{path} has no maxItems"),
        Some("object") if property.get("additionalProperties").is_some() => {
            assert!(property["maxProperties"].is_u64(), "{path} has no maxProperties");
        }
        Some("integer") => {
            assert!(property["minimum"].is_number() && property["maximum"].is_number(), "{path} has no range");
        }
        // A number or a text: only a rule can bound it.
        None => assert!(property["x-kubernetes-validations"].is_array(), "{path} has no rule"),
        _ => {}
    }
}

#[test]
fn a_null_for_replicas_is_none_and_leaves_it_to_the_load() {
    let [(_, service), ..] = schemas();
    let replicas = &service["properties"]["spec"]["properties"]["replicas"];
    assert!(replicas["default"].is_null(), "a service would not be scaled by itself");
    assert_ne!(replicas["nullable"], true, "a null would stay, and GET of the scale subresource fail");
}

#[test]
fn scaling_has_its_defaults_in_the_schema() {
    let [(_, service), ..] = schemas();
    let spec = &service["properties"]["spec"];
    let scaling = &spec["properties"]["scaling"];
    assert!(scaling["default"].is_null(), "who says nothing may still set replicas");
    let default = |field: &str| scaling["properties"][field]["default"].clone();
    let defaults = serde_json::to_value(Scaling::default()).expect("JSON");
    for (field, value) in defaults.as_object().expect("fields") {
        assert_eq!(default(field), *value, "{field}");
    }
    assert!(default("panicWindowSeconds").is_null(), "it follows windowSeconds");
    let metric = &scaling["properties"]["metric"]["properties"];
    assert_eq!(metric["type"]["enum"], serde_json::json!(["Concurrency", "RPS", "CPU"]));
    assert_eq!(metric["type"]["default"], "Concurrency");
    for field in ["utilization", "value"] {
        assert!(metric[field]["default"].is_null(), "only one of the two may be there: {field}");
    }
    let rules = |schema: &Value| schema["x-kubernetes-validations"].as_array().map_or(0, Vec::len);
    let got = [spec, scaling, &scaling["properties"]["metric"]].map(rules);
    assert_eq!(
        got,
        [2, 2, 3],
        "not both, what CPU needs; min and max, windows; one of the two, what RPS needs, CPU's unit"
    );
}

#[test]
fn a_number_is_fixed_or_scaled() {
    let read = |fields: Value| -> WasmServiceSpec {
        let mut spec = serde_json::json!({"image": "i"});
        spec.as_object_mut().expect("fields").extend(fields.as_object().expect("fields").clone());
        serde_json::from_value(spec).expect("a spec")
    };
    let least = Scaling { min_replicas: 2, ..Scaling::default() };
    for (fields, scaling, fixed) in [
        (serde_json::json!({}), Some(Scaling::default()), None),
        (serde_json::json!({"scaling": null, "replicas": null}), Some(Scaling::default()), None),
        (serde_json::json!({"scaling": {}}), Some(Scaling::default()), None),
        (serde_json::json!({"scaling": {"minReplicas": 2}}), Some(least), None),
        (serde_json::json!({"replicas": 0}), None, Some(0)),
        (serde_json::json!({"replicas": 3}), None, Some(3)),
    ] {
        let spec = read(fields.clone());
        assert_eq!((spec.scaling(), spec.fixed_replicas()), (scaling, fixed), "{fields}");
    }
}

#[test]
fn the_spec_is_flat_and_has_the_fields_that_work() {
    let [(_, service), ..] = schemas();
    let mut fields: Vec<_> = service["properties"]["spec"]["properties"].as_object().expect("fields").keys().collect();
    fields.sort();
    let want = [
        "affinity",
        "capabilities",
        "compiler",
        "concurrency",
        "env",
        "hosts",
        "image",
        "imagePullSecrets",
        "imageResolution",
        "instance",
        "nodeSelector",
        "replicas",
        "resources",
        "scaling",
        "timeoutSeconds",
        "tolerations",
        "trafficDistribution",
    ];
    assert_eq!(fields, want);
    assert_eq!(service["properties"]["spec"]["required"], serde_json::json!(["image"]));
}

#[test]
fn a_node_is_required_as_a_pod_requires_it() {
    let [(_, service), ..] = schemas();
    let spec = &service["properties"]["spec"]["properties"]["affinity"];
    let affinity = &spec["properties"]["nodeAffinity"];
    for (schema, field) in [(spec, "nodeAffinity"), (affinity, "requiredDuringSchedulingIgnoredDuringExecution")] {
        assert_ne!(schema["nullable"], true, "a null would ask for nothing, unseen");
        assert_eq!(schema["required"], serde_json::json!([field]), "without it it would ask for nothing, unseen");
    }
    let required = &affinity["properties"]["requiredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(required["required"], serde_json::json!(["nodeSelectorTerms"]));
    let terms = &required["properties"]["nodeSelectorTerms"];
    assert_eq!(terms["minItems"], 1);
    let term = &terms["items"]["properties"];
    let label = &term["matchExpressions"]["items"];
    let operators = serde_json::json!(["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]);
    assert_eq!(label["properties"]["operator"]["enum"], operators);
    assert_eq!(label["required"], serde_json::json!(["key", "operator"]));
    for rule in label["x-kubernetes-validations"].as_array().expect("rules") {
        assert_eq!(rule["fieldPath"], ".values", "the message would not name the field");
    }
    let field = &term["matchFields"]["items"]["properties"];
    assert_eq!(field["key"]["enum"], serde_json::json!(["metadata.name"]));
    assert_eq!(field["operator"]["enum"], serde_json::json!(["In", "NotIn"]));
    assert_eq!((&field["values"]["minItems"], &field["values"]["maxItems"]), (&1.into(), &1.into()));
}

#[test]
fn it_has_a_scale_subresource() {
    let crd = serde_json::to_value(WasmService::crd()).expect("JSON");
    let version = &crd["spec"]["versions"][0];
    let paths = serde_json::json!({
        "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector",
    });
    assert_eq!(version["subresources"]["scale"], paths);
}

#[test]
fn a_reference_is_read_as_it_is_written() {
    let spec = serde_json::json!({
        "image": "r/a:1",
        "env": [
            {"name": "A", "value": "b"},
            {"name": "C", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": true}}},
        ],
        "capabilities": {"outboundHttp": {"allowedHosts": ["https://a.example"], "allowedCidrs": ["10.0.0.0/8"]}},
        "resources": {"requests": {"cpu": 2, "memory": "1Gi"}},
        "nodeSelector": {"disk": "fast"},
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "disk", "operator": "Exists"}, {"key": "disks", "operator": "Gt", "values": ["1"]}]},
            {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}]},
        ]}}},
        "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute"}, {"key": "k", "value": "v"}],
        "replicas": 0,
    });
    let read: podless_crds::WasmServiceSpec = serde_json::from_value(spec.clone()).expect("a spec");
    assert_eq!(read.fixed_replicas(), Some(0));
    let requests = &read.resources.requests;
    assert_eq!(requests.cpu.as_ref().map(|q| q.0.as_str()), Some("2"), "a number is as good as a text");
    let mut written = serde_json::to_value(&read).expect("JSON");
    assert_eq!(written["tolerations"][1]["operator"], "Equal", "the default");
    for field in ["env", "capabilities", "nodeSelector", "affinity", "replicas"] {
        assert_eq!(written[field].take(), spec[field], "{field}");
    }
}

#[test]
fn conditions_are_a_map_by_type() {
    for (kind, schema) in schemas() {
        let conditions = &schema["properties"]["status"]["properties"]["conditions"];
        assert_eq!(conditions["x-kubernetes-list-type"], "map", "{kind}");
        assert_eq!(conditions["x-kubernetes-list-map-keys"], serde_json::json!(["type"]), "{kind}");
    }
    let names = ConditionType::ALL.map(ConditionType::as_str);
    let [(_, service), ..] = schemas();
    let text = service["properties"]["status"]["properties"]["conditions"]["description"].as_str().expect("text");
    for name in names {
        assert!(text.contains(name), "`kubectl explain` does not name the condition {name}");
    }
}

#[test]
fn printer_columns_lead_to_fields() {
    for crd in [WasmService::crd(), WasmNode::crd(), WasmPolicy::crd()] {
        let version = &crd.spec.versions[0];
        let schema = serde_json::to_value(version.schema.as_ref().expect("a schema")).expect("JSON");
        assert!(version.subresources.as_ref().is_some_and(|s| s.status.is_some()), "no status subresource");
        for column in version.additional_printer_columns.as_ref().expect("columns") {
            let path =
                column.json_path.trim_start_matches('.').split('.').map(|step| step.split('[').next().unwrap_or(step));
            let mut at = &schema["openAPIV3Schema"];
            for step in path.take_while(|step| *step != "metadata") {
                let items = &at["items"];
                at = &(if items.is_null() { at } else { items })["properties"][step];
                assert!(!at.is_null(), "column {}: nothing at {}", column.name, column.json_path);
                if step == "conditions" {
                    break;
                }
            }
        }
    }
}
