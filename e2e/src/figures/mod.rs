//! What the benchmarks share: their command line, the machine that they ran on, numbers of many measurements, and charts.

pub mod command;
pub mod machine;
pub mod plot;
pub mod stats;

pub use machine::Machine;
