//! What machine code of a component is made for, and how: with the component's digest, the name of what is made. Pure.

use serde::{Deserialize, Serialize};

use crate::{CompilerOptions, Target, fingerprint};

/// What is made of a component.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Recipe {
    /// For which machines.
    pub target: Target,
    /// How.
    pub options: CompilerOptions,
}

impl Recipe {
    /// Of the engine that runs it.
    pub fn fingerprint(self) -> String {
        fingerprint(self.target)
    }
}
