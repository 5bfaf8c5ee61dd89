//! What the shim is measured beside: each a process on the same core with the same work. IO.
//!
//! Native servers are built by the Makefile, `wasmtime serve` is built from its crate; Spin and wash are no packages: who
//! has them names them by SPIN and WASH. How each is started is in e2e/peers.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use super::{
    guests::{CRUD, CRUD_P3},
    process::Process,
    shim::address,
};

/// A server that runs.
pub(crate) struct Peer {
    /// What it is called in tables.
    pub(crate) name: &'static str,
    pub(crate) port: u16,
    pub(crate) process: Process,
}

/// Names of peers.
pub(crate) const AXUM: &str = "axum";
pub(crate) const HYPER: &str = "hyper";
pub(crate) const SERVE: &str = "wasmtime serve, 0.2";
pub(crate) const SERVE_P3: &str = "wasmtime serve, 0.3";

/// Starts those that there are; says which are left out.
pub(crate) async fn start(core: usize) -> Result<Vec<Peer>> {
    let mut peers = vec![native(AXUM, "crud-axum", 9001, core).await?, native(HYPER, "crud-hyper", 9002, core).await?];
    for (name, script, program, component, port) in [
        (SERVE, "wasmtime-serve", "WASMTIME", CRUD.component()?, 9003),
        (SERVE_P3, "wasmtime-serve-p3", "WASMTIME", CRUD_P3.component()?, 9004),
        ("Spin, 0.2", "spin", "SPIN", CRUD.component()?, 9005),
        ("wash, 0.2", "wash", "WASH", CRUD.component()?, 9006),
    ] {
        if env::var_os(program).is_none_or(|path| path.is_empty()) {
            eprintln!("left out: {name} ({program}=… names its program)");
            continue;
        }
        let mut command = Command::new(folder("PEERS")?.join(script));
        command.arg(component).arg(address(port).to_string());
        let mut process = Process::start(name, Some(core), command).await?;
        process.listens(address(port)).await?;
        peers.push(Peer { name, port, process });
    }
    Ok(peers)
}

/// The example crud as a native server.
pub(crate) async fn native(name: &'static str, program: &str, port: u16, core: usize) -> Result<Peer> {
    let mut command = Command::new(folder("PEERS_BUILT")?.join(program));
    command.arg(address(port).to_string());
    let mut process = Process::start(name, Some(core), command).await?;
    process.listens(address(port)).await?;
    Ok(Peer { name, port, process })
}

fn folder(name: &str) -> Result<PathBuf> {
    Ok(env::var_os(name).with_context(|| format!("{name} is not set: run this by `make bench`"))?.into())
}
