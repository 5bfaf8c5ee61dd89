//! Which of the shim's two engines runs a component. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The two engines. They differ in one setting, which machine code depends on: whether calls of one instance may go on
/// beside each other. It is a function of the component, and nobody chooses it, see docs/adr/0005.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavour {
    /// For components of WASI 0.2 alone: one call after the other, and each costs less.
    #[default]
    P2,
    /// For components that use something of WASI 0.3, or anything asynchronous of the component model.
    P3,
}

impl Flavour {
    /// Both.
    pub const ALL: [Self; 2] = [Self::P2, Self::P3];

    /// Its name, in seals and in machine code.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::P2 => "p2",
            Self::P3 => "p3",
        }
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
