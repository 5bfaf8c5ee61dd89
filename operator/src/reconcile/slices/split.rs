//! Which slice each endpoint is in. In: the pods that are endpoints, and which is in which slice now; out: the same as it
//! is to be. Pure.
//!
//! Whatever is in a slice stays in it, so that one that comes or goes changes one slice. Endpoints move only when there
//! are many fewer than the slices were made for.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

/// Most endpoints of a slice, as Kubernetes' own controller has it.
pub(super) const MOST: usize = 100;
/// Places that are free when endpoints have moved into fewer slices: the next one to come must not need another again.
const SPARE: usize = 10;

/// Uids of pods by the number of their slice.
pub(super) type Members<'a> = BTreeMap<u32, BTreeSet<&'a str>>;

/// Decides. The first slice is always there, further ones while they have endpoints. `free` says which numbers new ones
/// may have.
pub(super) fn split<'a>(pods: &BTreeSet<&'a str>, before: &Members<'_>, free: impl Fn(u32) -> bool) -> Members<'a> {
    let mut left = pods.clone();
    let mut slices = Members::from([(1, BTreeSet::new())]);
    for (number, members) in before {
        let stay: BTreeSet<_> = left.iter().filter(|pod| members.contains(**pod)).take(MOST).copied().collect();
        left.retain(|pod| !stay.contains(pod));
        slices.insert(*number, stay);
    }

    let fits_fewer = |slices: &Members<'_>| pods.len() + SPARE <= MOST * (slices.len() - 1);
    while let Some(smallest) = smallest_further(&slices).filter(|_| fits_fewer(&slices)) {
        left.extend(slices.remove(&smallest).unwrap_or_default());
    }

    // What is written anyway is filled first: the first one, which says where everything is, and who has lost some.
    let untouched = |number: u32, members: &BTreeSet<&str>| number != 1 && before.get(&number) == Some(members);
    let mut by_need: Vec<_> = slices.iter_mut().collect();
    by_need.sort_by_key(|(number, members)| (untouched(**number, members), **number));
    for (_, members) in by_need {
        fill(members, &mut left);
    }
    for number in (2..).filter(|number| free(*number)) {
        if left.is_empty() {
            break;
        }
        fill(slices.entry(number).or_default(), &mut left);
    }
    slices.retain(|number, members| *number == 1 || !members.is_empty());
    slices
}

fn smallest_further(slices: &Members<'_>) -> Option<u32> {
    let further = slices.iter().filter(|(number, _)| **number != 1);
    further.min_by_key(|(number, members)| (members.len(), Reverse(**number))).map(|(number, _)| *number)
}

fn fill<'a>(members: &mut BTreeSet<&'a str>, left: &mut BTreeSet<&'a str>) {
    while members.len() < MOST
        && let Some(pod) = left.pop_first()
    {
        members.insert(pod);
    }
}

/// Whether a slice gives endpoints that stay to another: it is written after that one.
pub(super) fn gives_away(number: u32, before: &Members<'_>, after: &Members<'_>) -> bool {
    let stays = |pod: &&&str| after.values().any(|members| members.contains(**pod));
    let keeps = |pod: &str| after.get(&number).is_some_and(|members| members.contains(pod));
    before.get(&number).into_iter().flatten().filter(stays).any(|pod| !keeps(pod))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*, sample::subsequence};

    const ALL: usize = 450;

    fn names() -> Vec<String> {
        (0..ALL).map(|i| format!("pod-{i}")).collect()
    }

    /// Sizes of a service over time: any pods of all, many or few.
    fn lives() -> impl Strategy<Value = Vec<Vec<usize>>> {
        vec((0..=ALL).prop_flat_map(|size| subsequence((0..ALL).collect::<Vec<_>>(), size)), 1..6)
    }

    fn pick<'a>(names: &'a [String], of: &[usize]) -> BTreeSet<&'a str> {
        of.iter().map(|i| names[*i].as_str()).collect()
    }

    fn check(pods: &BTreeSet<&str>, before: &Members<'_>, after: &Members<'_>) -> Result<(), TestCaseError> {
        let all: Vec<_> = after.values().flatten().collect();
        prop_assert_eq!(all.len(), pods.len(), "each once");
        prop_assert!(all.iter().all(|pod| pods.contains(**pod)));
        prop_assert!(after.contains_key(&1));
        for (number, members) in after {
            prop_assert!(members.len() <= MOST && (*number == 1 || !members.is_empty()), "{}", number);
        }
        prop_assert_eq!(&split(pods, after, |_| true), after, "nothing changes again");
        let many = after.len();
        prop_assert!(many == 1 || pods.len() + SPARE > MOST * (many - 1), "{} in {many}", pods.len());
        // Who is in a slice that stays, and was not too many, stays in it.
        for (number, members) in before.iter().filter(|(n, m)| after.contains_key(n) && m.len() <= MOST) {
            prop_assert!(members.iter().all(|pod| !pods.contains(pod) || after[number].contains(pod)), "{}", number);
        }
        // In the order in which they are written, and deleted at last, no endpoint that stays is in none.
        let mut written = before.clone();
        let mut order: Vec<_> = after.keys().map(|number| (gives_away(*number, before, after), *number)).collect();
        order.sort();
        let gone = before.keys().filter(|number| !after.contains_key(number));
        for number in order.into_iter().map(|(_, number)| number).chain(gone.copied()) {
            written.insert(number, after.get(&number).cloned().unwrap_or_default());
            for pod in before.values().flatten().filter(|pod| pods.contains(**pod)) {
                prop_assert!(written.values().any(|members| members.contains(pod)), "{pod} after {number}");
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn whatever_comes_and_goes(lives in lives()) {
            let names = names();
            let mut before = Members::new();
            for life in lives {
                let pods = pick(&names, &life);
                let after = split(&pods, &before, |_| true);
                check(&pods, &before, &after)?;
                before = after;
            }
        }

        #[test]
        fn one_that_comes_or_goes_changes_one_slice(life in lives(), one in 0..ALL) {
            let names = names();
            let mut pods = pick(&names, &life[0]);
            let before = split(&pods, &Members::new(), |_| true);
            if !pods.remove(names[one].as_str()) {
                pods.insert(&names[one]);
            }
            let after = split(&pods, &before, |_| true);
            let numbers: BTreeSet<_> = before.keys().chain(after.keys()).collect();
            let changed = numbers.iter().filter(|number| before.get(number) != after.get(number)).count();
            // But for the one that lets two slices become one.
            prop_assert!(changed == 1 || after.len() < before.len(), "{changed}");
        }

        #[test]
        fn of_too_many_in_one_slice_none_is_lost(all in vec(0..ALL, 101..ALL), few in 0..ALL) {
            let names = names();
            let before = Members::from([(1, pick(&names, &all)), (3, pick(&names, &[few]))]);
            let mut pods = pick(&names, &all);
            pods.insert(&names[few]);
            // One that is in two slices is in one from then on.
            let after = split(&pods, &before, |_| true);
            let first = after[&1].len();
            prop_assert!(first <= MOST);
            prop_assert_eq!(after.values().map(BTreeSet::len).sum::<usize>(), pods.len());
        }
    }

    #[test]
    fn a_number_that_is_taken_is_left_out() {
        let names = names();
        let pods = pick(&names, &(0..250).collect::<Vec<_>>());
        let after = split(&pods, &Members::new(), |number| number != 2);
        assert_eq!(after.keys().copied().collect::<Vec<_>>(), [1, 3, 4]);
        assert_eq!(after.values().map(BTreeSet::len).collect::<Vec<_>>(), [100, 100, 50]);
    }

    #[test]
    fn many_fewer_are_in_fewer_slices_and_a_few_fewer_are_not() {
        let names = names();
        let before = split(&pick(&names, &(0..250).collect::<Vec<_>>()), &Members::new(), |_| true);
        let left = |of: &mut dyn Iterator<Item = usize>| {
            let after = split(&pick(&names, &of.collect::<Vec<_>>()), &before, |_| true);
            after.values().map(BTreeSet::len).collect::<Vec<_>>()
        };
        assert_eq!(left(&mut (0..250).filter(|i| i % 5 != 0)).len(), 3, "200");
        assert_eq!(left(&mut (0..250).filter(|i| i % 25 < 19)), [100, 90], "190 of 250");
        assert_eq!(left(&mut (0..250).filter(|i| i % 25 < 9)), [90]);
    }
}
