//! Who is slower than the others. In: what answers take on each shim, by service; out: by how much each is slower than
//! the others that serve the same. Pure.
//!
//! Nobody is compared with fewer than two others, nor with the quicker of two: so no single shim that says wrong things of
//! itself, and none that has nothing to do, makes another look slow.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    time::Instant,
};

use super::pace::Window;

/// Others that must have answered the same service.
const OTHERS: usize = 2;
/// Longer by less than this, in microseconds, is not slower: with what takes little, any other work is in the way.
const NOTICEABLE: f64 = 2000.0;

/// What a shim has answered of late.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Uid of its pod.
    pub pod_uid: String,
    /// Its latest windows, by service.
    pub windows: HashMap<String, Window>,
}

/// A shim beside the others.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// How many times as long its answers take.
    pub ratio: f64,
    /// What an answer takes, in microseconds, of the service that stands for all.
    pub micros: f64,
    /// What the others take for it.
    pub theirs: f64,
    /// How many they are.
    pub others: usize,
    /// When the earliest of what is compared began.
    pub(super) from: Instant,
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ratio, micros, theirs, others, from: _ } = self;
        let (own, theirs) = (micros / 1e3, theirs / 1e3);
        write!(f, "{ratio:.0} times slower than {others} others: {own:.1} ms for what takes them {theirs:.1} ms")
    }
}

/// Compares each shim that has something newer than `since` to say, by the uids of the pods. Over its services that others
/// have as well, the median counts, weighed by requests: it is slow when most of its requests are.
pub(super) fn compare(shims: &[Measured], since: Instant) -> HashMap<&str, Compared> {
    let mut services: BTreeMap<_, Vec<(usize, &Window)>> = BTreeMap::new();
    for (index, shim) in shims.iter().enumerate() {
        for (uid, window) in &shim.windows {
            services.entry((uid.as_str(), window.generation)).or_default().push((index, window));
        }
    }
    let mut compared: BTreeMap<usize, Vec<(u64, Compared)>> = BTreeMap::new();
    for mut all in services.into_values().filter(|all| all.len() > OTHERS) {
        all.sort_by(|(_, a), (_, b)| a.micros.total_cmp(&b.micros));
        let others = all.len() - 1;
        for (place, (index, window)) in all.iter().enumerate().filter(|(_, (_, window))| window.until > since) {
            // The median of the others; of two in the middle the slower one.
            let middle = if others / 2 < place { others / 2 } else { others / 2 + 1 };
            let theirs = all[middle].1.micros;
            let slower = window.micros - theirs >= NOTICEABLE;
            let ratio = if slower { window.micros / theirs.max(1.0) } else { 1.0 };
            let one = Compared { ratio, micros: window.micros, theirs, others, from: window.from };
            compared.entry(*index).or_default().push((window.requests, one));
        }
    }
    compared.into_iter().filter_map(|(index, all)| Some((shims[index].pod_uid.as_str(), median(all)?))).collect()
}

/// The one in the middle, each counted as often as it has requests.
fn median(mut all: Vec<(u64, Compared)>) -> Option<Compared> {
    all.sort_by(|(_, a), (_, b)| a.ratio.total_cmp(&b.ratio));
    let from = all.iter().map(|(_, one)| one.from).min()?;
    let total: u128 = all.iter().map(|(requests, _)| u128::from(*requests)).sum();
    let mut seen = 0;
    let middle = all.into_iter().find(|(requests, _)| {
        seen += u128::from(*requests);
        seen * 2 >= total
    });
    middle.map(|(_, one)| Compared { from, ..one })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Services with requests and milliseconds, by shim; compared: ratios, 0 for who is not.
    fn ratios(shims: &[&[(&str, u64, f64)]]) -> Vec<f64> {
        let start = Instant::now();
        let until = start + Duration::from_secs(3);
        let window = |&(service, requests, millis): &(&str, u64, f64)| {
            let (service, generation) = service.split_once('@').unwrap_or((service, "1"));
            let generation = generation.parse().expect("a generation");
            (service.to_owned(), Window { generation, requests, micros: millis * 1e3, from: start, until })
        };
        let all: Vec<_> = shims
            .iter()
            .enumerate()
            .map(|(i, windows)| Measured { pod_uid: i.to_string(), windows: windows.iter().map(window).collect() })
            .collect();
        assert!(compare(&all, until).is_empty(), "nothing is newer");
        let compared = compare(&all, start);
        (0..shims.len()).map(|i| compared.get(i.to_string().as_str()).map_or(0.0, |one| one.ratio)).collect()
    }

    #[test]
    fn a_shim_is_compared_with_the_slower_of_two_and_with_the_middle_of_more() {
        let of = |millis: &[f64]| {
            let shims: Vec<_> = millis.iter().map(|&millis| [("s", 100, millis)]).collect();
            ratios(&shims.iter().map(|shim| &shim[..]).collect::<Vec<_>>())
        };
        assert_eq!(of(&[50.0]), [0.0]);
        assert_eq!(of(&[50.0, 5.0]), [0.0, 0.0], "which of two is right?");
        assert_eq!(of(&[50.0, 5.0, 4.0]), [10.0, 1.0, 1.0]);
        assert_eq!(of(&[50.0, 0.01, 50.0]), [1.0, 1.0, 1.0], "one that is idle, or lies");
        assert_eq!(of(&[60.0, 5.0, 6.0, 8.0]), [10.0, 1.0, 1.0, 1.3333333333333333]);
        assert_eq!(of(&[60.0, 5.0, 6.0, 8.0, 60.0]), [7.5, 1.0, 1.0, 1.0, 7.5]);
        assert_eq!(of(&[40.0, 40.0, 40.0, 40.0]), [1.0; 4]);
        assert_eq!(of(&[2.2, 0.3, 0.3]), [1.0; 3], "nobody notices");
        assert_eq!(of(&[3.0, 0.3, 0.3]), [10.0, 1.0, 1.0]);
    }

    #[test]
    fn only_the_same_is_compared_and_most_requests_decide() {
        assert_eq!(ratios(&[&[("s@2", 100, 50.0)], &[("s@1", 100, 5.0)], &[("s@1", 100, 5.0)]]), [0.0; 3]);
        let fast: &[_] = &[("a", 100, 5.0), ("b", 100, 20.0)];
        assert_eq!(ratios(&[&[("a", 10, 50.0), ("b", 100, 20.0)], fast, fast]), [1.0; 3]);
        assert_eq!(ratios(&[&[("a", 300, 50.0), ("b", 100, 20.0)], fast, fast]), [10.0, 1.0, 1.0]);
        assert_eq!(ratios(&[&[("a", 100, 50.0), ("b", 100, 20.0)], fast, fast]), [1.0; 3], "half is not most");
        assert_eq!(ratios(&[&[("own", 9999, 500.0), ("a", 100, 50.0)], fast, fast])[0], 10.0, "what only it has");
    }

    proptest! {
        #[test]
        fn whatever_one_says_of_itself_it_makes_no_other_slow(
            honest in vec((1.0..2.0f64, 10..1000u64), 2..8),
            (own, requests, place) in (0.0..1e9f64, 10..u64::MAX, 0..8usize),
        ) {
            let mut shims: Vec<_> = honest.iter().map(|(millis, requests)| [("s", *requests, millis * 10.0)]).collect();
            let place = place.min(shims.len());
            shims.insert(place, [("s", requests, own)]);
            let mut ratios = ratios(&shims.iter().map(|shim| &shim[..]).collect::<Vec<_>>());
            ratios.remove(place);
            prop_assert!(ratios.iter().all(|ratio| *ratio <= 2.0), "{ratios:?}");
        }
    }
}
