//! From an image reference to sealed machine code: `pipeline` has the steps, a file each, `seal` is what both ends know.

pub mod seal;

#[cfg(feature = "pipeline")]
mod pipeline;
#[cfg(feature = "pipeline")]
pub use pipeline::*;
