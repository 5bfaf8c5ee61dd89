//! Logins as Docker's configuration has them, in a pull secret or in a user's home: an entry in, a login out. Pure.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::Deserialize;

use super::registry::Login;

/// An entry of `auths` in Docker's configuration.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct DockerAuth {
    username: String,
    password: String,
    /// Both, with a colon between them, in base64.
    auth: String,
}

impl DockerAuth {
    /// Whether it holds nothing: how Docker notes that a helper has it.
    pub fn is_empty(&self) -> bool {
        self.username.is_empty() && self.auth.is_empty()
    }

    /// The login at the registry that the entry is for; `None` when it is none.
    pub fn login(self, registry: &str) -> Option<Login> {
        let registry = docker_registry(registry);
        if !self.username.is_empty() {
            return Some(Login { registry, username: self.username, password: self.password });
        }
        let auth = String::from_utf8(BASE64.decode(self.auth.trim()).ok()?).ok()?;
        let (username, password) = auth.split_once(':')?;
        Some(Login { registry, username: username.to_owned(), password: password.to_owned() })
    }
}

/// A registry of Docker's configuration as image references have it.
pub fn docker_registry(name: &str) -> String {
    let host = name.trim_start_matches("https://").trim_start_matches("http://");
    let host = host.split('/').next().unwrap_or_default();
    // Docker Hub is written under the name of its old index.
    if host == "index.docker.io" { "docker.io".to_owned() } else { host.to_owned() }
}
