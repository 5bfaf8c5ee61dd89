//! How tools lay a component out in a registry: a manifest in, the layer that is the component out, or what there is
//! instead. Pure.
//!
//! Which layer it is, is said by the layers' media types alone: tools agree on nothing else, and what the component is
//! and needs, it says itself. Where bytes are is said by the registry: `urls` of a manifest are not even read.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::reference::is_sha256;

/// What manifests are asked for as.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";
/// Media types of a component's layer in the wild: the CNCF's (wkg, wash, oras), Spin's, runwasi's, old wasmCloud's.
const COMPONENT_TYPES: [&str; 4] = [
    "application/wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
];
/// Files that Spin would show the component: it does not work without them.
const FILE_TYPES: [&str; 2] =
    ["application/vnd.wasm.content.layer.v1+data", "application/vnd.wasm.content.bundle.v1.tar+gzip"];
/// Media types of what leads to manifests.
const INDEX_TYPES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
/// Docker's builder adds entries of its own to an index; this annotation says so.
const ATTESTATION: (&str, &str) = ("vnd.docker.reference.type", "attestation-manifest");
/// The name that `oras` gives a layer.
const TITLE: &str = "org.opencontainers.image.title";
/// Layers that are named in a sentence.
const NAMED: usize = 5;

/// A manifest, or an index of manifests.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

/// What a manifest says of a layer, or an index of a manifest.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    platform: Option<Platform>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
}

/// Why there is no component in a manifest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LayoutError {
    /// An index, with what is wrong with it.
    Index(String),
    /// Other layers than one component, said.
    Layers(String),
    /// Machine code, with its media type.
    Precompiled(String),
    /// It is not well-formed, said.
    Malformed(&'static str),
}

impl Manifest {
    /// The manifest that an index leads to; `None` when this is none.
    pub(super) fn entry(&self) -> Result<Option<&Descriptor>, LayoutError> {
        let Some(entries) = &self.manifests else { return Ok(None) };
        let entry = wasm_entry(entries)?;
        if INDEX_TYPES.contains(&entry.media_type.as_str()) {
            return Err(LayoutError::Index("leads to another index".to_owned()));
        }
        if !is_sha256(&entry.digest) {
            return Err(LayoutError::Malformed("a digest in it is not sha256"));
        }
        Ok(Some(entry))
    }

    /// The component.
    pub(super) fn component(self) -> Result<Descriptor, LayoutError> {
        if self.manifests.is_some() {
            return Err(LayoutError::Index("leads to another index".to_owned()));
        }
        component_layer(self.layers.unwrap_or_default())
    }
}

/// The entry for WebAssembly, or the only one there is.
fn wasm_entry(entries: &[Descriptor]) -> Result<&Descriptor, LayoutError> {
    let is_attestation = |entry: &Descriptor| {
        let annotations = entry.annotations.as_ref();
        annotations.and_then(|all| all.get(ATTESTATION.0)).is_some_and(|kind| kind == ATTESTATION.1)
    };
    let entries: Vec<_> = entries.iter().filter(|entry| !is_attestation(entry)).collect();
    if let [only] = entries[..]
        && only.platform.is_none()
    {
        return Ok(only);
    }
    let is_wasm = |entry: &&Descriptor| entry.platform.as_ref().is_some_and(|p| p.architecture == "wasm");
    let wasm: Vec<_> = entries.into_iter().filter(is_wasm).collect();
    match wasm[..] {
        [one] => Ok(one),
        [] => Err(LayoutError::Index("has no entry for WebAssembly (platform architecture `wasm`)".to_owned())),
        _ => Err(LayoutError::Index(format!("has {} entries for WebAssembly", wasm.len()))),
    }
}

/// The one layer that can be a component. Others may be beside it, as licences and bills of materials; but neither machine
/// code nor files that it would have to find.
fn component_layer(mut layers: Vec<Descriptor>) -> Result<Descriptor, LayoutError> {
    if let Some(native) = layers.iter().find(|layer| is_precompiled(&layer.media_type)) {
        return Err(LayoutError::Precompiled(shorten(&native.media_type)));
    }
    let is = |types: &[&str], layer: &Descriptor| types.contains(&layer.media_type.as_str());
    let components: Vec<_> = (0..layers.len()).filter(|at| is(&COMPONENT_TYPES, &layers[*at])).collect();
    let [component] = components[..] else {
        let count = match components.len() {
            0 => "has no layer that is a component".to_owned(),
            many => format!("has {many} layers that are components"),
        };
        let named = if layers.is_empty() { "it has no layer at all".to_owned() } else { names(layers.iter()) };
        return Err(LayoutError::Layers(format!("{count} ({named})")));
    };
    if layers.iter().any(|layer| is(&FILE_TYPES, layer)) {
        let files = names(layers.iter().filter(|layer| is(&FILE_TYPES, layer)));
        return Err(LayoutError::Layers(format!("has files beside its component, which it would not find ({files})")));
    }
    let layer = layers.swap_remove(component);
    if !is_sha256(&layer.digest) {
        return Err(LayoutError::Malformed("its layer has no sha256 digest"));
    }
    Ok(layer)
}

/// The first of these layers, for a sentence.
fn names<'a>(layers: impl Iterator<Item = &'a Descriptor>) -> String {
    let all: Vec<_> = layers.collect();
    let mut named: Vec<_> = all.iter().take(NAMED).map(|layer| layer.name()).collect();
    if all.len() > NAMED {
        named.push(format!("and {} more", all.len() - NAMED));
    }
    named.join(", ")
}

impl Descriptor {
    fn name(&self) -> String {
        let title = self.annotations.as_ref().and_then(|all| all.get(TITLE));
        let media_type = shorten(&self.media_type);
        title.map_or(media_type.clone(), |title| format!("{:?} of type {media_type}", shorten(title)))
    }
}

/// There is no registered type for machine code; these are the words that the known ones have.
fn is_precompiled(media_type: &str) -> bool {
    let media_type = media_type.to_ascii_lowercase();
    ["cwasm", "precompiled", "native"].iter().any(|word| media_type.contains(word))
}

/// A stranger's text, fit for a sentence.
fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

    fn read(manifest: &Value) -> Manifest {
        serde_json::from_value(manifest.clone()).expect("a manifest")
    }

    fn outcome(manifest: &Value) -> String {
        match read(manifest).component() {
            Ok(layer) => format!("taken: {}", layer.media_type),
            Err(LayoutError::Index(why) | LayoutError::Layers(why)) => why,
            Err(LayoutError::Precompiled(media_type)) => format!("precompiled: {media_type}"),
            Err(LayoutError::Malformed(why)) => why.to_owned(),
        }
    }

    fn layer(media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": DIGEST, "size": 1})
    }

    fn titled(media_type: &str, title: &str) -> Value {
        let mut layer = layer(media_type);
        layer["annotations"] = json!({TITLE: title});
        layer
    }

    fn manifest(config: &str, layers: &[Value]) -> Value {
        json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": layer(config), "layers": layers})
    }

    #[test]
    fn what_tools_write_is_taken() {
        const EMPTY: &str = "application/vnd.oci.empty.v1+json";
        let spin = "application/vnd.fermyon.spin.application.v1+config";
        let mut artifact = manifest(EMPTY, &[titled("application/wasm", "hello.wasm")]);
        artifact["artifactType"] = json!("application/vnd.example.component.v1");
        artifact["config"]["data"] = json!("e30=");
        artifact["annotations"] = json!({"org.opencontainers.image.created": "2026-01-01T00:00:00Z"});
        let mut foreign = layer("application/wasm");
        foreign["urls"] = json!(["http://169.254.169.254/latest/meta-data"]);
        for (what, manifest) in [
            ("wkg, wash", manifest("application/vnd.wasm.config.v0+json", &[layer("application/wasm")])),
            ("spin", manifest(spin, &[layer("application/vnd.wasm.content.layer.v1+wasm")])),
            (
                "runwasi",
                manifest(
                    "application/vnd.wasm.config.v1+json",
                    &[layer("application/vnd.bytecodealliance.wasm.component.layer.v0+wasm")],
                ),
            ),
            (
                "old wasmCloud",
                manifest(
                    "application/vnd.wasmcloud.actor.archive.config",
                    &[layer("application/vnd.module.wasm.content.layer.v1+wasm")],
                ),
            ),
            ("oras push IMAGE hello.wasm:application/wasm", artifact),
            ("old oras", manifest("application/vnd.unknown.config.v1+json", &[titled("application/wasm", "x.wasm")])),
            ("foreign urls", manifest(EMPTY, &[foreign])),
            (
                "a licence beside it",
                manifest(EMPTY, &[titled("text/plain", "LICENSE"), titled("application/wasm", "x.wasm")]),
            ),
        ] {
            let outcome = outcome(&manifest);
            assert!(outcome.starts_with("taken"), "{what}: {outcome}");
        }
    }

    #[test]
    fn what_is_no_single_component_is_named() {
        let wasm = "application/wasm";
        for (layers, says) in [
            (vec![], "no layer at all"),
            (
                vec![layer("application/vnd.oci.image.layer.v1.tar+gzip")],
                "(application/vnd.oci.image.layer.v1.tar+gzip)",
            ),
            // `oras push IMAGE hello.wasm`.
            (
                vec![titled("application/vnd.oci.image.layer.v1.tar", "hello.wasm")],
                "no layer that is a component (\"hello.wasm\" of type application/vnd.oci.image.layer.v1.tar)",
            ),
            (vec![titled("text/plain", "../../LICENSE\n")], "(\"../../LICENSE\" of type text/plain)"),
            (vec![layer("application/vnd.oci.empty.v1+json")], "(application/vnd.oci.empty.v1+json)"),
            (
                vec![titled(wasm, "a.wasm"), titled(wasm, "b.wasm")],
                "2 layers that are components (\"a.wasm\" of type application/wasm, \"b.wasm\"",
            ),
            (
                vec![
                    layer("application/vnd.wasm.content.layer.v1+wasm"),
                    titled("application/vnd.wasm.content.layer.v1+data", "index.html"),
                ],
                "files beside its component, which it would not find (\"index.html\" of type",
            ),
            (vec![layer("application/vnd.example.CWASM")], "precompiled: application/vnd.example.CWASM"),
            (vec![layer(wasm), layer("application/vnd.wasm.precompiled.v1")], "precompiled:"),
        ] {
            let outcome = outcome(&manifest("application/vnd.wasm.config.v0+json", &layers));
            assert!(outcome.contains(says), "{layers:?}: {outcome}");
        }
        let many = outcome(&manifest("c", &vec![layer("text/plain"); 10_000]));
        assert!(many.len() < 200 && many.ends_with("and 9995 more)"), "{many}");
        let elsewhere = json!({"layers": [{"mediaType": wasm, "digest": "sha256:../../x", "size": 1}]});
        assert_eq!(outcome(&elsewhere), "its layer has no sha256 digest");
    }

    #[test]
    fn an_index_leads_to_one_manifest() {
        let entry = |size: u64, architecture: Option<&str>| {
            let mut entry = layer("application/vnd.oci.image.manifest.v1+json");
            entry["size"] = json!(size);
            if let Some(architecture) = architecture {
                entry["platform"] = json!({"os": "wasip2", "architecture": architecture});
            }
            entry
        };
        let mut attestation = entry(9, Some("unknown"));
        attestation["annotations"] = json!({ATTESTATION.0: ATTESTATION.1});
        let mut nested = entry(8, Some("wasm"));
        nested["mediaType"] = json!(INDEX_TYPES[0]);
        let mut loops = entry(7, None);
        loops["digest"] = json!("latest");
        let wasm = || entry(1, Some("wasm"));
        for (entries, want) in [
            (vec![entry(2, Some("amd64")), wasm()], Ok(1)),
            (vec![wasm(), attestation.clone()], Ok(1)),
            (vec![entry(3, None)], Ok(3)),
            (vec![entry(3, None), attestation], Ok(3)),
            (vec![entry(2, Some("amd64"))], Err("no entry for WebAssembly")),
            (vec![entry(3, None), entry(4, None)], Err("no entry for WebAssembly")),
            (vec![], Err("no entry for WebAssembly")),
            (vec![wasm(), wasm()], Err("2 entries for WebAssembly")),
            (vec![nested], Err("leads to another index")),
            (vec![loops], Err("not sha256")),
        ] {
            let index = read(&json!({"schemaVersion": 2, "manifests": entries}));
            match (index.entry(), want) {
                (Ok(Some(entry)), Ok(size)) => assert_eq!(entry.size, size),
                (Err(LayoutError::Index(why)), Err(says)) => assert!(why.contains(says), "{why}"),
                (Err(LayoutError::Malformed(why)), Err(says)) => assert!(why.contains(says), "{why}"),
                _ => panic!("{entries:?}: not {want:?}"),
            }
        }
        assert!(matches!(read(&manifest("c", &[])).entry(), Ok(None)));
        // One that calls itself a manifest.
        assert_eq!(outcome(&json!({"manifests": []})), "leads to another index");
    }
}
