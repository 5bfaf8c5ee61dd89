//! What connected shims are asked about one that is not, and who is ejected because nobody reaches it. In: an address,
//! a shim's answer, a verdict; out: the answer to whoever asked. Pure, but for the channel that carries the answer.

use std::{collections::HashSet, time::Duration};

use podless_link::v1;
use tokio::sync::oneshot;

use super::{SessionKey, Sessions};

impl Sessions {
    /// Asks a connected shim whether it reaches `address`. `None` when it is not connected; the receiver fails when it
    /// disconnects before it has answered.
    pub fn ask(&mut self, pod_uid: &str, address: &str, timeout: Duration) -> Option<oneshot::Receiver<bool>> {
        let shim = self.shims.get_mut(pod_uid).filter(|shim| shim.connected)?;
        self.last_probe += 1;
        let (answer, asked) = oneshot::channel();
        // Who has given up waiting is forgotten: a shim that does not know the question never answers.
        shim.asked.retain(|_, waiting| !waiting.is_closed());
        shim.asked.insert(self.last_probe, answer);
        shim.questions.push_back(v1::Probe {
            id: self.last_probe,
            address: address.to_owned(),
            timeout_millis: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        });
        shim.notify.notify_one();
        Some(asked)
    }

    /// A shim has answered. What it was not asked is not taken.
    pub fn answered(&mut self, key: &SessionKey, result: v1::ProbeResult) {
        let waiting = self.shim(key).and_then(|shim| shim.asked.remove(&result.id));
        if let Some(waiting) = waiting {
            // Whoever asked may have gone meanwhile.
            let _ = waiting.send(result.reachable);
        }
    }

    /// The shims that nobody reaches, by the uids of their pods. Answers whether that is news. Who has connected in the
    /// last moment is none of them.
    pub fn eject(&mut self, mut ejected: HashSet<String>) -> bool {
        ejected.retain(|uid| self.shims.get(uid).is_none_or(|shim| !shim.connected));
        let news = self.ejected != ejected;
        self.ejected = ejected;
        news
    }

    /// Whether the shim of this pod is ejected.
    pub fn is_ejected(&self, pod_uid: &str) -> bool {
        self.ejected.contains(pod_uid)
    }
}
