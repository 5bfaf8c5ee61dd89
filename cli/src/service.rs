//! WasmServices as they are written: YAML, or a component's name, and the command line's changes in; checked objects
//! out. Pure.

use kube::CustomResourceExt;
use podless_artifact::Grants;
use podless_crds::{Capabilities, GROUP, WasmService, WasmServiceSpec};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{args::Changes, failure::Failure, schema, target::Source};

const VERSION: &str = "v1alpha1";
/// In place of a host on the command line.
const NOBODY: &str = "none";
/// Group and version of what is served.
pub(crate) const API_VERSION: &str = "podless.dev/v1alpha1";
/// Its kind.
pub(crate) const KIND: &str = "WasmService";

/// What a YAML file holds.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    /// Its WasmServices, in their order.
    pub(crate) services: Vec<WasmService>,
    /// What else it holds, as `Secret regcred`.
    pub(crate) others: Vec<String>,
}

/// Reads a YAML file.
pub(crate) fn read(text: &str, changes: &Changes) -> Result<Documents, Failure> {
    let mut documents = Documents::default();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let document = Value::deserialize(document).map_err(|error| invalid(format!("it is not YAML: {error}")))?;
        if document.is_null() {
            continue;
        }
        let field = |name: &str| document[name].as_str().unwrap_or_default();
        let (group, version) = field("apiVersion").split_once('/').unwrap_or_default();
        match (group, version, field("kind")) {
            (GROUP, VERSION, KIND) => documents.services.push(service(document, changes)?),
            (GROUP, version, kind) => {
                return Err(invalid(format!(
                    "it has a {kind} of {GROUP}/{version}: this Podless serves {KIND} of {GROUP}/{VERSION}"
                )));
            }
            (_, _, "") => return Err(invalid("it has a document without a kind: write apiVersion and kind")),
            (_, _, kind) => {
                let name = document["metadata"]["name"].as_str().unwrap_or_default();
                documents.others.push(format!("{kind} {name}"));
            }
        }
    }
    if documents.services.is_empty() {
        return Err(invalid(format!("it holds no {KIND} of {GROUP}/{VERSION}")));
    }
    Ok(documents)
}

/// A component alone, with every default.
pub(crate) fn of(source: &Source, changes: &Changes) -> Result<WasmService, Failure> {
    let object = json!({
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": source.service_name()},
        "spec": {"image": source.to_string()},
    });
    service(object, changes)
}

/// What a service grants its component.
pub(crate) fn grants(service: &WasmService) -> Grants {
    let Capabilities { strict, logging, outbound_http } = &service.spec.revision.capabilities;
    Grants { strict: *strict, logging: logging.is_some(), outbound_http: outbound_http.is_some() }
}

fn service(mut object: Value, changes: &Changes) -> Result<WasmService, Failure> {
    let name = match object["metadata"]["name"].as_str() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => return Err(invalid("a WasmService has no metadata.name: give it one")),
    };
    let of_service = |message: String| invalid(format!("{name}: {message}"));
    change(&mut object, changes).map_err(of_service)?;
    let problems = match schema() {
        Some(schema) => check(&object, &schema),
        None => vec![],
    };
    if !problems.is_empty() {
        return Err(of_service(problems.join("; ")));
    }
    serde_json::from_value(object).map_err(|error| of_service(error.to_string()))
}

/// The schema of the CRD that a cluster has.
fn schema() -> Option<Value> {
    let version = WasmService::crd().spec.versions.into_iter().next()?;
    serde_json::to_value(version.schema?.open_api_v3_schema?).ok()
}

fn check(object: &Value, schema: &Value) -> Vec<String> {
    const META: [&str; 4] = ["apiVersion", "kind", "metadata", "status"];
    let mut problems = schema::check("spec", &object["spec"], &schema["properties"]["spec"]);
    for name in object.as_object().into_iter().flat_map(|fields| fields.keys()) {
        if name != "spec" && !META.contains(&name.as_str()) {
            problems.push(format!("{name} is no field that Podless knows: take it out, or mend its name"));
        }
    }
    problems
}

/// Puts the command line's changes into an object.
fn change(object: &mut Value, changes: &Changes) -> Result<(), String> {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
        return Err("spec is missing".to_owned());
    };
    // As the API server does: a null is a field that is not there.
    spec.retain(|_, value| !value.is_null());
    let env = spec.entry("env").or_insert_with(|| json!([]));
    if let Some(env) = env.as_array_mut() {
        for (name, value) in &changes.env {
            env.retain(|variable| variable["name"] != **name);
            env.push(json!({"name": name, "value": value}));
        }
        // The cluster leaves out what is optional and not there, and here nothing is there.
        env.retain(|variable| !is_optional(variable));
        if let Some(variable) = env.iter().find(|variable| !variable["valueFrom"].is_null()) {
            let name = variable["name"].as_str().unwrap_or_default();
            return Err(format!(
                "env {name} takes its value from a Secret or a ConfigMap, and there is no cluster here: give it by --env \
                 {name}=…"
            ));
        }
    }
    if changes.logging {
        capabilities(spec)?.entry("logging").or_insert_with(|| json!({}));
    }
    for (field, more) in [("allowedHosts", &changes.allow_host), ("allowedCidrs", &changes.allow_cidr)] {
        if !more.is_empty() {
            let outbound = capabilities(spec)?.entry("outboundHttp").or_insert_with(|| json!({}));
            let list = outbound.as_object_mut().map(|outbound| outbound.entry(field).or_insert_with(|| json!([])));
            let list = list.and_then(Value::as_array_mut);
            let list = list.ok_or_else(|| format!("spec.capabilities.outboundHttp.{field} must be a list"))?;
            list.extend(more.iter().filter(|text| *text != NOBODY).map(|text| json!(text)));
        }
    }
    Ok(())
}

fn is_optional(variable: &Value) -> bool {
    let from = &variable["valueFrom"];
    ["secretKeyRef", "configMapKeyRef"].iter().any(|kind| from[kind]["optional"] == true)
}

fn capabilities(spec: &mut serde_json::Map<String, Value>) -> Result<&mut serde_json::Map<String, Value>, String> {
    let capabilities = spec.entry("capabilities").or_insert_with(|| json!({}));
    capabilities.as_object_mut().ok_or_else(|| "spec.capabilities must be an object".to_owned())
}

fn invalid(message: impl std::fmt::Display) -> Failure {
    Failure::mistake("InvalidSpec", message)
}

/// Most units of capacity on the one machine that there is: as many as the spec says, or as the load may ask for.
pub(crate) fn most_replicas(spec: &WasmServiceSpec) -> u32 {
    spec.fixed_replicas().unwrap_or_else(|| spec.scaling().unwrap_or_default().most())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "apiVersion: podless.dev/v1alpha1\nkind: WasmService\nmetadata: {name: cart}\nspec:\n  image: r/cart:1\n";

    fn refused(text: &str) -> String {
        read(text, &Changes::default()).expect_err(text).to_string()
    }

    #[test]
    fn what_is_written_is_read_with_its_defaults() {
        let text = format!("---\n{HEAD}---\n\n---\nkind: Secret\napiVersion: v1\nmetadata: {{name: s}}\n---\n{HEAD}");
        let documents = read(&text, &Changes::default()).expect("two services");
        assert_eq!((documents.services.len(), documents.others.as_slice()), (2, &["Secret s".to_owned()][..]));
        let spec = &documents.services[0].spec;
        assert_eq!((most_replicas(spec), spec.revision.concurrency, spec.revision.timeout_seconds), (20, 100, 30));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, says) in [
            ("", "holds no WasmService"),
            ("a: [", "not YAML"),
            ("a: 1", "without a kind"),
            (&HEAD.replace("v1alpha1", "v1"), "WasmService of podless.dev/v1: this Podless serves"),
            (&HEAD.replace("{name: cart}", "{}"), "no metadata.name"),
            (&HEAD.replace("image", "imgae"), "cart: spec.imgae is no field"),
            (&HEAD.replace("  image: r/cart:1", "  {}"), "cart: spec.image is missing"),
            (&format!("{HEAD}  replicas: many\n"), "spec.replicas must be of type integer"),
            (&format!("{HEAD}  replicas: 10001\n"), "the most is 10000"),
            (&format!("{HEAD}  capabilities: {{loging: {{}}}}\n"), "spec.capabilities.loging is no field"),
            (&format!("{HEAD}  capabilities: []\n"), "spec.capabilities must be"),
            (&format!("{HEAD}sepc: {{}}\n"), "sepc is no field"),
            (&HEAD.replace("spec:", "spek:"), "spec is missing"),
        ] {
            let message = refused(text);
            assert!(message.contains(says), "{text}\n{message}");
        }
    }

    #[test]
    fn the_command_line_changes_what_is_written() {
        let text = format!(
            "{HEAD}  env:\n  - {{name: A, value: a}}\n  - name: T\n    valueFrom: {{secretKeyRef: {{name: s, key: k}}}}\n  \
             - name: O\n    valueFrom: {{configMapKeyRef: {{name: s, key: k, optional: true}}}}\n"
        );
        let message = refused(&text);
        assert!(message.contains("--env T=") && !message.contains("--env O="), "{message}");

        let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let changes = Changes {
            env: pairs(&[("T", "t"), ("A", "b"), ("N", "")]),
            allow_host: vec!["https://a.example".into()],
            allow_cidr: vec!["10.0.0.0/8".into()],
            logging: true,
        };
        let spec = &read(&text, &changes).expect("a service").services[0].spec.revision;
        let env: Vec<_> = spec.env.iter().map(|v| (v.name.as_str(), v.value.as_str())).collect();
        assert_eq!(env, [("T", "t"), ("A", "b"), ("N", "")]);
        let outbound = spec.capabilities.outbound_http.as_ref().expect("granted");
        assert_eq!((&outbound.allowed_hosts, &outbound.allowed_cidrs), (&changes.allow_host, &changes.allow_cidr));
        assert!(spec.capabilities.logging.is_some());
    }

    #[test]
    fn asking_nobody_is_granted_too() {
        let changes = Changes { allow_host: vec!["none".into()], ..Changes::default() };
        let nulls = read(&format!("{HEAD}  env: null\n  capabilities: null\n"), &changes).expect("a service");
        assert!(grants(&nulls.services[0]).outbound_http);
        let service = of(&Source::File("a.wasm".into()), &changes).expect("a service");
        assert!(grants(&service).outbound_http);
        let outbound = service.spec.revision.capabilities.outbound_http.expect("granted");
        assert_eq!(outbound.allowed_hosts, Vec::<String>::new());
    }

    #[test]
    fn a_component_alone_is_a_service() {
        let service = of(&Source::File("a/My.wasm".into()), &Changes::default()).expect("a service");
        assert_eq!((service.metadata.name.as_deref(), service.spec.revision.image.as_str()), (Some("my"), "a/My.wasm"));
    }
}
