//! Scenes of artifacts: which shim gets which, and who is asked for one that was lost.

use super::tests::{assigned, drain, hello, open, sessions};
use super::*;
use crate::link::content::Artifact;

#[test]
fn code_is_for_those_who_are_to_have_it() {
    let mut sessions = sessions();
    sessions.assign(assigned("a", 1, &["p"]));
    assert!(sessions.code_for("p", "code of a").is_some());
    assert!(sessions.code_for("q", "code of a").is_none());
    assert!(sessions.code_for("p", "code of b").is_none());
}

#[test]
fn a_shim_gets_the_artifact_of_its_engine_or_none() {
    let mut sessions = sessions();
    let key = open(&mut sessions, "arm", hello("g", &[]), &["a"]);
    sessions.assign(assigned("a", 1, &["arm"]));
    sessions.settle("a", sessions.epoch());
    assert_eq!(drain(&mut sessions, &key), ["synced"], "there is none yet");
    let mut both = assigned("a", 2, &["arm"]);
    let mut content = (*both.content).clone();
    let other = Artifact { sealed: "for g".into(), ..content.artifacts["f"].clone() };
    content.artifacts.insert("g".into(), other);
    both.content = Arc::new(content);
    sessions.assign(both);
    let Some(Next::Assign(_, _, told)) = sessions.next(&key) else { panic!("an assignment") };
    assert_eq!(told.sealed, "for g");
    let targets: Vec<_> = sessions.targets().collect();
    assert_eq!(targets, [("node of arm", Target::Aarch64)]);
}

#[test]
fn who_serves_it_and_runs_the_engine_is_asked_for_what_was_lost() {
    let mut sessions = sessions();
    let a = open(&mut sessions, "a", hello("f", &[("s", 1)]), &[]);
    open(&mut sessions, "b", hello("f", &[]), &[]);
    open(&mut sessions, "c", hello("g", &[("s", 1)]), &[]);
    assert_eq!(sessions.holders("s", "f"), ["a"]);
    assert!(sessions.holders("t", "f").is_empty());
    // That of another target says nothing of who has this one's code; that of another version does.
    assert!(!sessions.is_served_by_another_engine("s"));
    open(&mut sessions, "d", hello("old", &[("s", 1)]), &[]);
    assert!(sessions.is_served_by_another_engine("s") && !sessions.is_served_by_another_engine("t"));
    drain(&mut sessions, &a);
    let recall = || v1::Recall { id: 1, component: "sha256:c".into() };
    assert!(sessions.recall("a", recall()) && !sessions.recall("nobody", recall()));
    assert_eq!(drain(&mut sessions, &a), ["recall sha256:c"]);
    sessions.recall("a", recall());
    sessions.close(&a, Instant::now());
    assert!(sessions.holders("s", "f").is_empty() && !sessions.recall("a", recall()), "its link is down");
    let again = open(&mut sessions, "a", hello("f", &[("s", 1)]), &[]);
    assert!(!drain(&mut sessions, &again).contains(&"recall sha256:c".to_owned()), "nobody waits for it any more");
}
