//! Credentials for registries. In: the names of secrets; out: who to log in as, and where. Values are never logged.

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use podless_artifact::{DockerAuth, Login, most_specific_first};
use serde::Deserialize;
use std::collections::BTreeMap;

use crate::said;

const TYPE: &str = "kubernetes.io/dockerconfigjson";
const KEY: &str = ".dockerconfigjson";

/// Why a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PullSecretError {
    /// Nothing can have this name.
    #[error("{0:?}, named in imagePullSecrets, is no name of a secret: write lower-case letters, digits, '-' and '.'")]
    Name(String),
    /// It is not there.
    #[error("secret {0:?}, named in imagePullSecrets, is not in this namespace: create it, or take its name out")]
    Missing(String),
    /// It is something else.
    #[error("secret {0:?} is not of type {TYPE}: make it by `kubectl create secret docker-registry`")]
    Type(String),
    /// Its content is not what its type says.
    #[error("secret {0:?} does not hold credentials: make it by `kubectl create secret docker-registry`")]
    Malformed(String),
    /// The API server did not answer.
    #[error("secret {0:?} cannot be read for now: {said}", said = said::api(.1))]
    Api(String, kube::Error),
}

/// Reads all named secrets; the logins are in the order in which they are tried. IO.
pub(crate) async fn logins(client: &Client, namespace: &str, names: &[String]) -> Result<Vec<Login>, PullSecretError> {
    let api = Api::<Secret>::namespaced(client.clone(), namespace);
    let mut all = vec![];
    for name in names {
        // It becomes a part of the request's path.
        if !is_object_name(name) {
            return Err(PullSecretError::Name(name.clone()));
        }
        let secret = api.get_opt(name).await.map_err(|e| PullSecretError::Api(name.clone(), e))?;
        let secret = secret.ok_or_else(|| PullSecretError::Missing(name.clone()))?;
        if secret.type_.as_deref() != Some(TYPE) {
            return Err(PullSecretError::Type(name.clone()));
        }
        let config = secret.data.and_then(|mut data| data.remove(KEY)).unwrap_or_default().0;
        all.extend(parse(&config).ok_or_else(|| PullSecretError::Malformed(name.clone()))?);
    }
    most_specific_first(&mut all);
    Ok(all)
}

/// Whether an object may have this name: a DNS-1123 subdomain.
fn is_object_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let label =
        |label: &str| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(inner);
    name.len() <= 253 && name.split('.').all(label)
}

#[derive(Deserialize)]
struct DockerConfig {
    auths: BTreeMap<String, DockerAuth>,
}

/// Reads a docker configuration; `None` when it is not one. Pure.
pub(super) fn parse(config: &[u8]) -> Option<Vec<Login>> {
    let config: DockerConfig = serde_json::from_slice(config).ok()?;
    let mut logins: Vec<_> =
        config.auths.into_iter().map(|(registry, auth)| auth.login(&registry)).collect::<Option<_>>()?;
    most_specific_first(&mut logins);
    Some(logins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_become_a_part_of_a_path() {
        for name in ["a", "pull-secret", "a.b-c.0", &"a".repeat(253)] {
            assert!(is_object_name(name), "{name}");
        }
        let path = "x/../../../other/secrets/y";
        for name in ["", ".", "..", "a.", "-a", "a-", "A", "a_b", "a b", "é", "?watch=true", path, &"a".repeat(254)] {
            assert!(!is_object_name(name), "{name}");
        }
    }

    #[test]
    fn the_api_servers_sentence_is_told_alone() {
        let status = kube::core::Status::failure("secrets \"x\" is forbidden", "Forbidden").with_code(403).boxed();
        let error = PullSecretError::Api("x".into(), kube::Error::Api(status));
        assert_eq!(error.to_string(), "secret \"x\" cannot be read for now: secrets \"x\" is forbidden");
    }

    #[test]
    fn dockers_ways_to_write_it() {
        let config = br#"{"auths": {
            "registry.example:5000": {"username": "u", "password": "p"},
            "https://index.docker.io/v1/": {"auth": "dTI6cDpy"}
        }}"#;
        let mut logins = parse(config).expect("a docker config");
        logins.sort_by(|a, b| a.registry.cmp(&b.registry));
        let read: Vec<_> =
            logins.iter().map(|l| (l.registry.as_str(), l.username.as_str(), l.password.as_str())).collect();
        assert_eq!(read, [("docker.io", "u2", "p:r"), ("registry.example:5000", "u", "p")]);
    }

    #[test]
    fn what_is_not_one_is_refused() {
        for config in ["", "{}", "[]", r#"{"auths": {"r": {}}}"#, r#"{"auths": {"r": {"auth": "%%"}}}"#] {
            assert!(parse(config.as_bytes()).is_none(), "{config}");
        }
    }
}
