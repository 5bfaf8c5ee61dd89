//! The real shim as a process on loopback: real machine code, real TLS, an operator that sends what each test wants.
#![expect(clippy::expect_used, clippy::panic, reason = "a test ends where something is not as it should be")]

mod client;
mod cpu;
mod damage;
mod density;
mod given;
mod hosts;
mod http;
mod life;
mod limits;
mod operator;
mod outbound;
mod pace;
mod parked;
mod process;
mod reuse;
mod serve;
mod spread;
mod storm;
mod supervise;
mod swap;
mod targets;
