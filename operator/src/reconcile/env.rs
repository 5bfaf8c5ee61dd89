//! The environment of a component. In: `spec.env` and the objects that it names; out: names and values, or what is
//! missing. `read` is IO, the rest is pure. Values are never logged and never a part of a message.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{Api, Client};
use podless_crds::{EnvVar, EnvVarSource, KeyRef, WasmService};

/// Most bytes of names and values together: they travel in one message, and every shim keeps them in memory.
const MOST: usize = 1 << 20;

/// Names and values. Not shown by `{:?}`: a value may be a secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Env(Vec<(String, String)>);

impl Env {
    /// In the order of the spec.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// What a value can come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        })
    }
}

/// An object in the service's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

/// Why there is no environment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// The object is not there.
    #[error("env {variable:?}: {} {:?} is not in this namespace: create it, or set optional", from.kind, from.name)]
    Missing {
        /// The variable.
        variable: String,
        /// What it names.
        from: Source,
    },
    /// The object is there, the key is not.
    #[error("env {variable:?}: {} {:?} has no key {key:?}: add it, or set optional", from.kind, from.name)]
    NoKey {
        /// The variable.
        variable: String,
        /// What it names.
        from: Source,
        /// The key.
        key: String,
    },
    /// The value cannot be one.
    #[error("env {variable:?}: key {key:?} of {} {:?} is not text: a variable takes UTF-8 without zero bytes", from.kind, from.name)]
    NotText {
        /// The variable.
        variable: String,
        /// What it names.
        from: Source,
        /// The key.
        key: String,
    },
    /// It is too large.
    #[error("env has {0} bytes of names and values, {MOST} are possible: take out what the component does not need")]
    TooLarge(usize),
}

/// The data of the objects that were found; `None` for those that are not there.
pub type Found = BTreeMap<Source, Option<BTreeMap<String, Vec<u8>>>>;

fn reference(from: &EnvVarSource) -> Option<(Kind, &KeyRef)> {
    let map = from.config_map_key_ref.as_ref().map(|key| (Kind::ConfigMap, key));
    map.or_else(|| from.secret_key_ref.as_ref().map(|key| (Kind::Secret, key)))
}

/// What a service's environment names.
pub fn sources(service: &WasmService) -> BTreeSet<Source> {
    let env = &service.spec.revision.env;
    let references = env.iter().filter_map(|variable| reference(variable.value_from.as_ref()?));
    references.map(|(kind, key)| Source { kind, name: key.name.clone() }).collect()
}

/// Puts the environment together.
pub fn resolve(env: &[EnvVar], found: &Found) -> Result<Env, EnvError> {
    let mut all = vec![];
    for EnvVar { name, value, value_from } in env {
        let value = match value_from.as_ref().and_then(reference) {
            None => Some(value.clone()),
            Some((kind, key)) => value_of(name, kind, key, found)?,
        };
        all.extend(value.map(|value| (name.clone(), value)));
    }
    let size = all.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > MOST { Err(EnvError::TooLarge(size)) } else { Ok(Env(all)) }
}

fn value_of(variable: &str, kind: Kind, key: &KeyRef, found: &Found) -> Result<Option<String>, EnvError> {
    let from = Source { kind, name: key.name.clone() };
    let (variable, optional) = (variable.to_owned(), key.is_optional());
    let Some(data) = found.get(&from).and_then(Option::as_ref) else {
        return if optional { Ok(None) } else { Err(EnvError::Missing { variable, from }) };
    };
    let key = key.key.clone();
    let Some(value) = data.get(&key) else {
        return if optional { Ok(None) } else { Err(EnvError::NoKey { variable, from, key }) };
    };
    match String::from_utf8(value.clone()) {
        Ok(value) if !value.contains('\0') => Ok(Some(value)),
        _ => Err(EnvError::NotText { variable, from, key }),
    }
}

/// Reads what is named. IO.
pub async fn read(client: &Client, namespace: &str, sources: BTreeSet<Source>) -> Result<Found, kube::Error> {
    let maps = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
    let mut found = Found::new();
    for source in sources {
        let bytes = |data: BTreeMap<String, ByteString>| data.into_iter().map(|(key, value)| (key, value.0));
        let data = match source.kind {
            Kind::ConfigMap => maps.get_opt(&source.name).await?.map(|map| {
                let text = map.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
                text.chain(bytes(map.binary_data.unwrap_or_default())).collect()
            }),
            Kind::Secret => {
                secrets.get_opt(&source.name).await?.map(|secret| bytes(secret.data.unwrap_or_default()).collect())
            }
        };
        found.insert(source, data);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn variables(env: Value) -> Vec<EnvVar> {
        serde_json::from_value(env).expect("variables")
    }

    fn found() -> Found {
        let source = |kind, name: &str| Source { kind, name: name.into() };
        let data = BTreeMap::from([
            ("text".to_owned(), b"hush".to_vec()),
            ("binary".to_owned(), vec![0xff]),
            ("zero".to_owned(), b"a\0b".to_vec()),
            ("large".to_owned(), vec![b'x'; MOST]),
        ]);
        Found::from([
            (source(Kind::Secret, "s"), Some(data.clone())),
            (source(Kind::ConfigMap, "m"), Some(data)),
            (source(Kind::Secret, "gone"), None),
        ])
    }

    #[test]
    fn values_come_from_where_they_are_said_to() {
        let env = variables(json!([
            {"name": "PLAIN", "value": "p"},
            {"name": "EMPTY"},
            {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "text"}}},
            {"name": "MAP", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "text"}}},
            {"name": "NO_OBJECT", "valueFrom": {"secretKeyRef": {"name": "gone", "key": "a", "optional": true}}},
            {"name": "NO_KEY", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "a", "optional": true}}},
        ]));
        let env = resolve(&env, &found()).expect("an environment");
        let want = [("PLAIN", "p"), ("EMPTY", ""), ("SECRET", "hush"), ("MAP", "hush")];
        assert_eq!(env.iter().collect::<Vec<_>>(), want);
        assert!(!format!("{env:?}").contains("hush"), "values are not shown");
    }

    #[test]
    fn what_is_missing_is_named_and_values_are_not() {
        let secret =
            |name: &str, key: &str| json!([{"name": "V", "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}]);
        let map = |key: &str| json!([{"name": "V", "valueFrom": {"configMapKeyRef": {"name": "m", "key": key}}}]);
        for (env, want) in [
            (secret("gone", "a"), r#"env "V": Secret "gone" is not in this namespace: create it, or set optional"#),
            (secret("s", "a"), r#"env "V": Secret "s" has no key "a": add it, or set optional"#),
            (map("a"), r#"env "V": ConfigMap "m" has no key "a": add it, or set optional"#),
            (
                map("binary"),
                r#"env "V": key "binary" of ConfigMap "m" is not text: a variable takes UTF-8 without zero bytes"#,
            ),
            (
                secret("s", "zero"),
                r#"env "V": key "zero" of Secret "s" is not text: a variable takes UTF-8 without zero bytes"#,
            ),
            (
                secret("s", "large"),
                "env has 1048577 bytes of names and values, 1048576 are possible: take out what the component does not need",
            ),
        ] {
            let error = resolve(&variables(env), &found()).expect_err(want);
            assert_eq!(error.to_string(), want);
        }
    }

    #[test]
    fn each_object_is_read_once() {
        let spec = json!({"image": "r/a:1", "env": [
            {"name": "A", "value": "b"},
            {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "a"}}},
            {"name": "C", "valueFrom": {"secretKeyRef": {"name": "s", "key": "b"}}},
            {"name": "D", "valueFrom": {"configMapKeyRef": {"name": "s", "key": "b"}}},
        ]});
        let service = WasmService::new("s", serde_json::from_value(spec).expect("a spec"));
        let names: Vec<_> = sources(&service).into_iter().map(|s| format!("{} {}", s.kind, s.name)).collect();
        assert_eq!(names, ["ConfigMap s", "Secret s"]);
    }
}
