//! The shim as it is shipped: its program, a process of its own, with the chart's defaults. IO.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::{operator::Operator, process::Process};

/// Where `/readyz` and `/metrics` are.
const ADMIN: u16 = 8081;

/// A shim that serves.
pub(crate) struct Shim {
    /// Its supervisor.
    pub(crate) process: Process,
    _volumes: tempfile::TempDir,
}

impl Shim {
    /// Starts it with empty volumes on this core, or on all. What the chart does not say, nobody says here.
    pub(crate) async fn start(operator: &Operator, core: Option<usize>) -> Result<Self> {
        operator.forget();
        let program = built("podless-shim")?;
        let volumes = tempfile::tempdir()?;
        let (data, state) = (volumes.path().join("data"), volumes.path().join("state"));
        for folder in [&data, &state] {
            fs::create_dir(folder)?;
        }
        let mut command = Command::new(program);
        command
            .args(["--operator", &format!("https://localhost:{}", operator.address.port())])
            .arg("--token-file")
            .arg(operator.folder.path().join("token"))
            .arg("--trust-dir")
            .arg(operator.trust().as_ref())
            .arg("--data-dir")
            .arg(data)
            .arg("--state-dir")
            .arg(state)
            .args(["--admin-port", &ADMIN.to_string(), "--shared-port", "8000"])
            .env("RUST_LOG", "info");
        let mut process = Process::start("the shim", core, command).await?;
        process.until(operator.greeted(1)).await?;
        Ok(Self { process, _volumes: volumes })
    }
}

/// Where `/metrics` is.
pub(crate) fn admin() -> SocketAddr {
    address(ADMIN)
}

/// Where a service answers.
pub(crate) fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A program that `make build` built.
pub(crate) fn built(name: &str) -> Result<PathBuf> {
    let folder = env::var_os("PROFILE_DIR").context("PROFILE_DIR is not set: run this by `make bench`")?;
    let program = PathBuf::from(folder).join(name);
    ensure!(program.exists(), "{} is not there: run this by `make bench`", program.display());
    Ok(program)
}
