//! Which code goes when more is mapped than there is room for: what is mapped and how long ago it was asked for in, the
//! services to park out. What has not been used for longest goes first, and nothing that answers a request now. Pure, but
//! for doing it.

use std::{
    collections::HashMap,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use super::{Control, Serving};
use crate::node::Room;

/// What any mapped code takes of the heap and of copied pages, in bytes. Measured: 85 to 220 KB for code of 350 to 930 KB.
const BYTES: u64 = 64 << 10;
/// And for so many bytes of its file, one.
const PART: u64 = 8;
/// When there is too much, so much of the room is freed as well: one part in. Otherwise each that comes would drive out one.
const SLACK: u64 = 16;

/// A service whose code is mapped.
pub(super) struct Mapped<'a> {
    pub(super) uid: &'a str,
    /// Hash of the code.
    pub(super) code: &'a str,
    /// Size of its file, in bytes.
    pub(super) size: u64,
    /// Since when nothing has been asked of it.
    pub(super) idle: Duration,
    /// It answers a request.
    pub(super) busy: bool,
}

/// What there is of one code, whoever shares it.
struct Shared<'a> {
    uids: Vec<&'a str>,
    bytes: u64,
    idle: Duration,
    busy: bool,
}

/// Memory that mapped code takes, without what can be read from its file again.
pub(super) fn bytes_of(size: u64) -> u64 {
    BYTES + size / PART
}

/// The services to park, so that the rest has room; none when all has.
pub(super) fn over<'a>(mapped: impl Iterator<Item = Mapped<'a>>, room: Room) -> Vec<&'a str> {
    let mut codes: HashMap<&str, Shared<'a>> = HashMap::new();
    for Mapped { uid, code, size, idle, busy } in mapped {
        let new = || Shared { uids: vec![], bytes: bytes_of(size), idle, busy: false };
        let shared = codes.entry(code).or_insert_with(new);
        shared.uids.push(uid);
        shared.idle = shared.idle.min(idle);
        shared.busy |= busy;
    }
    let (mut bytes, mut count) = (codes.values().map(|code| code.bytes).sum::<u64>(), codes.len());
    if bytes <= room.bytes && count <= room.codes {
        return vec![];
    }
    let slack = |room: u64| room - room / SLACK;
    let (bytes_left, codes_left) = (slack(room.bytes), slack(room.codes as u64) as usize);
    let mut idle: Vec<_> = codes.into_values().filter(|code| !code.busy).collect();
    idle.sort_by(|a, b| b.idle.cmp(&a.idle).then_with(|| a.uids.cmp(&b.uids)));
    let mut parked = vec![];
    for code in idle {
        if bytes <= bytes_left && count <= codes_left {
            break;
        }
        (bytes, count) = (bytes - code.bytes, count - 1);
        parked.extend(code.uids);
    }
    parked
}

impl Control {
    /// Parks what has not been used for longest, when more code is mapped than there is room for.
    pub(super) fn make_room(&mut self, now: Instant) {
        let mapped = self.entries.iter().filter_map(|(uid, entry)| {
            let Serving { order, code: Some(_), .. } = entry.serving.as_ref()? else { return None };
            Some(Mapped {
                uid,
                code: &order.seal.code_sha256,
                size: order.seal.code_size,
                idle: entry.demand.idle(now),
                busy: entry.stats.in_flight.now() > 0,
            })
        });
        let over: Vec<_> = over(mapped, self.config.room).into_iter().map(str::to_owned).collect();
        if over.is_empty() {
            return;
        }
        tracing::info!(services = over.len(), "parked, because there is no room for more code: see --code-memory");
        self.config.shared.evictions.fetch_add(over.len() as u64, Relaxed);
        over.iter().for_each(|uid| self.park_one(uid));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mapped<'a>(uid: &'a str, code: &'a str, idle: u64, busy: bool) -> Mapped<'a> {
        Mapped { uid, code, size: 0, idle: Duration::from_secs(idle), busy }
    }

    #[test]
    fn the_longest_unused_goes_and_what_answers_stays() {
        let all = || [("a", 9, false), ("b", 50, false), ("c", 99, true), ("d", 20, false)];
        let of = |codes, bytes| {
            let all = all().map(|(uid, idle, busy)| mapped(uid, uid, idle, busy));
            over(all.into_iter(), Room { codes, bytes })
        };
        assert!(of(4, 4 * BYTES).is_empty(), "all have room");
        assert_eq!(of(3, u64::MAX), ["b"]);
        assert_eq!(of(9, 3 * BYTES), ["b", "d"], "and a little more than it must");
        assert_eq!(of(0, 0), ["b", "d", "a"], "never what answers");
    }

    #[test]
    fn who_shares_code_goes_together_or_not_at_all() {
        let of = |busy| {
            let all = [mapped("a", "x", 90, false), mapped("b", "x", 1, busy), mapped("c", "y", 50, false)];
            over(all.into_iter(), Room { codes: 0, bytes: u64::MAX })
        };
        assert_eq!(of(false), ["c", "a", "b"], "used a second ago by one of them");
        assert_eq!(of(true), ["c"]);
    }

    proptest! {
        #[test]
        fn what_stays_has_room_or_is_at_work(
            all in prop::collection::vec((0..40u8, 0..1_000_000u64, 0..100u64, any::<bool>()), 0..80),
            codes in 0..50usize,
            bytes in 0..20_000_000u64,
        ) {
            // One code has one size.
            let all: Vec<_> = all.into_iter().enumerate().map(|(n, (code, size, idle, busy))| {
                (n.to_string(), code.to_string(), size - size % 7 + u64::from(code), idle, busy)
            }).collect();
            let mut sizes = HashMap::new();
            for (_, code, size, ..) in &all {
                sizes.entry(code.as_str()).or_insert(*size);
            }
            let parked = over(all.iter().map(|(uid, code, _, idle, busy)| Mapped {
                uid, code, size: sizes[code.as_str()], idle: Duration::from_secs(*idle), busy: *busy,
            }), Room { codes, bytes });
            let stays: Vec<_> = all.iter().filter(|(uid, ..)| !parked.contains(&uid.as_str())).collect();
            prop_assert!(all.iter().all(|(uid, .., busy)| !busy || !parked.contains(&uid.as_str())));
            let left: HashMap<_, _> = stays.iter().map(|(_, code, ..)| (code.as_str(), bytes_of(sizes[code.as_str()]))).collect();
            let fits = left.len() <= codes && left.values().sum::<u64>() <= bytes;
            let at_work = |code: &str| all.iter().any(|(_, other, _, _, busy)| *busy && other == code);
            prop_assert!(fits || left.keys().all(|code| at_work(code)));
            prop_assert!(parked.is_empty() || sizes.len() > codes || sizes.values().map(|size| bytes_of(*size)).sum::<u64>() > bytes);
        }
    }
}
