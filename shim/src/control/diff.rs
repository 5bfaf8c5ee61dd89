//! What to do next: what is wanted and what there is in, steps out. Pure.

use std::{collections::BTreeMap, time::Instant};

/// The services that are wanted, each in this generation.
pub(crate) type Wanted<'a> = BTreeMap<&'a str, u64>;

/// What there is of one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Have {
    /// The generation that serves.
    pub(crate) serving: Option<u64>,
    /// What was begun beside it.
    pub(crate) work: Work,
}

/// What was begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Work {
    /// Nothing.
    #[default]
    Idle,
    /// A generation is being loaded.
    Loading,
    /// A generation could not be loaded; what may pass by itself has a time to try again.
    Failed {
        /// The generation.
        generation: u64,
        /// When to try again.
        retry: Option<Instant>,
    },
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Load the wanted generation beside what serves.
    Load(String),
    /// Stop serving: it is wanted no more.
    Withdraw(String),
}

/// Compares. Doing every step and asking again gives none: the loop is done when nothing is left to do.
pub(crate) fn diff(wanted: &Wanted<'_>, have: &BTreeMap<&str, Have>, now: Instant) -> Vec<Step> {
    let load = wanted.iter().filter(|(uid, generation)| {
        let have = have.get(**uid).copied().unwrap_or_default();
        have.serving != Some(**generation)
            && match have.work {
                Work::Idle => true,
                Work::Loading => false,
                Work::Failed { generation: failed, retry } => {
                    failed != **generation || retry.is_some_and(|retry| retry <= now)
                }
            }
    });
    // What is still being loaded is withdrawn once it is.
    let withdraw = have.iter().filter(|(uid, have)| !wanted.contains_key(**uid) && have.work != Work::Loading);
    let withdraw = withdraw.map(|(uid, _)| Step::Withdraw((*uid).to_owned()));
    load.map(|(uid, _)| Step::Load((*uid).to_owned())).chain(withdraw).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_case() {
        let now = Instant::now();
        let (past, future) = (Some(now), Some(now + Duration::from_secs(1)));
        let failed = |generation, retry| Work::Failed { generation, retry };
        let (load, withdraw) = (Some(Step::Load("a".into())), Some(Step::Withdraw("a".into())));
        for (case, wanted, serving, work, want) in [
            ("new", Some(1), None, Work::Idle, &load),
            ("serves", Some(1), Some(1), Work::Idle, &None),
            ("update", Some(2), Some(1), Work::Idle, &load),
            ("is being loaded", Some(2), Some(1), Work::Loading, &None),
            ("failed for good", Some(2), Some(1), failed(2, None), &None),
            ("failed, not yet", Some(2), Some(1), failed(2, future), &None),
            ("failed, again", Some(2), Some(1), failed(2, past), &load),
            ("failed, another wanted", Some(3), Some(1), failed(2, None), &load),
            ("withdrawn", None, Some(1), Work::Idle, &withdraw),
            ("withdrawn after a failure", None, None, failed(1, None), &withdraw),
            ("withdrawn while loading", None, Some(1), Work::Loading, &None),
        ] {
            let wanted = wanted.map(|generation| ("a", generation)).into_iter().collect();
            let have = BTreeMap::from([("a", Have { serving, work })]);
            assert_eq!(diff(&wanted, &have, now).first(), want.as_ref(), "{case}");
        }
    }

    fn have() -> impl Strategy<Value = Have> {
        let work = prop_oneof![
            Just(Work::Idle),
            Just(Work::Loading),
            (0..4u64).prop_map(|generation| Work::Failed { generation, retry: None }),
        ];
        (prop::option::of(0..4u64), work).prop_map(|(serving, work)| Have { serving, work })
    }

    proptest! {
        #[test]
        fn doing_the_steps_leaves_nothing_to_do(
            wanted in prop::collection::btree_map("[a-e]", 0..4u64, 0..5),
            have in prop::collection::btree_map("[a-e]", have(), 0..5),
        ) {
            let now = Instant::now();
            let wanted: Wanted<'_> = wanted.iter().map(|(uid, generation)| (uid.as_str(), *generation)).collect();
            let mut have: BTreeMap<_, _> = have.iter().map(|(uid, have)| (uid.as_str(), *have)).collect();
            let steps = diff(&wanted, &have, now);
            for step in &steps {
                match step {
                    Step::Load(uid) => {
                        let serving = wanted.get(uid.as_str()).copied();
                        prop_assert!(serving.is_some());
                        have.insert(uid, Have { serving, work: Work::Idle });
                    }
                    Step::Withdraw(uid) => {
                        prop_assert!(!wanted.contains_key(uid.as_str()), "nothing that is wanted is withdrawn");
                        have.remove(uid.as_str());
                    }
                }
            }
            prop_assert_eq!(diff(&wanted, &have, now), vec![]);
        }
    }
}
