//! The program itself: what it serves, what it prints, and the code that it ends with.
//!
//! Needs what the Makefile sets: `PODLESS_TEST_ARTIFACTS` (the folder with the built guests) and
//! `PODLESS_TEST_REGISTRY_BIN` (the program with a registry in it).

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "tests")]

mod look;
mod mistakes;
mod registry;
mod serve;
mod support;
