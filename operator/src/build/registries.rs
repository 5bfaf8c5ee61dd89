//! How registries are reached, and who asks by default: the command line in, the pipeline's options and logins out. IO:
//! the files that it names. What is in none of these files is logged, as they hold passwords.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use podless_artifact::{Authorities, AuthoritiesError, Login, Proxies, RegistryOptions};

use super::pull_secret;
use crate::cli::RegistryArgs;

/// Why the operator cannot start so.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistriesError {
    /// A file that cannot be read.
    #[error("{flag} {}: {error}", .file.display())]
    File {
        /// Which flag names it.
        flag: &'static str,
        /// The file.
        file: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// A file with something else than certificates.
    #[error("--registry-ca-file {}: {error}", .file.display())]
    Authorities {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        error: AuthoritiesError,
    },
    /// A file with something else than logins.
    #[error(
        "--registry-config {}: it does not hold credentials: make the secret by `kubectl create secret docker-registry`",
        .0.display()
    )]
    Logins(PathBuf),
}

/// Reads all that is said about registries.
pub(crate) fn options(args: &RegistryArgs) -> Result<RegistryOptions, RegistriesError> {
    let authorities = args.registry_ca_file.as_deref().map(|file| {
        let bundle = read("--registry-ca-file", file)?;
        Authorities::parse(&bundle).map_err(|error| RegistriesError::Authorities { file: file.to_owned(), error })
    });
    Ok(RegistryOptions {
        plain_http: args.plain_http_registries.clone(),
        authorities: authorities.transpose()?.unwrap_or_default(),
        mirrors: args.registry_mirrors.clone(),
        allowed_hosts: args.registry_allowed_hosts.clone(),
        any_host: false,
        proxies: Proxies::from_variables(|name| env::var(name).ok()),
    })
}

/// Whether an operator can work so.
pub(crate) fn check(args: &RegistryArgs) -> anyhow::Result<()> {
    podless_artifact::Pipeline::check(options(args)?)?;
    DefaultLogins::new(args)?;
    Ok(())
}

fn read(flag: &'static str, file: &Path) -> Result<Vec<u8>, RegistriesError> {
    fs::read(file).map_err(|error| RegistriesError::File { flag, file: file.to_owned(), error })
}

/// The logins that are for every service: a file, which is read whenever they are needed, as it changes with its Secret.
#[derive(Debug)]
pub(super) struct DefaultLogins {
    file: Option<PathBuf>,
    /// Those that it had when it was read last.
    last: Mutex<Arc<[Login]>>,
}

impl DefaultLogins {
    /// Reads the file for the first time.
    pub(super) fn new(args: &RegistryArgs) -> Result<Self, RegistriesError> {
        let file = args.registry_config.clone();
        let logins = file.as_deref().map(Self::read).transpose()?.unwrap_or_default();
        Ok(Self { file, last: Mutex::new(logins.into()) })
    }

    fn read(file: &Path) -> Result<Vec<Login>, RegistriesError> {
        let config = read("--registry-config", file)?;
        pull_secret::parse(&config).ok_or_else(|| RegistriesError::Logins(file.to_owned()))
    }

    /// What the file has now; when it cannot be read, what it had.
    pub(super) fn now(&self) -> Arc<[Login]> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match self.file.as_deref().map(Self::read) {
            None => {}
            Some(Ok(logins)) => *last = logins.into(),
            Some(Err(error)) => tracing::warn!(%error, "the default credentials stay as they were"),
        }
        last.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(logins: &DefaultLogins) -> Vec<String> {
        logins.now().iter().map(|login| login.registry.clone()).collect()
    }

    #[test]
    fn what_is_in_the_file_counts_and_a_broken_one_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config.json");
        let entry = |registry: &str| format!(r#"{{"auths": {{"{registry}": {{"username": "u", "password": "p"}}}}}}"#);
        let args = RegistryArgs { registry_config: Some(file.clone()), ..RegistryArgs::default() };
        let missing = DefaultLogins::new(&args).expect_err("no file").to_string();
        assert!(missing.contains("--registry-config") && missing.contains("config.json"), "{missing}");
        fs::write(&file, "no JSON").expect("written");
        assert!(DefaultLogins::new(&args).expect_err("no logins").to_string().contains("docker-registry"));

        fs::write(&file, entry("one.example")).expect("written");
        let logins = DefaultLogins::new(&args).expect("logins");
        assert_eq!(names(&logins), ["one.example"]);
        fs::write(&file, entry("two.example")).expect("written");
        assert_eq!(names(&logins), ["two.example"]);
        fs::write(&file, "no JSON").expect("written");
        assert_eq!(names(&logins), ["two.example"]);
        assert!(names(&DefaultLogins::new(&RegistryArgs::default()).expect("none")).is_empty());
    }

    #[test]
    fn a_bad_bundle_is_named_with_its_block() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ca.crt");
        let read = |text: &str| {
            fs::write(&file, text).expect("written");
            let args = RegistryArgs { registry_ca_file: Some(file.clone()), ..RegistryArgs::default() };
            options(&args).expect_err("refused").to_string()
        };
        for (text, says) in [
            ("", "no certificate is in it"),
            ("-----BEGIN CERTIFICATE-----\n%%\n-----END CERTIFICATE-----\n", "block 1 is no certificate"),
        ] {
            let message = read(text);
            assert!(message.contains("ca.crt") && message.contains(says) && !message.contains('\n'), "{message}");
        }
    }
}
