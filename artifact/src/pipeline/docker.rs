//! Logins as Docker's configuration has them, in a pull secret or in a user's home: entries in, logins out, and which of
//! them are for an image. Pure. What the kubelet does with `imagePullSecrets` is done here too: hosts may have
//! wildcards, and an entry may be for a part of a registry only.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::Deserialize;

/// Who to log in as at one registry, or at a part of it.
#[derive(Clone)]
pub struct Login {
    /// Host, with its port if there is one, as image references have it, and perhaps the beginning of a repository:
    /// `registry.example:5000/team`. In a part of the host between dots, `*` and `?` stand for anything.
    pub registry: String,
    /// User.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({} at {})", self.username, self.registry)
    }
}

impl Login {
    /// Whether it is for this repository. The kubelet takes `r/team` for `r/teams` as well; here a name ends where it ends.
    pub fn is_for(&self, registry: &str, repository: &str) -> bool {
        let (host, path) = self.registry.split_once('/').unwrap_or((&self.registry, ""));
        let rest = repository.strip_prefix(path.trim_end_matches('/'));
        let is_part = rest.is_some_and(|rest| path.is_empty() || rest.is_empty() || rest.starts_with('/'));
        let same_parts = host.split('.').count() == registry.split('.').count();
        let registry = registry.to_ascii_lowercase();
        let mut parts = host.split('.').zip(registry.split('.'));
        is_part && same_parts && parts.all(|(glob, part)| is_match(glob.as_bytes(), part.as_bytes()))
    }
}

/// `*` stands for any text and `?` for a character, but neither for the colon before a port.
fn is_match(glob: &[u8], text: &[u8]) -> bool {
    match (glob, text) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => {
            is_match(rest, text)
                || text.split_first().is_some_and(|(first, more)| *first != b':' && is_match(glob, more))
        }
        ([b'?', rest @ ..], [first, more @ ..]) => *first != b':' && is_match(rest, more),
        ([one, rest @ ..], [other, more @ ..]) => one == other && is_match(rest, more),
        _ => false,
    }
}

/// The order in which logins are tried: a longer path before a shorter one, a name before a wildcard. Those for the same
/// place stay as they are.
pub fn most_specific_first(logins: &mut [Login]) {
    logins.sort_by(|a, b| b.registry.cmp(&a.registry));
}

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

/// A registry of Docker's configuration as image references have it, with the path that the entry is for.
pub fn docker_registry(name: &str) -> String {
    let name = name.trim_start_matches("https://").trim_start_matches("http://");
    let (host, path) = name.split_once('/').unwrap_or((name, ""));
    // The path of the protocol's old and new version means the whole registry.
    let path = ["v1", "v2"].iter().find_map(|version| path.strip_prefix(version)).filter(is_rest).unwrap_or(path);
    let path = path.trim_matches('/');
    // Docker Hub is written under the name of its old index.
    let host = if host == "index.docker.io" { "docker.io".to_owned() } else { host.to_ascii_lowercase() };
    if path.is_empty() { host } else { format!("{host}/{path}") }
}

fn is_rest(rest: &&str) -> bool {
    rest.is_empty() || rest.starts_with('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(registry: &str) -> Login {
        Login { registry: docker_registry(registry), username: "u".into(), password: "p".into() }
    }

    #[test]
    fn what_an_entry_is_for() {
        for (entry, registry, repository, want) in [
            ("registry.example", "registry.example", "a", true),
            ("https://Registry.example/v2/", "registry.example", "team/a", true),
            ("https://index.docker.io/v1/", "docker.io", "library/a", true),
            ("registry.example", "registry.example:5000", "a", false),
            ("registry.example:5000", "registry.example:5000", "a", true),
            ("registry.example/team", "registry.example", "team/a", true),
            ("registry.example/team/", "registry.example", "team/a", true),
            ("registry.example/team", "registry.example", "team", true),
            ("registry.example/team", "registry.example", "teams/a", false),
            ("registry.example/v1/team", "registry.example", "team/a", true),
            ("registry.example/v1s", "registry.example", "v1s/a", true),
            ("registry.example/team/a", "registry.example", "team/b", false),
            ("*.example.com", "eu.example.com", "a", true),
            ("*.example.com", "example.com", "a", false),
            ("*.example.com", "a.b.example.com", "a", false),
            ("eu?.example.com/x", "eu1.example.com", "x/a", true),
            ("eu-*-1.example.com", "eu-west-1.example.com", "a", true),
            ("*.example.com:5000", "eu.example.com:5000", "a", true),
            ("*.example.com", "eu.example.com:5000", "a", false),
            ("*", "localhost:5000", "a", false),
            ("*", "localhost", "a", true),
        ] {
            assert_eq!(login(entry).is_for(registry, repository), want, "{entry} for {registry}/{repository}");
        }
    }

    #[test]
    fn the_more_specific_one_comes_first() {
        let names = ["*.example", "r.example", "r.example/team/a", "r.example/team", "r.example"];
        let mut logins: Vec<_> = names.map(login).to_vec();
        logins[4].username = "second".into();
        most_specific_first(&mut logins);
        let order: Vec<_> = logins.iter().map(|login| (&*login.registry, &*login.username)).collect();
        let want = [("r.example/team/a", "u"), ("r.example/team", "u"), ("r.example", "u"), ("r.example", "second")];
        assert_eq!((&order[..4], order[4]), (&want[..], ("*.example", "u")));
    }
}
