//! Wishes that are asked for again and again, with a pipeline that answers what a test tells it to.

use podless_artifact::{Grants, SignatureRequirement};
use podless_engine::CompilerOptions;

use super::*;
use crate::{policy::RevokedBy, reconcile::tests::built, wake::ServiceRef};

pub(super) fn wanted(image: &str, revision: u8) -> Wanted {
    let service = ServiceRef { uid: "u".into(), namespace: "n".into(), name: "s".into() };
    let (image, revision) = (image.to_owned(), revision.to_string());
    let (pinned, resolve_every) = (None, None);
    let (pull_secrets, signatures) = (vec![], vec![]);
    Wanted {
        service,
        image,
        revision,
        pinned,
        resolve_every,
        pull_secrets,
        grants: Grants::default(),
        signatures,
        permitted: false,
        revoked: vec![],
        compiler: CompilerOptions::default(),
        target: Target::default(),
    }
}

#[test]
fn a_tag_is_resolved_once_per_revision_and_a_digest_once() {
    let pinned = Wanted {
        pinned: Some(Pin { digest: "sha256:1".into(), manifest: None, component: "sha256:2".into(), size: 1 }),
        ..wanted("r/a:1", 1)
    };
    assert!(wanted("r/a:1", 1).same(&pinned));
    assert!(!wanted("r/a:1", 1).same(&wanted("r/a:1", 2)));
    assert!(wanted("r/a@sha256:1", 1).same(&wanted("r/a@sha256:1", 2)));
    let (logging, strict) =
        (Grants { logging: true, ..Grants::default() }, Grants { strict: true, ..Grants::default() });
    assert!(!wanted("r/a:1", 1).same(&Wanted { grants: logging, ..wanted("r/a:1", 1) }));
    assert!(!wanted("r/a:1", 1).same(&Wanted { grants: strict, ..wanted("r/a:1", 1) }));
    let compiler = CompilerOptions { inlining: true, ..CompilerOptions::default() };
    assert!(!wanted("r/a:1", 1).same(&Wanted { compiler, ..wanted("r/a:1", 1) }));
}

#[test]
fn backoff_grows_to_its_limit_and_differs_by_service() {
    for attempt in 0..40 {
        let full = FIRST_RETRY.saturating_mul(2u32.saturating_pow(attempt)).min(LAST_RETRY);
        let wait = backoff("u", attempt);
        assert!(wait <= full && wait >= full / 2, "{attempt}: {wait:?}");
    }
    assert_ne!(backoff("u", 3), backoff("v", 3));
}

const HALF: Phase = Phase::Pulling { done: 9, total: 18, seconds: None };

/// Answers what it is told to, one answer after another.
struct Scripted(Mutex<Vec<Result<Built, Rejection>>>);

impl Artifacts for Scripted {
    fn build(&self, _: Wanted, progress: Progress) -> BoxFuture<'static, Result<Built, Rejection>> {
        progress(HALF);
        let answer = self.0.lock().expect("no panic").pop().expect("another answer");
        Box::pin(async { answer })
    }
}

fn rejection(reason: Reason, transient: bool) -> Rejection {
    Rejection { transient, ..Rejection::mistake(reason, "do something") }
}

#[tokio::test(start_paused = true)]
async fn transient_trouble_is_tried_again_and_a_mistake_waits_for_a_change() {
    let (wake, mut woken) = Wake::new();
    // The last answer comes first.
    let script = vec![Err(rejection(Reason::CoreModule, false)), Err(rejection(Reason::RegistryUnreachable, true))];
    let builds = Builds::new(Arc::new(Scripted(Mutex::new(script))), wake, Metrics::default());
    assert!(matches!(builds.ask(wanted("a", 1)), BuildState::Pending(Phase::Resolving)));
    loop {
        woken.one.recv().await.expect("woken");
        match builds.ask(wanted("a", 1)) {
            BuildState::Rejected(r) if r.reason == Reason::CoreModule => break,
            BuildState::Rejected(r) => assert_eq!(r.reason, Reason::RegistryUnreachable),
            BuildState::Pending(phase) => assert_eq!(phase, HALF),
            BuildState::Ready(_) => panic!("nothing was built"),
        }
    }
    // No third answer is taken from the script by waiting.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(matches!(builds.ask(wanted("a", 1)), BuildState::Rejected(r) if r.reason == Reason::CoreModule));
}

#[tokio::test(start_paused = true)]
async fn who_asks_to_be_left_alone_is_left_alone() {
    let (wake, mut woken) = Wake::new();
    let asked = Duration::from_secs(600);
    let busy = Rejection { retry_after: Some(asked), ..rejection(Reason::RegistryUnreachable, true) };
    let script = vec![Err(rejection(Reason::CoreModule, false)), Err(busy)];
    let builds = Builds::new(Arc::new(Scripted(Mutex::new(script))), wake, Metrics::default());
    let start = tokio::time::Instant::now();
    while !matches!(builds.ask(wanted("a", 1)), BuildState::Rejected(r) if r.reason == Reason::CoreModule) {
        woken.one.recv().await.expect("woken");
    }
    assert!(start.elapsed() >= asked, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_tried_at_once_when_something_it_names_has_changed() {
    let (wake, mut woken) = Wake::new();
    let script = vec![Err(rejection(Reason::CoreModule, false)), Err(rejection(Reason::PullSecretInvalid, true))];
    let builds = Builds::new(Arc::new(Scripted(Mutex::new(script))), wake, Metrics::default());
    let reason = || match builds.ask(wanted("a", 1)) {
        BuildState::Rejected(rejection) => Some(rejection.reason),
        _ => None,
    };
    while reason() != Some(Reason::PullSecretInvalid) {
        woken.one.recv().await.expect("woken");
    }
    let start = tokio::time::Instant::now();
    builds.again("u");
    while reason() != Some(Reason::CoreModule) {
        woken.one.recv().await.expect("woken");
    }
    assert_eq!(start.elapsed(), Duration::ZERO, "without the backoff");
    // No third answer is taken from the script.
    builds.again("u");
    tokio::task::yield_now().await;
    assert_eq!(reason(), Some(Reason::CoreModule));
}

#[tokio::test(start_paused = true)]
async fn of_several_targets_one_says_what_the_image_means() {
    let (wake, _woken) = Wake::new();
    let builds = Builds::new(Arc::new(Scripted(Mutex::new(vec![]))), wake, Metrics::default());
    let first = |targets: &[Target]| builds.first("u", "a", &targets.iter().copied().collect());
    let (new, arm) = (Target::X86_64V3, Target::Aarch64);
    assert_eq!(first(&[arm, new]), new);
    builds.ask(Wanted { target: arm, ..wanted("a", 1) });
    assert_eq!(first(&[arm, new]), arm, "it has begun");
    builds.ask(Wanted { target: new, ..wanted("a@sha256:1", 1) });
    assert_eq!(first(&[arm, new]), arm, "the other is beside it");
    assert_eq!(first(&[new]), new, "there are no such nodes any more");
    builds.forget("u");
    assert_eq!(first(&[arm, new]), new);
}

#[tokio::test(start_paused = true)]
async fn what_no_node_is_any_more_is_not_built_for() {
    let (wake, mut woken) = Wake::new();
    let builds = Builds::new(Arc::new(Remembering::default()), wake, Metrics::default());
    let (old, new) = (Target::X86_64V2, Target::X86_64V3);
    builds.ask(Wanted { target: old, ..wanted("a", 1) });
    while !matches!(builds.state("u"), Some(BuildState::Rejected(_))) {
        woken.one.recv().await.expect("woken");
    }
    builds.keep_only("u", |target| target == old);
    assert!(builds.state("u").is_some(), "it is one of those");
    builds.keep_only("u", |target| target == new);
    assert!(builds.state("u").is_none());
    tokio::time::sleep(LAST_RETRY * 2).await;
    assert_eq!(Arc::strong_count(&builds), 1, "nor is it tried again");
}

#[tokio::test(start_paused = true)]
async fn what_is_tried_again_knows_what_was_revoked_meanwhile() {
    let (wake, mut woken) = Wake::new();
    let asked = Arc::new(Remembering::default());
    let builds = Builds::new(asked.clone(), wake, Metrics::default());
    builds.ask(wanted("a", 1));
    while !matches!(builds.state("u"), Some(BuildState::Rejected(_))) {
        woken.one.recv().await.expect("woken");
    }
    let digests = Arc::new(["sha256:1".to_owned()].into());
    let revoked = vec![RevokedBy { policy: "p".into(), digests }];
    builds.ask(Wanted { revoked: revoked.clone(), ..wanted("a", 1) });
    tokio::time::sleep(LAST_RETRY).await;
    let asked = asked.0.lock().expect("no panic");
    assert!(asked.len() > 1 && asked[1..].iter().all(|wanted| wanted.revoked == revoked), "{asked:?}");
}

/// A registry that is away, and what it was asked.
#[derive(Default)]
struct Remembering(Mutex<Vec<Wanted>>);

impl Artifacts for Remembering {
    fn build(&self, wanted: Wanted, _: Progress) -> BoxFuture<'static, Result<Built, Rejection>> {
        self.0.lock().expect("no panic").push(wanted);
        async { Err(rejection(Reason::RegistryUnreachable, true)) }.boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn signatures_that_what_goes_on_lacks_are_looked_for_until_they_are_there() {
    let one = || match built("one") {
        BuildState::Ready(built) => Ok(Built::clone(&built)),
        other => unreachable!("it is built: {other:?}"),
    };
    let (missing, away) = (Reason::SignatureMissing, Reason::RegistryUnreachable);
    // The last answer comes first: what is missing is built without, then the registry is away, then it is signed.
    let script = vec![one(), Err(rejection(away, true)), one(), Err(rejection(missing, true))];
    let (wake, mut woken) = Wake::new();
    let builds = Builds::new(Arc::new(Scripted(Mutex::new(script))), wake, Metrics::default());
    let key = SignatureRequirement::parse("WasmPolicy", &[crate::policy::tests::KEY], None).expect("a key");
    let pin = Pin { digest: "sha256:one".into(), manifest: None, component: "one".into(), size: 5 };
    let wanted = Wanted { permitted: true, pinned: Some(pin), signatures: vec![key], ..wanted("r/a:1", 1) };
    builds.ask(wanted.clone());
    let mut seen = vec![];
    while seen.last() != Some(&None) {
        woken.one.recv().await.expect("woken");
        match builds.ask(wanted.clone()) {
            BuildState::Ready(built) => seen.push(built.unverified.as_ref().map(|why| why.reason)),
            BuildState::Pending(_) => {}
            BuildState::Rejected(why) => panic!("it goes on: {why:?}"),
        }
    }
    seen.dedup();
    assert_eq!(seen, [Some(missing), Some(away), None]);
    // Nor is it looked for again: no further answer is asked for.
    tokio::time::sleep(LAST_RETRY * 2).await;
    assert!(matches!(builds.ask(wanted), BuildState::Ready(built) if built.unverified.is_none()));
}
