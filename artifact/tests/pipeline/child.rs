//! Children that are silent, lie or die.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use podless_artifact::{ChildProgram, Limits, Rejection, push};

use crate::support::{Fixture, Registry, guest};

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
    let facts = r#"{"Facts":{"Ok":{"imports":[],"exports":["wasi:http/incoming-handler@0.2.0"]}}}"#;
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
async fn giving_up_kills_the_child() {
    let registry = Registry::start();
    let image = hello(&registry).await;
    // The number is the mark by which the process is found.
    let mark = u64::from(std::process::id()) + 1_000_000_000;
    let limits = Limits { memory_bytes: mark, ..Limits::default() };
    let fixture = with(&registry, "while :; do sleep 1; done", limits);
    {
        let building = fixture.build(&image);
        tokio::pin!(building);
        while !is_running(mark) {
            tokio::select! {
                _ = &mut building => panic!("the child is silent"),
                () = tokio::task::yield_now() => {}
            }
        }
    }
    let until = Instant::now() + Duration::from_secs(10);
    while is_running(mark) {
        assert!(Instant::now() < until, "the child lives on");
        tokio::task::yield_now().await;
    }
}

fn is_running(mark: u64) -> bool {
    let mark = mark.to_string();
    fs::read_dir("/proc").expect("/proc").any(|entry| {
        let command_line = entry.map(|e| fs::read(e.path().join(Path::new("cmdline"))).unwrap_or_default());
        command_line.is_ok_and(|bytes| bytes.split(|b| *b == 0).any(|argument| argument == mark.as_bytes()))
    })
}
