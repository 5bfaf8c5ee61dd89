//! The walls around the compiling child hold: a program goes behind them and tries to get out.

#![allow(clippy::expect_used, reason = "a test")]

use std::{
    os::unix::process::ExitStatusExt,
    process::{Command, ExitStatus},
};

fn attempt(name: &str) -> (String, ExitStatus) {
    let output = Command::new(env!("CARGO_BIN_EXE_sandbox-probe")).arg(name).output().expect("the probe starts");
    (String::from_utf8_lossy(&output.stdout).trim().to_owned(), output.status)
}

#[test]
fn nothing_can_be_reached() {
    assert_eq!(attempt("nothing").0, "done");
    for name in [
        "connect",
        "udp",
        "unix",
        "read-file",
        "write-file",
        "list",
        "exec",
        "fork",
        "thread",
        "kill-parent",
        "executable-memory",
        "make-executable",
    ] {
        assert_eq!(attempt(name).0, "refused", "{name}");
    }
    assert!(!std::path::Path::new("/tmp/podless-sandbox-probe").exists());
}

/// The wall behind the first, alone: what the filter refuses is refused again by the kernel's own rules.
#[test]
fn landlock_refuses_files_and_sockets_by_itself() {
    let (said, _) = attempt("landlock");
    if said == "no landlock" {
        // As on kernels without it: then the operator says so.
        return;
    }
    assert_eq!(said, "read-file denied, write-file denied, list denied, connect denied");
}

#[test]
fn limits_end_it_by_a_signal() {
    for (name, signal) in [("memory", 6), ("spin", 24), ("write-open-file", 25)] {
        let (said, status) = attempt(name);
        assert_eq!((said.as_str(), status.signal()), ("", Some(signal)), "{name}: {status}");
    }
}

#[test]
fn it_can_still_end_in_order() {
    let (said, status) = attempt("panic");
    assert_eq!((said.as_str(), status.code()), ("", Some(101)));
}
