//! From an image reference to sealed machine code, one file a step:
//! `reference → resolve → pull → audit → compile → seal`.
//!
//! Each step takes the type of the one before it and only that, so no step can be skipped. Audit and compile parse
//! untrusted bytes: they run in a one-shot child process (`child`, `sandbox`).

pub mod seal;
