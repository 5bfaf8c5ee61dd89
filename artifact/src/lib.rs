//! From an image reference to sealed machine code: `pipeline` has the steps, a file each, `compiler` what a child of its
//! own does of them, `seal` is what both ends know.

pub mod address;
pub mod seal;

#[cfg(any(feature = "pipeline", feature = "compile"))]
mod compiler;
#[cfg(any(feature = "pipeline", feature = "compile"))]
pub use compiler::*;
#[cfg(feature = "pipeline")]
mod pipeline;
#[cfg(feature = "pipeline")]
pub use pipeline::*;
