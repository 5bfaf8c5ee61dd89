//! Pushing a component. In: a file and a reference; out: an OCI artifact in a registry. IO.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use podless_artifact::{ImageReference, Login, push};

use crate::progress;

/// Who to log in as.
#[derive(Debug, clap::Args)]
pub(crate) struct Registry {
    /// Speaks HTTP without TLS to the registry.
    #[arg(long)]
    pub(crate) plain_http: bool,
    /// User, when the registry wants one.
    #[arg(long, env = "REGISTRY_USERNAME", requires = "password")]
    username: Option<String>,
    /// The user's password or token: give it by the environment.
    #[arg(long, env = "REGISTRY_PASSWORD", hide_env_values = true, requires = "username")]
    password: Option<String>,
}

impl Registry {
    /// Who to log in as for an image.
    pub(crate) fn login(&self, image: &str) -> Result<Option<Login>> {
        let registry = ImageReference::parse(image, None)?.registry().to_owned();
        let pair = self.username.clone().zip(self.password.clone());
        Ok(pair.map(|(username, password)| Login { registry, username, password }))
    }
}

/// Pushes a component.
#[derive(Debug, clap::Args)]
pub(crate) struct Push {
    /// The component, a .wasm file.
    file: PathBuf,
    /// Where to, as in registry.example.com/hello:1.0
    image: String,
    #[command(flatten)]
    registry: Registry,
}

impl Push {
    pub(crate) async fn run(self) -> Result<()> {
        let component = fs::read(&self.file).with_context(|| format!("reading {}", self.file.display()))?;
        let bar = progress::start(1, format!("pushing {}", self.image));
        let login = self.registry.login(&self.image)?;
        let digest = push(component, &self.image, login, self.registry.plain_http).await?;
        bar.finish_and_clear();
        crate::say(&digest);
        Ok(())
    }
}
