//! The whole pipeline against a real registry, against registries that mean ill, and with children that do.
//!
//! Needs what the Makefile sets: `PODLESS_TEST_REGISTRY_BIN` (the program with a registry in it) and
//! `PODLESS_TEST_ARTIFACTS` (the folder with the built guests).

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "tests")]

mod bombs;
mod child;
mod file;
mod flips;
mod formats;
mod hostile;
mod hostile_layers;
mod kept;
mod mirrors;
mod refusals;
mod registries;
mod signatures;
mod support;
mod targets;
mod way;
