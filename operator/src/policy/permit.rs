//! What a judgement means for a service. In: the judgement, the service, its build; out: the build that is gone on with.
//! Pure, but for the build that is asked for.

use podless_crds::WasmService;
use sha2::{Digest, Sha256};

use super::Judgement;
use crate::build::{BuildState, Phase, Pin};

/// Names the revision that policies let pass, or do not.
pub(crate) fn revision(service: &WasmService) -> String {
    // A spec that was read is always JSON.
    let revision = serde_json::to_vec(&service.spec.revision).unwrap_or_default();
    hex::encode(&Sha256::digest(revision)[..8])
}

/// The digest as which policies have let this revision pass before, as status says: no role of users may write that. Of a
/// tag it is what is pinned: whatever else it comes to mean is new to them.
pub(crate) fn permitted(service: &WasmService, pin: Option<&Pin>) -> Option<String> {
    let permitted = service.status.as_ref()?.permitted_revision.as_ref()?;
    let written = service.spec.revision.image.rsplit_once('@').map(|(_, digest)| digest);
    let digest = written.or(pin.map(|pin| pin.digest.as_str()))?;
    (*permitted == revision(service)).then(|| digest.to_owned())
}

impl Judgement {
    /// Asks for the artifact of what may run; of what may not, says why. What was `permitted` goes on, and nothing else that
    /// the same tag means; but for what is revoked.
    pub(crate) fn gate(&self, permitted: Option<&str>, ask: impl FnOnce() -> BuildState) -> BuildState {
        if self.unknown {
            return BuildState::Pending(Phase::Resolving);
        }
        let violation = self.violation();
        if let (Some(violation), None) = (&violation, permitted) {
            return BuildState::Rejected(violation.clone());
        }
        match ask() {
            BuildState::Ready(built) => {
                // The tag was looked up before this was forbidden.
                let new = violation.filter(|_| permitted != Some(built.digest.as_str()));
                match self.revokes(built.digests()).or(new) {
                    Some(refused) => BuildState::Rejected(refused),
                    None => BuildState::Ready(built),
                }
            }
            other => other,
        }
    }
}
