//! Who is slower than the others. In: what answers take on each shim, by service; out: by how much each is slower than
//! the others that serve the same. Pure.
//!
//! Nobody is compared with fewer than two others, nor with the quicker of two: so no single shim that says wrong things of
//! itself, and none that has nothing to do, makes another look slow. Only what happened at the same time is compared: what
//! slows all of them down condemns none.

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
    for all in services.into_values() {
        for (index, window) in all.iter().filter(|(_, window)| window.until > since) {
            let others = all.iter().filter(|(other, theirs)| other != index && overlap(window, theirs));
            if let Some(one) = beside(window, others.map(|(_, theirs)| *theirs).collect()) {
                compared.entry(*index).or_default().push((window.requests(), one));
            }
        }
    }
    compared.into_iter().filter_map(|(index, all)| Some((shims[index].pod_uid.as_str(), median(all)?))).collect()
}

fn overlap(a: &Window, b: &Window) -> bool {
    a.from < b.until && b.from < a.until
}

/// One service on one shim beside the others that have it, if they are enough.
fn beside(window: &Window, mut others: Vec<&Window>) -> Option<Compared> {
    if others.len() < OTHERS {
        return None;
    }
    // The median of the others; of two in the middle the slower one. Who answers nothing is the slowest.
    let middle = others.len() / 2;
    let order = |a: &&Window, b: &&Window| a.is_stalled().cmp(&b.is_stalled()).then(a.micros.total_cmp(&b.micros));
    let (_, theirs, _) = others.select_nth_unstable_by(middle, order);
    // As many may wait for what all of them wait for.
    let alike = window.is_stalled() && (theirs.is_stalled() || window.waiting < theirs.waiting.saturating_mul(2));
    let slower = !alike && window.micros - theirs.micros >= NOTICEABLE;
    let ratio = if slower { window.micros / theirs.micros.max(1.0) } else { 1.0 };
    Some(Compared { ratio, micros: window.micros, theirs: theirs.micros, others: others.len(), from: window.from })
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

    /// So many answers of so many milliseconds, while so many wait, in three seconds.
    fn window(generation: i64, answered: u64, waiting: u64, millis: f64, from: Instant) -> Window {
        Window { generation, answered, waiting, micros: millis * 1e3, from, until: from + Duration::from_secs(3) }
    }

    /// What is newer than this, compared: ratios, 0 for who is not.
    fn newer(since: Instant, shims: impl IntoIterator<Item = HashMap<String, Window>>) -> Vec<f64> {
        let measured = |(i, windows): (usize, _)| Measured { pod_uid: i.to_string(), windows };
        let all: Vec<_> = shims.into_iter().enumerate().map(measured).collect();
        let compared = compare(&all, since);
        all.iter().map(|shim| compared.get(shim.pod_uid.as_str()).map_or(0.0, |one| one.ratio)).collect()
    }

    /// Services with requests and milliseconds, by shim; compared: ratios, 0 for who is not.
    fn ratios(shims: &[&[(&str, u64, f64)]]) -> Vec<f64> {
        let start = Instant::now();
        let window = |&(service, requests, millis): &(&str, u64, f64)| {
            let (service, generation) = service.split_once('@').unwrap_or((service, "1"));
            (service.to_owned(), window(generation.parse().expect("a generation"), requests, 0, millis, start))
        };
        let all = || shims.iter().map(|windows| windows.iter().map(window).collect());
        assert!(newer(start + Duration::from_secs(3), all()).iter().all(|ratio| *ratio == 0.0), "nothing is newer");
        newer(start, all())
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

    /// One service on each shim: answers, those that wait, milliseconds, the second in which the window begins.
    fn at(shims: &[(u64, u64, f64, u64)]) -> Vec<f64> {
        let start = Instant::now();
        let one = |&(answered, waiting, millis, second): &(u64, u64, f64, u64)| {
            let from = start + Duration::from_secs(second);
            HashMap::from([("s".to_owned(), window(1, answered, waiting, millis, from))])
        };
        newer(start, shims.iter().map(one))
    }

    #[test]
    fn who_answers_nothing_is_compared_with_those_that_answer() {
        let (stalled, good) = ((0, 30, 3000.0, 0), (100, 5, 5.0, 0));
        assert_eq!(at(&[stalled, good, good]), [600.0, 1.0, 1.0]);
        assert_eq!(at(&[stalled, (0, 10, 2500.0, 0), (0, 10, 2500.0, 0)]), [1.0; 3], "what all of them need is gone");
        assert_eq!(at(&[stalled, stalled, good]), [1.0; 3]);
        assert_eq!(at(&[stalled, stalled, good, good, good]), [600.0, 600.0, 1.0, 1.0, 1.0]);
        let waits = (100, 20, 5.0, 0);
        assert_eq!(at(&[stalled, waits, waits]), [1.0; 3], "clients wait for news everywhere");
        assert_eq!(at(&[(0, 30, 3000.0, 0), (100, 5, 2000.0, 0), (100, 5, 2000.0, 0)]), [1.5, 1.0, 1.0]);
    }

    #[test]
    fn only_what_happened_at_the_same_time_is_compared() {
        let (slow, before) = ((100, 0, 50.0, 3), (100, 0, 5.0, 0));
        assert_eq!(at(&[slow, before, before]), [0.0; 3], "all may be slow by now");
        assert_eq!(at(&[slow, before, (100, 0, 5.0, 1)]), [0.0, 0.0, 1.0]);
        assert_eq!(at(&[slow, (100, 0, 5.0, 1), (100, 0, 5.0, 5)])[0], 10.0);
        assert_eq!(at(&[slow, (100, 0, 5.0, 6), (100, 0, 5.0, 7)])[0], 0.0);
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
