//! Children that are silent, lie or die.

use std::{
    fs,
    io::BufRead,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use podless_artifact::{ChildProgram, Grants, Limits, Progress, Rejection, Wanted, push};
use podless_engine::{CompilerOptions, Optimize, Recipe};

use crate::support::{Fixture, Registry, child, guest, wanted};

async fn hello(registry: &Registry) -> String {
    let image = registry.image("hello:1");
    push(guest("hello"), &image, None, true).await.expect("pushed");
    image
}

fn with(registry: &Registry, script: &str, limits: Limits) -> Fixture {
    Fixture::with(&registry.host, |options| {
        options.child = ChildProgram { path: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()] };
        options.limits = limits;
    })
}

#[tokio::test]
async fn what_a_child_says_is_not_believed() {
    let registry = Registry::start();
    let image = hello(&registry).await;
    let facts = r#"{"Facts":{"Ok":{"imports":[],"exports":["wasi:http/incoming-handler@0.2.0"],"flavour":"p2"}}}"#;
    for (script, reason) in [
        ("exit 0".to_owned(), "InternalError"),
        ("exit 3".to_owned(), "InternalError"),
        ("echo nonsense".to_owned(), "InternalError"),
        (r#"echo '{"Code":{"size":1,"millis":1}}'"#.to_owned(), "InternalError"),
        (format!("echo '{facts}'; echo '{facts}'"), "InternalError"),
        (format!(r#"echo '{facts}'; echo '{{"Code":{{"size":9,"millis":1}}}}'; printf short"#), "InternalError"),
        (format!(r#"echo '{facts}'; echo '{{"Code":{{"size":2,"millis":1}}}}'; printf long"#), "InternalError"),
        (format!(r#"echo '{facts}'; echo '{{"Code":{{"size":1099511627776,"millis":1}}}}'"#), "CompileLimit"),
        (format!(r#"echo '{facts}'; echo '{{"Failed":"no reason"}}'"#), "CompileFailed"),
        (format!("echo '{facts}'; kill -ABRT $$"), "CompileLimit"),
        (format!("echo '{facts}'; kill -XCPU $$"), "CompileLimit"),
        // No limit of its own ends it so.
        (format!("echo '{facts}'; kill -KILL $$"), "InternalError"),
        (exporting(&"a".repeat(257), 1), "InternalError"),
        (exporting(r"a\u0007b", 1), "InternalError"),
        (exporting("a", 501), "InternalError"),
        ("head -c 9999999 /dev/zero".to_owned(), "InternalError"),
    ] {
        let (got, message) = with(&registry, &script, Limits::default()).refusal(&image).await;
        assert_eq!(got, reason, "{script}: {message}");
    }
    let missing = Fixture::with(&registry.host, |options| {
        options.child = ChildProgram { path: "/nonexistent".into(), arguments: vec![] };
    });
    let rejection: Rejection = missing.build(&image).await.expect_err("no child");
    assert!(rejection.is_transient());
}

/// A child that says that a component has this export, so many times.
fn exporting(name: &str, times: usize) -> String {
    let exports = vec![format!("\"{name}\""); times].join(",");
    format!(r#"printf '%s\n' '{{"Facts":{{"Ok":{{"imports":[],"exports":[{exports}],"flavour":"p2"}}}}}}'"#)
}

#[tokio::test]
async fn what_a_child_says_of_broken_bytes_is_cut() {
    let registry = Registry::start();
    let image = hello(&registry).await;
    let script = format!(r#"printf '%s\n' '{{"Facts":{{"Err":{{"NotWebAssembly":"{}"}}}}}}'"#, "x".repeat(50_000));
    let (reason, message) = with(&registry, &script, Limits::default()).refusal(&image).await;
    assert_eq!(reason, "NotWebAssembly");
    assert!(message.len() < 700, "{} bytes", message.len());
}

#[tokio::test]
async fn a_silent_child_is_ended() {
    let registry = Registry::start();
    let image = hello(&registry).await;
    let limits = Limits { cpu_seconds: 1, ..Limits::default() };
    let started = Instant::now();
    assert_eq!(with(&registry, "exec sleep 60", limits).refusal(&image).await.0, "CompileLimit");
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn giving_up_kills_the_child_and_what_it_has_started() {
    let registry = Registry::start();
    let image = hello(&registry).await;
    // The number is the mark by which the processes are found.
    let mark = u64::from(std::process::id()) + 1_000_000_000;
    let fixture = with(&registry, &format!("sh -c 'while :; do sleep 1; done' {mark}; exit 1"), Limits::default());
    {
        let building = fixture.build(&image);
        tokio::pin!(building);
        while running(mark) < 2 {
            tokio::select! {
                _ = &mut building => panic!("the child is silent"),
                () = tokio::task::yield_now() => {}
            }
        }
    }
    eventually("the child and its own are gone", || running(mark) == 0).await;
}

/// Processes that name this number, and have not ended.
fn running(mark: u64) -> usize {
    let mark = mark.to_string();
    let processes = fs::read_dir("/proc").expect("/proc").flatten().map(|entry| entry.path());
    let named = processes.filter(|process| {
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&mark)
    });
    named.count()
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < until, "not yet: {what}");
        tokio::task::yield_now().await;
    }
}

/// The real child, of which each start is written down; it waits until a file is there.
fn counted(registry: &Registry, folder: &Path, parallelism: usize) -> Fixture {
    let (program, folder) = (child().path, folder.display());
    let program = program.display();
    let script = format!("echo x >> {folder}/starts; until [ -e {folder}/go ]; do :; done; exec {program} \"$0\"");
    Fixture::with(&registry.host, |options| {
        options.child = ChildProgram { path: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()] };
        options.parallelism = parallelism;
    })
}

fn starts(folder: &Path) -> usize {
    fs::read_to_string(folder.join("starts")).unwrap_or_default().lines().count()
}

#[tokio::test]
async fn who_wants_the_same_waits_for_one_child() {
    let registry = Registry::start();
    let folder = tempfile::tempdir().expect("a folder");
    let fixture = counted(&registry, folder.path(), 4);
    let image = hello(&registry).await;
    let another = registry.image("elsewhere/hello:2");
    push(guest("hello"), &another, None, true).await.expect("pushed");
    let options = CompilerOptions { optimize: Optimize::Fast, inlining: true };
    let fast = Recipe { options, ..Recipe::default() };
    let build = async |tenant, image, recipe| {
        let wanted = Wanted { tenant, recipe, ..wanted(image, Grants::default()) };
        fixture.pipeline.build(wanted, |_| ()).await
    };
    let usual = Recipe::default();
    let all = futures::future::join_all([
        build("a", &image, usual),
        build("a", &image, usual),
        build("b", &another, usual),
        build("b", &another, fast),
    ]);
    let go = async {
        eventually("two children", || starts(folder.path()) == 2).await;
        fs::write(folder.path().join("go"), "").expect("written");
    };
    let (all, ()) = tokio::join!(all, go);
    let seals: Vec<_> = all.into_iter().map(|made| made.expect("an artifact").seal().clone()).collect();
    assert_eq!(starts(folder.path()), 2, "one for each recipe");
    assert_eq!((&seals[0], &seals[1]), (&seals[1], &seals[2]));
    assert_ne!(seals[0].code_sha256, seals[3].code_sha256, "another recipe, other code");
}

#[tokio::test]
async fn what_cannot_be_compiled_is_tried_once_for_all_who_wait() {
    let registry = Registry::start();
    let folder = tempfile::tempdir().expect("a folder");
    let fixture = counted(&registry, folder.path(), 4);
    let torn = &guest("hello")[..5000];
    let image = registry.push(&[(torn, "application/wasm")], "torn:1").await;
    let good = hello(&registry).await;
    let broken = futures::future::join_all((0..5).map(|_| fixture.build(&image)));
    let go = async {
        eventually("two children", || starts(folder.path()) == 2).await;
        fs::write(folder.path().join("go"), "").expect("written");
    };
    let (broken, good, ()) = tokio::join!(broken, fixture.build(&good), go);
    for rejection in broken.into_iter().map(|built| built.expect_err("it is torn")) {
        assert_eq!(rejection.reason(), "NotWebAssembly", "{rejection}");
    }
    assert!(good.is_ok(), "others go on");
    assert_eq!(starts(folder.path()), 2);
}

#[tokio::test]
async fn a_tenant_with_many_components_holds_up_no_other() {
    let registry = Registry::start();
    let folder = tempfile::tempdir().expect("a folder");
    let fixture = counted(&registry, folder.path(), 1);
    let mut images = vec![];
    for n in 0..4u8 {
        // The same component with a section of its own: another digest.
        let component = [&guest("no-http")[..], &[0, 2, 1, b'a' + n]].concat();
        let image = registry.image(&format!("many:{n}"));
        push(component, &image, None, true).await.expect("pushed");
        images.push(image);
    }
    let ended = Mutex::new(vec![]);
    let waiting = AtomicUsize::new(0);
    let build = async |tenant: &'static str, image: &str| {
        let wanted = Wanted { tenant, ..wanted(image, Grants::default()) };
        let outcome = fixture.pipeline.build(wanted, |progress| {
            if progress == Progress::Waiting {
                waiting.fetch_add(1, Ordering::Relaxed);
            }
        });
        assert_eq!(outcome.await.expect_err("no HTTP").reason(), "NoHttpExport");
        ended.lock().expect("no panic").push(tenant);
    };
    let (first, rest) = images.split_first().expect("images");
    let many = futures::future::join_all(rest.iter().map(|image| build("many", image)));
    let wait_for = async |waiters: usize| {
        eventually("they wait", || waiting.load(Ordering::Relaxed) == waiters).await;
    };
    let late = async {
        wait_for(rest.len()).await;
        build("one", first).await;
    };
    let go = async {
        wait_for(images.len()).await;
        fs::write(folder.path().join("go"), "").expect("written");
    };
    tokio::join!(many, late, go);
    let ended = ended.into_inner().expect("no panic");
    assert!(ended.iter().position(|tenant| *tenant == "one") < Some(3), "{ended:?}");
}

/// A child of the operator, held by its stdin, with a descriptor that it was not meant to have; its number.
async fn held(parent: &mut std::process::Child) -> u32 {
    let mut line = String::new();
    std::io::BufReader::new(parent.stdout.as_mut().expect("its output")).read_line(&mut line).expect("a line");
    let pid = line.trim().parse().expect("a number");
    eventually("it is behind its walls", || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line == "Seccomp:\t2")
    })
    .await;
    pid
}

#[tokio::test]
async fn a_child_has_nothing_of_its_parent_s_and_goes_with_it() {
    let limits = Limits::default();
    let recipe = Recipe::default();
    let errand = serde_json::json!({"Compile": {"limits": limits, "recipe": recipe}}).to_string();
    let mut parent = std::process::Command::new("/bin/sh")
        .args(["-c", "exec 7</etc/passwd 9>/dev/null; exec 3<&0; \"$0\" \"$1\" <&3 & echo $!; wait"])
        .arg(child().path)
        .arg(errand)
        .env("SECRET", "in the parent's environment")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("a shell");
    let pid = held(&mut parent).await;
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").flatten();
    let mut open: Vec<_> = open.map(|entry| entry.file_name().into_string().expect("a number")).collect();
    open.sort();
    assert_eq!(open, ["0", "1", "2"]);
    parent.kill().expect("killed");
    parent.wait().expect("ended");
    eventually("the child goes with its parent", || {
        // Where nobody waits for it, something is left that has ended.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
    })
    .await;
}

#[tokio::test]
async fn the_walls_that_stand_are_told() {
    let registry = Registry::start();
    let walls = Fixture::new(&registry.host).pipeline.walls().await.expect("walls");
    assert!(walls.seccomp);
    let silent = with(&registry, "exit 1", Limits::default());
    assert!(silent.pipeline.walls().await.is_err());
}
