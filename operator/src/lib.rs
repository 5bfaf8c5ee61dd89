//! The operator: from WasmService objects to artifacts, placements, endpoints and status.
//!
//! `reconcile` is the pipeline of one service; `link` is the other end of the shims' sessions; `build` makes artifacts
//! off the reconciler's way; `schedule` and `ports` decide without IO; `run` wires them behind a Lease. The operator
//! never runs a guest, and its own process never parses a guest's bytes.

pub mod admin;
pub mod autoscale;
pub mod build;
pub mod check_link;
pub mod cli;
pub mod eject;
pub mod hosts;
pub mod inventory;
mod keep;
pub mod leader;
pub mod ledger;
pub mod link;
pub mod link_slice;
pub mod metrics;
pub mod moves;
pub mod namespaces;
pub mod nodes;
pub mod policy;
pub mod ports;
pub mod rebalance;
pub mod reconcile;
pub mod recover;
pub mod run;
mod said;
pub mod schedule;
pub mod shims;
pub mod sources;
pub mod tombstone;
pub mod trust;
pub mod wake;
