//! Who to log in as: Docker's configuration in, logins out. `read` is IO, `parse` is pure. Helpers are not asked:
//! that would run programs that a file names.

use std::{collections::BTreeMap, env, fs, io, path::PathBuf};

use podless_artifact::{DockerAuth, ImageReference, Login, docker_registry, most_specific_first};
use serde::Deserialize;

use crate::failure::Failure;

/// Logins, and what is known of those that are elsewhere.
#[derive(Debug, Default)]
pub(crate) struct Logins {
    /// Those that the file itself has.
    pub(crate) known: Vec<Login>,
    /// The helper for all registries.
    store: Option<String>,
    /// Helpers by registry.
    helpers: BTreeMap<String, String>,
}

impl Logins {
    /// Who to log in as at the registry of this image.
    pub(crate) fn of(&self, image: &ImageReference) -> Option<&Login> {
        self.known.iter().find(|login| login.is_for(image.registry(), image.repository()))
    }

    /// What to say when the registry of this image refuses, if a helper might have known better.
    pub(crate) fn hint(&self, image: &str) -> Option<String> {
        let image = ImageReference::parse(image, None).ok()?;
        let helper = self.helpers.get(image.registry()).or(self.store.as_ref())?;
        self.of(&image).is_none().then(|| {
            format!(
                "credentials for {} are kept by docker-credential-{helper}, and credential helpers are not asked: log in \
                 with a DOCKER_CONFIG folder whose config.json names none",
                image.registry()
            )
        })
    }
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    auths: BTreeMap<String, DockerAuth>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

/// Reads `config.json` in `$DOCKER_CONFIG`, or `~/.docker`; a file that is not there has no logins.
pub(crate) fn read() -> Result<Logins, Failure> {
    let folder = env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let Some(folder) = folder.or_else(|| env::home_dir().map(|home| home.join(".docker"))) else {
        return Ok(Logins::default());
    };
    let path = folder.join("config.json");
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Logins::default()),
        Err(error) => return Err(Failure::environment(format!("cannot read {}: {error}", path.display()))),
        Ok(text) => text,
    };
    // Nothing of the file is repeated: it holds passwords.
    parse(&text).ok_or_else(|| {
        Failure::mistake(
            "CredentialsInvalid",
            format!("{} is not Docker's configuration: mend it, or log in anew", path.display()),
        )
    })
}

fn parse(text: &[u8]) -> Option<Logins> {
    let Config { auths, creds_store, cred_helpers } = serde_json::from_slice(text).ok()?;
    let mut known = vec![];
    for (registry, auth) in auths.into_iter().filter(|(_, auth)| !auth.is_empty()) {
        known.push(auth.login(&registry)?);
    }
    most_specific_first(&mut known);
    let helpers = cred_helpers.into_iter().map(|(registry, helper)| (docker_registry(&registry), helper)).collect();
    Some(Logins { known, store: creds_store.filter(|store| !store.is_empty()), helpers })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_ways_to_write_it() {
        let config = br#"{"auths": {
            "registry.example:5000": {"username": "u", "password": "p"},
            "https://index.docker.io/v1/": {"auth": "dTI6cDpy"},
            "kept.example": {}
        }, "credsStore": "desktop", "credHelpers": {"cloud.example": "gcloud"}, "HttpHeaders": {}}"#;
        let logins = parse(config).expect("a configuration");
        let read: Vec<_> =
            logins.known.iter().map(|l| (l.registry.as_str(), l.username.as_str(), l.password.as_str())).collect();
        assert_eq!(read, [("registry.example:5000", "u", "p"), ("docker.io", "u2", "p:r")]);
        assert!(logins.hint("cloud.example/a:1").is_some_and(|hint| hint.contains("docker-credential-gcloud")));
        assert!(logins.hint("kept.example/a:1").is_some_and(|hint| hint.contains("docker-credential-desktop")));
        assert_eq!(logins.hint("registry.example:5000/a:1"), None);
        assert_eq!(parse(b"{}").expect("empty").hint("kept.example/a:1"), None);
    }

    #[test]
    fn what_is_not_one_is_refused() {
        for config in ["", "5", r#"{"auths": {"r": {"auth": "%%"}}}"#, r#"{"auths": {"r": {"auth": "bm9jb2xvbg=="}}}"#]
        {
            assert!(parse(config.as_bytes()).is_none(), "{config}");
        }
    }
}
