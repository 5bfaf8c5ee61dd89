//! Who builds when, with a pipeline that takes its time, or never answers.

use podless_artifact::SignatureRequirement;

use super::*;
use crate::{
    build::{BuildState, Pin, Progress},
    reconcile::tests::built,
    wake::ServiceRef,
};
use std::time::Duration;

/// Says no, after a second; or nothing, of what is called `dead`, and of what takes `long` to compile. Remembers what it was
/// asked.
#[derive(Default)]
struct Slow(Mutex<Vec<String>>);

impl Artifacts for Slow {
    fn build(&self, wanted: Wanted, progress: Progress) -> BoxFuture<'static, Result<Built, Rejection>> {
        lock(&self.0).push(wanted.image.clone());
        async move {
            progress(HALF);
            tokio::time::sleep(Duration::from_secs(1)).await;
            if wanted.image.contains("long") {
                progress(Phase::Waiting);
            }
            if ["dead", "long"].iter().any(|what| wanted.image.contains(what)) {
                std::future::pending::<()>().await;
            }
            let reason = match &wanted.image[..2] {
                "aw" => Reason::RegistryUnreachable,
                "no" => Reason::ImageNotFound,
                _ => Reason::CoreModule,
            };
            Err(Rejection::mistake(reason, "no"))
        }
        .boxed()
    }

    /// What is pinned; of what is away only once the registry was asked.
    fn kept(&self, wanted: Wanted) -> BoxFuture<'static, Option<Result<Built, Rejection>>> {
        let known = wanted.pinned.is_some();
        let there = known && (!wanted.image.starts_with("away") || lock(&self.0).contains(&wanted.image));
        let BuildState::Ready(built) = built("kept") else { unreachable!("it is built") };
        async move { there.then(|| Ok((*built).clone())) }.boxed()
    }
}

fn wanted(service: usize, image: &str) -> Wanted {
    let service = ServiceRef { uid: service.to_string(), namespace: "n".into(), name: service.to_string() };
    Wanted { service, ..crate::build::tests::wanted(image, 1) }
}

fn of(namespace: &str, wanted: Wanted) -> Wanted {
    let service = ServiceRef { namespace: namespace.to_owned(), ..wanted.service };
    Wanted { service, ..wanted }
}

const HALF: Phase = Phase::Pulling { done: 9, total: 18, seconds: None };

fn ask(turns: &Arc<Turns>, wanted: Wanted) -> tokio::task::JoinHandle<(bool, Vec<Phase>)> {
    let turns = turns.clone();
    tokio::spawn(async move {
        let phases = Mutex::new(vec![]);
        let outcome = turns.build(&wanted, |phase| lock(&phases).push(phase)).await;
        (outcome.is_ok(), phases.into_inner().expect("no panic"))
    })
}

#[tokio::test(start_paused = true)]
async fn what_is_pinned_and_kept_waits_for_no_registry_and_outlives_one() {
    let slow = Arc::new(Slow::default());
    let turns = Turns::new(slow.clone(), Metrics::default());
    let pinned = |service, image| {
        let pin = Pin { digest: "sha256:m".into(), manifest: None, component: "sha256:c".into(), size: 1 };
        Wanted { pinned: Some(pin), permitted: true, ..wanted(service, image) }
    };
    let _dead: Vec<_> = (0..500).map(|i| ask(&turns, wanted(i, &format!("dead.r/a:{i}")))).collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let start = tokio::time::Instant::now();
    let kept = ask(&turns, pinned(1000, "dead.r/kept:1")).await.expect("no panic");
    assert_eq!((kept, start.elapsed()), ((true, vec![]), Duration::ZERO));
    let away = |wanted| ask(&turns, wanted);
    assert!(away(pinned(1001, "away.r/kept:1")).await.expect("no panic").0, "what was pinned goes on");
    assert!(!away(wanted(1002, "away.r/kept:1")).await.expect("no panic").0, "who has no pin has to ask the registry");
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_never_answers_holds_up_nobody_else() {
    let slow = Arc::new(Slow::default());
    let turns = Turns::new(slow.clone(), Metrics::default());
    let dead: Vec<_> = (0..500).map(|i| ask(&turns, wanted(i, &format!("dead.r/a:{i}")))).collect();
    let good = ask(&turns, wanted(1000, "alive.r/a:1"));
    assert_eq!(good.await.expect("no panic").1, [HALF]);
    let asked = lock(&slow.0).clone();
    assert_eq!(asked.iter().filter(|image| image.starts_with("dead.r/")).count(), PER_REGISTRY, "{asked:?}");
    dead.iter().for_each(tokio::task::JoinHandle::abort);
    for dead in dead {
        assert!(dead.await.is_err_and(|error| error.is_cancelled()));
    }
    // Their turns are free again.
    let free: Vec<_> =
        (0..PER_REGISTRY).filter_map(|_| turns.registries.take("dead.r".into()).now_or_never()).collect();
    assert_eq!(free.len(), PER_REGISTRY);

    // Five hundred such registries: who comes from one that has answered does not wait.
    let dead = |i: usize| of(&format!("n{i}"), wanted(i, &format!("dead-{i}.r/a:1")));
    let _dead: Vec<_> = (0..500).map(|i| ask(&turns, dead(i))).collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    ask(&turns, wanted(1000, "alive.r/a:2")).await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn what_one_namespace_has_pulled_holds_up_no_other_that_pulls_from_there() {
    let slow = Arc::new(Slow::default());
    let turns = Turns::new(slow.clone(), Metrics::default());
    let _many: Vec<_> = (0..20).map(|i| ask(&turns, of("a", wanted(i, &format!("r.r/long:{i}"))))).collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let start = tokio::time::Instant::now();
    ask(&turns, of("b", wanted(20, "r.r/a:1"))).await.expect("no panic");
    assert!(start.elapsed() < Duration::from_secs(2));
    let pulled = lock(&slow.0).iter().filter(|image| image.contains("long")).count();
    assert_eq!(pulled, PER_REGISTRY, "what is pulled and waits has a limit");
    // Nor does who wants the same as one of them.
    let same = ask(&turns, of("b", wanted(21, "r.r/long:19")));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(lock(&slow.0).contains(&"r.r/long:19".to_owned()) && !same.is_finished());
}

#[tokio::test(start_paused = true)]
async fn registries_of_one_namespace_that_drip_hold_up_no_other() {
    let slow = Arc::new(Slow::default());
    let turns = Turns::new(slow.clone(), Metrics::default());
    for host in ["alive.r", "drip-0.r", "drip-1.r", "drip-2.r", "drip-3.r"] {
        ask(&turns, of("a", wanted(0, &format!("{host}/a:1")))).await.expect("no panic");
        assert!(turns.delivers(host));
    }
    ask(&turns, of("a", wanted(0, "no-0.r/a:1"))).await.expect("no panic");
    assert!(!turns.delivers("no-0.r"), "it has said no, and delivered nothing");
    let before = lock(&slow.0).len();
    let _drips: Vec<_> = (0..100)
        .map(|i| {
            let kind = if i % 2 == 0 { "drip" } else { "no" };
            ask(&turns, of("a", wanted(i, &format!("{kind}-{}.r/dead:{i}", i / 2 % 4))))
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(lock(&slow.0).len() - before, 2 * PER_NAMESPACE);
    for image in ["alive.r/a:2", "new.r/a:1"] {
        let start = tokio::time::Instant::now();
        ask(&turns, of("b", wanted(1000, image))).await.expect("no panic");
        assert!(start.elapsed() < Duration::from_secs(2), "{image}");
    }
}

#[test]
fn what_is_written_in_many_ways_is_one_registry() {
    for (image, want) in [
        ("library/x", "docker.io"),
        ("someuser/y:1", "docker.io"),
        ("z", "docker.io"),
        ("index.docker.io/library/x", "docker.io"),
        ("R.example:5000/a", "r.example:5000"),
        ("no reference", ""),
    ] {
        assert_eq!(registry(image), want, "{image}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_wants_the_same_while_it_waits_is_served_together() {
    let slow = Arc::new(Slow::default());
    let turns = Turns::new(slow.clone(), Metrics::default());
    let first = ask(&turns, wanted(0, "r/a:1"));
    // It has begun: what the registry had then may not be what others want now.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let rest: Vec<_> = (1..500).map(|i| ask(&turns, wanted(i, "r/a:1"))).collect();
    for other in [first].into_iter().chain(rest) {
        assert_eq!(other.await.expect("no panic"), (false, vec![HALF]));
    }
    let asked = lock(&slow.0).len();
    assert!(asked <= PER_REGISTRY + 1, "{asked} builds for 500 services");
    let private = |i, namespace: &str| {
        let mut wanted = wanted(i, "r/a:1");
        wanted.service.namespace = namespace.to_owned();
        wanted.pull_secrets = vec!["regcred".to_owned()];
        wanted
    };
    for other in [private(0, "a"), private(1, "b"), private(2, "b")].map(|wanted| ask(&turns, wanted)) {
        other.await.expect("no panic");
    }
    assert_eq!(lock(&slow.0).len(), asked + 3, "what one namespace may read is not for another");
    assert!(lock(&turns.waiting).is_empty());
}

/// A registry without signatures.
struct Unsigned;

impl Artifacts for Unsigned {
    fn build(&self, wanted: Wanted, _: Progress) -> BoxFuture<'static, Result<Built, Rejection>> {
        let BuildState::Ready(built) = built("one") else { unreachable!("it is built") };
        let missing = Rejection::passing(Reason::SignatureMissing, "sign it");
        async move { if wanted.signatures.is_empty() { Ok(Built::clone(&built)) } else { Err(missing) } }.boxed()
    }
}

#[tokio::test]
async fn what_was_permitted_before_is_built_without_the_signatures_that_it_lacks() {
    let turns = Turns::new(Arc::new(Unsigned), Metrics::default());
    let key = SignatureRequirement::parse("WasmPolicy", &[crate::policy::tests::KEY], None).expect("a key");
    let pin = Pin { digest: "sha256:one".into(), manifest: None, component: "one".into(), size: 5 };
    for (permitted, pinned, want) in [
        (false, Some(pin.clone()), None),
        // Its tag may mean something else by now.
        (true, None, None),
        (true, Some(pin.clone()), Some(Reason::SignatureMissing)),
    ] {
        let wanted = Wanted { permitted, pinned, signatures: vec![key.clone()], ..wanted(1, "r/a:1") };
        assert_eq!(unverified(&turns, &wanted).await.ok().flatten(), want, "{permitted}");
    }
    let signed = Wanted { signatures: vec![], ..wanted(1, "r/a:1") };
    assert_eq!(unverified(&turns, &signed).await, Ok(None));
}

/// Why what was built may lack signatures, or why nothing was.
async fn unverified(turns: &Arc<Turns>, wanted: &Wanted) -> Result<Option<Reason>, Reason> {
    match turns.build(wanted, |_| ()).await {
        Ok(built) => Ok(built.unverified.as_ref().map(|why| why.reason)),
        Err(rejection) => Err(rejection.reason),
    }
}

/// A registry that does not give what is kept here.
struct Refusing(Reason);

impl Artifacts for Refusing {
    fn build(&self, _: Wanted, _: Progress) -> BoxFuture<'static, Result<Built, Rejection>> {
        let refused = Rejection::passing(self.0, "no");
        async { Err(refused) }.boxed()
    }

    /// By its pin, and without a word of signatures.
    fn kept(&self, wanted: Wanted) -> BoxFuture<'static, Option<Result<Built, Rejection>>> {
        let BuildState::Ready(built) = built("kept") else { unreachable!("it is built") };
        async move { (wanted.pinned.is_some() && wanted.signatures.is_empty()).then(|| Ok((*built).clone())) }.boxed()
    }
}

#[tokio::test]
async fn what_was_permitted_before_is_not_lost_with_the_registry_and_says_that_it_is_not_verified() {
    use Reason::{ImageNotFound, PullSecretInvalid, RegistryUnreachable, Revoked, Unauthorized};
    let key = SignatureRequirement::parse("WasmPolicy", &[crate::policy::tests::KEY], None).expect("a key");
    let pin = Pin { digest: "sha256:one".into(), manifest: None, component: "one".into(), size: 5 };
    for reason in [RegistryUnreachable, ImageNotFound, Unauthorized, PullSecretInvalid, Revoked] {
        let turns = Turns::new(Arc::new(Refusing(reason)), Metrics::default());
        let signatures = vec![key.clone()];
        let wanted = Wanted { permitted: true, pinned: Some(pin.clone()), signatures, ..wanted(1, "r/a:1") };
        let want = if reason == Revoked { Err(reason) } else { Ok(Some(reason)) };
        assert_eq!(unverified(&turns, &wanted).await, want);
        let new = Wanted { permitted: false, ..wanted.clone() };
        assert_eq!(unverified(&turns, &new).await, Err(reason), "no policy has let it pass");
        let unpinned = Wanted { pinned: None, ..wanted };
        assert_eq!(unverified(&turns, &unpinned).await, Err(reason), "the tag may mean something else");
    }
}
