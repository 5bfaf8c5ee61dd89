//! Whom the shim believes: the mounted `podless-trust` in, the link's CA and the seal's public keys out. IO. Read anew
//! whenever it is needed, so a rotated key is seen as soon as the kubelet has written it.

use std::{io, path::Path};

use podless_artifact::seal::{SealError, TrustedKeys, trust_name};
use podless_link::{TRUST_CA, TRUST_SEAL};

/// The public halves of the operator's keys.
pub(crate) struct Trust {
    /// Certificate authority of the link, PEM.
    pub(crate) ca: String,
    /// Keys that seals and assignments are signed with.
    pub(crate) keys: TrustedKeys,
    /// Name of all this, by which the operator sees that it has arrived.
    pub(crate) name: String,
}

/// Why there is nobody to believe.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    /// A file is not there.
    #[error("{0} cannot be read: is the ConfigMap podless-trust mounted? {1}")]
    Read(String, io::Error),
    /// The keys are none.
    #[error("{TRUST_SEAL} has no usable key: {0}")]
    Key(#[from] SealError),
}

/// Reads the mounted ConfigMap.
pub(crate) fn read(dir: &Path) -> Result<Trust, TrustError> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read_to_string(&path).map_err(|error| TrustError::Read(path.display().to_string(), error))
    };
    let (ca, seals) = (read(TRUST_CA)?, read(TRUST_SEAL)?);
    Ok(Trust { keys: TrustedKeys::from_pem(&seals)?, name: trust_name(&ca, &seals), ca })
}
