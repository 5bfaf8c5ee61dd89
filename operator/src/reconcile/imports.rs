//! What a component imports, compared with what serves. In: the status there is and what was audited; out: the difference
//! for status, and the Event that tells of it. Pure.

use podless_crds::{Grant, Import, ImportsDiff, Reason, WasmServiceStatus};

use super::events::Notice;
use crate::build::BuildState;

/// What the last audit says of each import; `None` before there was one.
pub fn audited(build: &BuildState) -> Option<&[Import]> {
    match build {
        BuildState::Ready(built) => Some(&built.imports),
        BuildState::Rejected(rejection) if !rejection.imports.is_empty() => Some(&rejection.imports),
        BuildState::Rejected(_) | BuildState::Pending(_) => None,
    }
}

/// How `imports`, of this generation, differ from those of what served before it.
pub fn diff(old: &WasmServiceStatus, imports: &[Import], generation: i64, serves: bool) -> Option<ImportsDiff> {
    // Nothing was ever assigned.
    old.image.as_ref()?;
    if let Some(told) = &old.imports_diff
        && told.serves
        && told.generation == generation
        && old.imports == imports
    {
        return Some(told.clone());
    }
    let before = serving(old);
    let missing = |from: &[Import], of: &[Import]| -> Vec<_> {
        let mut missing: Vec<_> = of.iter().filter(|import| !from.contains(import)).cloned().collect();
        missing.sort_by_key(|import| rank(import.grant));
        missing
    };
    let (added, removed) = (missing(&before, imports), missing(imports, &before));
    let same = added.is_empty() && removed.is_empty();
    (!same).then_some(ImportsDiff { generation, serves, added, removed })
}

/// The imports of what serves: those in status, but for a difference that does not serve yet.
fn serving(status: &WasmServiceStatus) -> Vec<Import> {
    let mut imports = status.imports.clone();
    if let Some(ImportsDiff { serves: false, added, removed, .. }) = &status.imports_diff {
        imports.retain(|import| !added.contains(import));
        imports.extend(removed.iter().cloned());
    }
    imports
}

/// What was refused is named first.
fn rank(grant: Grant) -> u8 {
    match grant {
        Grant::Denied => 0,
        Grant::Granted => 1,
        Grant::Inert => 2,
    }
}

/// An update imports something else than what serves: told once for each difference.
pub fn changed(old: Option<&WasmServiceStatus>, new: &WasmServiceStatus) -> Option<Notice> {
    let diff = new.imports_diff.as_ref()?;
    let told = old.and_then(|old| old.imports_diff.as_ref());
    if told.is_some_and(|told| ImportsDiff { serves: diff.serves, ..told.clone() } == *diff) {
        return None;
    }
    let line = |sign: &'static str| move |import: &Import| format!("{sign} {} ({:?})", import.interface, import.grant);
    let lines: Vec<_> = diff.added.iter().map(line("+")).chain(diff.removed.iter().map(line("-"))).collect();
    Some(Notice {
        warning: diff.added.iter().any(|import| import.grant == Grant::Denied),
        reason: Reason::ImportsChanged.as_str().to_owned(),
        message: format!("generation {} against what serves: {}", diff.generation, lines.join(", ")),
        // What is done alike is one Event, with the first one's note.
        about: format!("Generation{}", diff.generation),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::Rejection;
    use podless_crds::Image;

    /// What was audited: generation, imports, and whether it serves.
    type Turn<'a> = (i64, &'a [(&'a str, Grant)], bool);

    fn imports(all: &[(&str, Grant)]) -> Vec<Import> {
        all.iter().map(|(name, grant)| Import { interface: (*name).to_owned(), grant: *grant }).collect()
    }

    /// A status of what was audited in turn.
    fn play(turns: &[Turn<'_>]) -> WasmServiceStatus {
        let image = Image { reference: "r".into(), digest: "d".into(), size: 1, ..Image::default() };
        let mut status = WasmServiceStatus { image: Some(image), ..Default::default() };
        for (index, (generation, all, serves)) in turns.iter().enumerate() {
            let all = imports(all);
            // The first turn is what has served before all others.
            status.imports_diff = diff(&status, &all, *generation, *serves).filter(|_| index > 0);
            status.imports = all;
        }
        status
    }

    fn check(turns: &[Turn<'_>], want: Option<(i64, bool, &[&str], &[&str])>) {
        let names = |all: &[Import]| all.iter().map(|import| import.interface.clone()).collect::<Vec<_>>();
        let got = play(turns).imports_diff.map(|d| (d.generation, d.serves, names(&d.added), names(&d.removed)));
        let owned = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let want = want.map(|(generation, serves, added, removed)| (generation, serves, owned(added), owned(removed)));
        assert_eq!(got, want, "{turns:?}");
    }

    const A: (&str, Grant) = ("a", Grant::Granted);
    const B: (&str, Grant) = ("b", Grant::Granted);
    const NO_B: (&str, Grant) = ("b", Grant::Denied);
    const C: (&str, Grant) = ("c", Grant::Inert);

    #[test]
    fn the_difference_is_to_what_serves() {
        check(&[(1, &[A], true), (1, &[A], true)], None);
        check(&[(1, &[A], true), (2, &[A], false)], None);
        check(&[(1, &[A], true), (2, &[A, B], false)], Some((2, false, &["b"], &[])));
        check(&[(1, &[A, C], true), (2, &[A], false)], Some((2, false, &[], &["c"])));
        // It stays when it serves, and goes with the next change.
        let served: [Turn<'_>; 5] =
            [(1, &[A], true), (2, &[A, B], false), (2, &[A, B], true), (2, &[A, B], false), (3, &[A, B], false)];
        check(&served[..3], Some((2, true, &["b"], &[])));
        check(&served[..4], Some((2, true, &["b"], &[])));
        check(&served, None);
        // What was refused never served.
        check(&[(1, &[A], true), (2, &[A, NO_B], false), (3, &[A, C], false)], Some((3, false, &["c"], &[])));
        check(&[(1, &[A], true), (2, &[NO_B], false), (3, &[A], false)], None);
        // A grant that is given or taken away.
        check(&[(1, &[A, B], true), (2, &[A, NO_B], false)], Some((2, false, &["b"], &["b"])));
        // A tag that means another image now, in the same generation.
        check(
            &[(1, &[A], true), (1, &[A, B], false), (1, &[A, B], true), (1, &[A, B, C], false)],
            Some((1, false, &["c"], &[])),
        );
        let fresh = WasmServiceStatus::default();
        assert_eq!(diff(&fresh, &imports(&[A]), 1, false), None, "nothing has served");
    }

    #[test]
    fn it_is_told_once() {
        let turns: [Turn<'_>; 4] =
            [(1, &[A, C], true), (2, &[A, B, NO_B], false), (2, &[A, B, NO_B], true), (3, &[A], false)];
        let [first, asked, serves, next] = [1, 2, 3, 4].map(|n| play(&turns[..n]));
        let notice = changed(Some(&first), &asked).expect("news");
        assert_eq!((notice.warning, notice.reason.as_str()), (true, "ImportsChanged"));
        assert_eq!(notice.message, "generation 2 against what serves: + b (Denied), + b (Granted), - c (Inert)");
        assert_eq!(changed(Some(&asked), &asked), None);
        assert_eq!(changed(Some(&asked), &serves), None);
        let notice = changed(Some(&serves), &next).expect("news");
        assert!(!notice.warning && notice.message.ends_with("- b (Denied), - b (Granted)"), "{notice:?}");
        assert_eq!(changed(None, &first), None);
    }

    #[test]
    fn what_was_audited() {
        let rejected = |imports| BuildState::Rejected(Rejection { imports, ..Rejection::mistake(Reason::Done, "") });
        assert_eq!(audited(&rejected(vec![])), None, "it did not come to an audit: what is in status stays");
        assert_eq!(audited(&rejected(imports(&[NO_B]))), Some(imports(&[NO_B]).as_slice()));
    }
}
