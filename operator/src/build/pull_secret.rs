//! Credentials for registries. In: the names of secrets; out: who to log in as, and where. Values are never logged.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use podless_artifact::Login;
use serde::Deserialize;
use std::collections::BTreeMap;

const TYPE: &str = "kubernetes.io/dockerconfigjson";
const KEY: &str = ".dockerconfigjson";

/// Why a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PullSecretError {
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
    #[error("secret {0:?} cannot be read for now: {1}")]
    Api(String, kube::Error),
}

/// Reads all named secrets. IO.
pub(crate) async fn logins(client: &Client, namespace: &str, names: &[String]) -> Result<Vec<Login>, PullSecretError> {
    let api = Api::<Secret>::namespaced(client.clone(), namespace);
    let mut all = vec![];
    for name in names {
        let secret = api.get_opt(name).await.map_err(|e| PullSecretError::Api(name.clone(), e))?;
        let secret = secret.ok_or_else(|| PullSecretError::Missing(name.clone()))?;
        if secret.type_.as_deref() != Some(TYPE) {
            return Err(PullSecretError::Type(name.clone()));
        }
        let config = secret.data.and_then(|mut data| data.remove(KEY)).unwrap_or_default().0;
        all.extend(parse(&config).ok_or_else(|| PullSecretError::Malformed(name.clone()))?);
    }
    Ok(all)
}

#[derive(Deserialize)]
struct DockerConfig {
    auths: BTreeMap<String, Auth>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Auth {
    username: String,
    password: String,
    auth: String,
}

/// Reads a docker configuration; `None` when it is not one. Pure.
fn parse(config: &[u8]) -> Option<Vec<Login>> {
    let config: DockerConfig = serde_json::from_slice(config).ok()?;
    let logins = config.auths.into_iter().map(|(registry, Auth { username, password, auth })| {
        let host = registry.trim_start_matches("https://").trim_start_matches("http://");
        let host = host.split('/').next().unwrap_or_default();
        // Docker Hub is written under the name of its old index.
        let registry = if host == "index.docker.io" { "docker.io" } else { host }.to_owned();
        if !username.is_empty() {
            return Some(Login { registry, username, password });
        }
        let auth = String::from_utf8(BASE64.decode(auth.trim()).ok()?).ok()?;
        let (username, password) = auth.split_once(':')?;
        Some(Login { registry, username: username.to_owned(), password: password.to_owned() })
    });
    logins.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
