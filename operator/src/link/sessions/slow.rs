//! How quickly connected shims answer, and who is slow. In: what they count of services that they are to serve, a
//! verdict; out: windows that can be compared, and the verdict to whoever plans; see `eject`. Pure.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use podless_link::v1;

use super::{SessionKey, Sessions};
use crate::eject::{Look, Measured, Slow};

impl Sessions {
    /// A shim has counted. What it has not loaded yet, or has left, is not looked at.
    pub fn paced(&mut self, key: &SessionKey, load: &v1::Load, now: Instant) {
        let Some(shim) = self.shims.get_mut(&key.pod_uid).filter(|shim| shim.session == key.session) else { return };
        for said in &load.services {
            let uid = &said.service_uid;
            let Some((assigned, pace)) = self.services.get(uid).zip(said.pace) else { continue };
            let serves = assigned.budgets.contains_key(&key.pod_uid);
            if serves && shim.known.get(uid) == Some(&assigned.generation) {
                let look = Look { begun: said.requests, said: pace, at: now };
                shim.pace.told(uid, assigned.content.service_generation, look);
            }
        }
    }

    /// What connected shims have answered of late.
    pub fn measured(&mut self, now: Instant) -> Vec<Measured> {
        let connected = self.shims.iter_mut().filter(|(_, shim)| shim.connected);
        connected.map(|(uid, shim)| Measured { pod_uid: uid.clone(), windows: shim.pace.windows(now) }).collect()
    }

    /// The pods of the shims that are to serve anything.
    pub fn serving(&self) -> HashSet<String> {
        self.services.values().flat_map(|assigned| assigned.budgets.keys()).cloned().collect()
    }

    /// The shims that are slow, by the uids of their pods. Answers whether that is news.
    pub fn slow_down(&mut self, slow: HashMap<String, Slow>) -> bool {
        if self.slow == slow {
            return false;
        }
        for (uid, shim) in &mut self.shims {
            shim.pardoned = !slow.contains_key(uid) && (shim.pardoned || self.slow.contains_key(uid));
        }
        self.slow = slow;
        true
    }

    /// Why the shim of this pod gets no new connections for a while, if it does not.
    pub fn slow(&self, pod_uid: &str) -> Option<&Slow> {
        self.slow.get(pod_uid)
    }
}
