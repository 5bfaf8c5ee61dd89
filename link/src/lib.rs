//! The contract between the operator and its shims: the messages of `proto/link.proto`, the bytes that are signed, the
//! buckets of its histograms, and the scale that nodes are compared on. No IO.

/// The generated messages, client and server.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("podless.link.v1");
}

pub mod histogram;
pub mod pace;

/// Audience of the token that a shim shows to the operator.
pub const AUDIENCE: &str = "podless-link";
/// Name of the Service through which shims reach the leader, and DNS name in its certificate.
pub const LINK_SERVICE: &str = "podless-link";
/// Name of the ConfigMap with the public halves of the operator's keys.
pub const TRUST_CONFIG_MAP: &str = "podless-trust";
/// Key in `podless-trust`: the certificate authority of the link, PEM.
pub const TRUST_CA: &str = "ca.crt";
/// Key in `podless-trust`: the seal's public keys, one PEM block each; any of them is trusted.
pub const TRUST_SEAL: &str = "seal.pub";
/// What is signed before the bytes of an Assignment, so that no other signature can stand for one.
pub const ASSIGNMENT_CONTEXT: &[u8] = b"podless assignment v1\0";
/// Why requests are turned away or ended that are in order themselves: what shims count for the operator.
pub const SHED: [&str; 10] = [
    "not-loaded",
    "busy",
    "namespace-busy",
    "node-busy",
    "memory",
    "timeout",
    "trapped",
    "not-started",
    "no-answer",
    "response-too-large",
];
/// Longest note that comes with an artifact, in bytes; a longer one is left out.
pub const NOTE_BYTES: usize = 1 << 20;
/// Service ports: outside the range of ephemeral ports that the shim's pod sets (50000 to 60999).
pub const SERVICE_PORTS: std::ops::RangeInclusive<u16> = 20000..=49999;
