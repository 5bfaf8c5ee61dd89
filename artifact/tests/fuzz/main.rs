//! What strangers send, made up at random beside what was worth keeping (`corpus/`, a line each): it is read or refused,
//! and says so in a sentence. `make fuzz` has more of it than `make test-unit`, `make soak` much more.

#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

mod manifest;
mod reference;
