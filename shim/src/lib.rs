//! The shim: serves a node's components over HTTP.
//!
//! `control` (one thread) learns what to serve, verifies, maps and links it; `serve` (all cores) answers requests and
//! never waits for `control`; what guests find around them is a crate of its own, `podless-host`.

mod admin;
pub mod cli;
mod control;
mod drain;
mod engine;
pub mod local;
mod memory;
mod metrics;
mod node;
pub mod run;
mod serve;
mod shared;
pub mod supervise;
