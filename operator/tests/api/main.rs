//! The reconciler against a real API server, with artifacts and shims that are only said to be. Needs KUBECONFIG of a
//! cluster that is there for tests. One test after another: each operator reconciles every namespace, and two at once
//! would undo each other's work.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod env;
mod hosts;
mod link;
mod many;
mod named;
mod operator;
mod place;
mod policy;
mod replaced;
mod scale;
mod slices;
mod states;
mod strangers;
mod targets;
