//! What machine code is made for: an architecture, and of x86-64 a micro-architecture level. Pure, but for
//! [`Target::best`], which asks this machine's CPU.
//!
//! There is no x86-64-v4: what Cranelift does with AVX-512 are a few vector operations, and each target is one more
//! compilation of every component. Such nodes run x86-64-v3.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What machine code is made for. The order is that in which they are compiled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Target {
    /// x86-64 with AVX2: every server since 2013.
    #[default]
    #[serde(rename = "x86-64-v3")]
    X86_64V3,
    /// x86-64 with SSE4.2: older ones, and virtual machines that hide what they have.
    #[serde(rename = "x86-64-v2")]
    X86_64V2,
    /// 64-bit ARM, the least that there is of it.
    #[serde(rename = "aarch64")]
    Aarch64,
}

/// There is no target of this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownTarget(String);

impl fmt::Display for UnknownTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Target::ALL.map(Target::as_str).join(", ");
        write!(f, "{:?} is no target: it is one of {names}", self.0)
    }
}

impl std::error::Error for UnknownTarget {}

impl Target {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::X86_64V3, Self::X86_64V2, Self::Aarch64];

    /// Its name, in seals, in status and in flags.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::X86_64V3 => "x86-64-v3",
            Self::X86_64V2 => "x86-64-v2",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Its triple.
    pub const fn triple(self) -> &'static str {
        match self {
            Self::X86_64V3 | Self::X86_64V2 => "x86_64-unknown-linux-gnu",
            Self::Aarch64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// Cranelift's names of the CPU features that the code may use. They are named because a named target switches off
    /// the inference, and a cluster's nodes may differ from the operator's.
    pub const fn cpu_features(self) -> &'static [&'static str] {
        const V3: [&str; 11] = [
            "has_sse3",
            "has_ssse3",
            "has_sse41",
            "has_sse42",
            "has_popcnt",
            "has_avx",
            "has_avx2",
            "has_bmi1",
            "has_bmi2",
            "has_lzcnt",
            "has_fma",
        ];
        match self {
            Self::X86_64V3 => &V3,
            // The level before has the first five.
            Self::X86_64V2 => V3.split_at(5).0,
            Self::Aarch64 => &[],
        }
    }

    /// The best one that this machine's CPU runs; `None`: it runs none.
    #[cfg(target_arch = "x86_64")]
    pub fn best() -> Option<Self> {
        use std::arch::is_x86_feature_detected as has;
        let v2 = has!("sse3") && has!("ssse3") && has!("sse4.1") && has!("sse4.2") && has!("popcnt");
        let v3 = v2 && has!("avx") && has!("avx2") && has!("bmi1") && has!("bmi2") && has!("lzcnt") && has!("fma");
        match (v2, v3) {
            (_, true) => Some(Self::X86_64V3),
            (true, false) => Some(Self::X86_64V2),
            (false, false) => None,
        }
    }

    /// The best one that this machine's CPU runs; `None`: it runs none.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn best() -> Option<Self> {
        cfg!(target_arch = "aarch64").then_some(Self::Aarch64)
    }

    /// Whether a machine whose best target is `best` runs code of this one.
    pub fn runs_on(self, best: Self) -> bool {
        self == best || (self, best) == (Self::X86_64V2, Self::X86_64V3)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Target {
    type Err = UnknownTarget;

    fn from_str(name: &str) -> Result<Self, UnknownTarget> {
        Self::ALL.into_iter().find(|target| target.as_str() == name).ok_or_else(|| UnknownTarget(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_no_others() {
        for target in Target::ALL {
            assert_eq!(target.to_string().parse(), Ok(target));
        }
        let unknown = "x86-64-v4".parse::<Target>().expect_err("no target").to_string();
        assert_eq!(unknown, r#""x86-64-v4" is no target: it is one of x86-64-v3, x86-64-v2, aarch64"#);
    }

    #[test]
    fn a_machine_runs_what_its_cpu_has() {
        use Target::{Aarch64, X86_64V2, X86_64V3};
        for target in Target::ALL {
            assert!(target.runs_on(target));
        }
        assert!(X86_64V2.runs_on(X86_64V3));
        assert!(!X86_64V3.runs_on(X86_64V2) && !Aarch64.runs_on(X86_64V3) && !X86_64V2.runs_on(Aarch64));
        assert!(X86_64V3.cpu_features().starts_with(X86_64V2.cpu_features()));
        assert_eq!(
            Target::best().map(Target::triple).map(|triple| triple.split('-').next()),
            Some(std::env::consts::ARCH.into())
        );
    }
}
