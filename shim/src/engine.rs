//! The engine, started: what this machine allows in, an engine whose epochs tick and how many instances fit out. IO: a
//! thread of its own.

use anyhow::{Context, anyhow};
use podless_engine::{Pool, runner};
use wasmtime::Engine;

use crate::{
    node::{self, Capacity, Limits},
    serve::epoch,
};

/// Starts an engine for as many instances as were asked for, or as this machine allows.
pub(crate) fn start(asked: Option<u32>, limits: Limits) -> anyhow::Result<(Engine, Capacity)> {
    let capacity = node::capacity(asked, limits);
    let pool = Pool { instances: capacity.instances, pagemap_scan: !limits.swap };
    let engine = runner(pool).map_err(|error| anyhow!("{error:#}")).context("the engine cannot be started")?;
    epoch::start(&engine)?;
    Ok((engine, capacity))
}
