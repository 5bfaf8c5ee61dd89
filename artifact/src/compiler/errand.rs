//! What a child is told, and what it says. Pure.

use podless_engine::Recipe;
use serde::{Deserialize, Serialize};

use super::facts::{Facts, FactsError};

/// What a child is to do: its last argument, as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Errand {
    /// To go behind the walls, and say which of them stand.
    Walls,
    /// To say what the component on its stdin says of itself, and to compile it.
    Compile {
        /// What it may use.
        limits: Limits,
        /// What to make of it.
        recipe: Recipe,
    },
}

/// What a child may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Address space, in bytes. All children's together, with the operator's own memory, must fit into the container's
    /// limit: when the kernel kills for want of memory, it takes all processes of the container.
    pub memory_bytes: u64,
    /// Seconds of CPU.
    pub cpu_seconds: u64,
}

impl Default for Limits {
    /// Room for the largest components: 18 MB from Python take 13 s and 400 MB here.
    fn default() -> Self {
        Self { memory_bytes: 2 << 30, cpu_seconds: 60 }
    }
}

/// Which walls stand around a child; without the first none is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walls {
    /// System calls are filtered.
    pub seccomp: bool,
    /// The kernel's Landlock refuses files and sockets too: a second wall behind the filter.
    pub landlock: bool,
}

/// A line of JSON on the child's stdout.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The only one of who was asked for it: which walls stand.
    Walls(Walls),
    /// The first: what the component says of itself.
    Facts(Result<Facts, FactsError>),
    /// The second: this many bytes of machine code follow it.
    Code {
        /// Bytes.
        size: u64,
        /// How long the compilation took.
        millis: u64,
    },
    /// The second otherwise: why there is no machine code.
    Failed(String),
}
