//! When keys change. In: the keys, what somebody asked for, whether shims have had their time, the time; out: the keys
//! as they should be. No IO but for random bytes.

use std::time::SystemTime;

use super::keys::{KeyError, Keys};

/// What somebody asks to have made anew, by the annotation `podless.dev/rotate` of the Secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// The link's certificate.
    pub(super) tls: bool,
    /// The authority, and with it the certificate.
    pub(super) ca: bool,
    /// The seal key.
    pub(super) seal: bool,
}

impl Asked {
    /// Reads `tls`, `ca` and `seal`, with commas between them; other words are the second half.
    pub(super) fn read(text: &str) -> (Self, Vec<&str>) {
        let (mut asked, mut unknown) = (Self::default(), vec![]);
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word {
                "tls" => asked.tls = true,
                "ca" => asked.ca = true,
                "seal" => asked.seal = true,
                other => unknown.push(other),
            }
        }
        (asked, unknown)
    }

    /// Whether shims must learn of it first.
    fn is_slow(self) -> bool {
        self.ca || self.seal
    }
}

/// What has turned.
#[derive(Clone)]
pub(super) struct Turn {
    /// The keys from now on.
    pub(super) keys: Keys,
    /// What is in use anew.
    pub(super) made: Vec<&'static str>,
    /// What was asked for has begun: the wish can go.
    pub(super) heard: bool,
}

/// One look. `settled` says that what is published now has been for long enough.
pub(super) fn turn(
    keys: &Keys,
    asked: Asked,
    settled: bool,
    dns_name: &str,
    now: SystemTime,
) -> Result<Turn, KeyError> {
    let mut turn = Turn { keys: keys.clone(), made: vec![], heard: true };
    if keys.is_changing() {
        // One change after another.
        turn.heard = !asked.is_slow();
        if settled {
            let (ca, seal) = turn.keys.advance(dns_name, now)?;
            turn.made.extend([ca.then_some("ca"), ca.then_some("tls"), seal.then_some("seal")].into_iter().flatten());
        }
    } else {
        let old = keys.is_old(now);
        turn.keys.announce(asked.ca || old, asked.seal || old, now)?;
    }
    if asked.tls && turn.heard || !turn.keys.is_fresh(dns_name, now) {
        turn.keys.renew(dns_name, now)?;
        turn.made.push("tls");
    }
    Ok(turn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NAME: &str = "podless-link.podless.svc";

    #[test]
    fn nothing_happens_unasked_before_its_time_and_then_step_after_step() {
        let now = SystemTime::now();
        let keys = Keys::generate(NAME, now).expect("keys");
        let look = |keys: &Keys, asked: &str, settled, days: u64| {
            let at = now + Duration::from_secs(days * 86_400);
            turn(keys, Asked::read(asked).0, settled, NAME, at).expect("no error")
        };
        let same = look(&keys, "", true, 1);
        assert!(same.keys == keys && same.made.is_empty());
        assert_eq!(look(&keys, "", true, 300).made, ["tls"], "in the last third of its life");
        assert_eq!(look(&keys, "tls", false, 1).made, ["tls"], "by hand, at once");

        let announced = look(&keys, "seal", true, 1);
        assert!(announced.keys.is_changing() && announced.heard && announced.made.is_empty());
        let waits = look(&announced.keys, "ca", false, 1);
        assert!(waits.keys == announced.keys && !waits.heard, "shims have not had their time; the next waits its turn");
        let used = look(&announced.keys, "ca", true, 1);
        assert_eq!((used.made.as_slice(), used.heard), (&["seal"][..], false));
        let over = look(&used.keys, "ca", true, 1);
        assert!(!over.keys.is_changing() && over.made.is_empty() && !over.heard);
        let next = look(&over.keys, "ca", false, 1);
        assert!(next.keys.is_changing() && next.heard);
        assert_eq!(look(&next.keys, "", true, 1).made, ["ca", "tls"]);
        assert!(look(&keys, "", false, 731).keys.is_changing(), "by age");
    }

    #[test]
    fn wishes_are_read_and_what_is_none_is_told() {
        let all = Asked { tls: true, ca: true, seal: true };
        assert_eq!(Asked::read("tls, ca,seal"), (all, vec![]));
        assert_eq!(Asked::read(""), (Asked::default(), vec![]));
        assert_eq!(Asked::read("seal,everything").1, ["everything"]);
    }
}
