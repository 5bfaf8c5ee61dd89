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
    /// As fast as the shims learn of it: a key has leaked.
    pub(super) at_once: bool,
}

impl Asked {
    /// Reads `tls`, `ca` and `seal`, with commas between them, and `!` after those that are in a hurry; other words are the
    /// second half.
    pub(super) fn read(text: &str) -> (Self, Vec<&str>) {
        let (mut asked, mut unknown) = (Self::default(), vec![]);
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let name = word.strip_suffix('!');
            asked.at_once |= name.is_some();
            match name.unwrap_or(word) {
                "tls" => asked.tls = true,
                "ca" => asked.ca = true,
                "seal" => asked.seal = true,
                _ => unknown.push(word),
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
        if settled {
            let (ca, seal) = turn.keys.advance(dns_name, now)?;
            turn.made.extend([ca.then_some("ca"), ca.then_some("tls"), seal.then_some("seal")].into_iter().flatten());
        }
        // One change after another. A hurry lasts until its own is over.
        let over = asked.at_once && keys.changes(asked.ca, asked.seal) && !turn.keys.is_changing();
        turn.heard = !asked.is_slow() || over;
    } else {
        let old = keys.is_old(now);
        turn.keys.announce(asked.ca || old, asked.seal || old, now)?;
        turn.heard = !(asked.is_slow() && asked.at_once);
    }
    if asked.tls && turn.heard || !turn.keys.is_fresh(dns_name, now) {
        turn.keys.renew(dns_name, now)?;
        turn.made.push("tls");
    }
    Ok(turn)
}

/// What is due at the start, before anything can be asked for: a wish stays for the first look.
pub(super) fn at_start(keys: &Keys, dns_name: &str, now: SystemTime) -> Result<Turn, KeyError> {
    Ok(Turn { heard: false, ..turn(keys, Asked::default(), false, dns_name, now)? })
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
    fn a_hurry_lasts_until_the_leaked_key_is_forgotten() {
        let now = SystemTime::now();
        let keys = Keys::generate(NAME, now).expect("keys");
        let look = |keys: &Keys, settled| turn(keys, Asked::read("seal!").0, settled, NAME, now).expect("no error");
        let announced = look(&keys, true);
        assert!(announced.keys.is_changing() && !announced.heard, "another leader has to know of it");
        let used = look(&announced.keys, true);
        assert_eq!((used.made.as_slice(), used.heard), (&["seal"][..], false));
        let waits = look(&used.keys, false);
        assert!(waits.keys == used.keys && !waits.heard);
        let over = look(&used.keys, true);
        assert!(!over.keys.is_changing() && over.heard);

        // The authority is being changed: that comes first, and then what was asked for.
        let other = turn(&keys, Asked::read("ca").0, true, NAME, now).expect("no error").keys;
        let used = look(&other, true);
        let over = look(&used.keys, true);
        assert!(!over.keys.is_changing() && !over.heard);
        assert!(look(&over.keys, true).keys.is_changing());
    }

    #[test]
    fn what_is_due_at_the_start_leaves_a_wish_for_the_first_look() {
        let now = SystemTime::now();
        let keys = Keys::generate(NAME, now).expect("keys");
        let due = at_start(&keys, NAME, now + Duration::from_secs(300 * 86_400)).expect("no error");
        assert_eq!((due.made.as_slice(), due.heard), (&["tls"][..], false));
    }

    #[test]
    fn wishes_are_read_and_what_is_none_is_told() {
        let all = Asked { tls: true, ca: true, seal: true, at_once: false };
        assert_eq!(Asked::read("tls, ca,seal"), (all, vec![]));
        assert_eq!(Asked::read(""), (Asked::default(), vec![]));
        assert_eq!(Asked::read("seal,everything").1, ["everything"]);
        assert_eq!(Asked::read("tls,ca!, seal").0, Asked { at_once: true, ..all });
        assert_eq!(Asked::read("seal!,!").1, ["!"]);
    }
}
