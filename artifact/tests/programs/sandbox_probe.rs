//! Goes behind the walls and tries to get out. In: the name of one attempt; out: a line that tells how it ended.

#![allow(clippy::expect_used, clippy::panic, reason = "a program of the tests")]

use std::{
    fs::{self, File},
    io::{self, Write},
    net::{TcpStream, UdpSocket},
    os::unix::process::CommandExt,
    process::Command,
    thread,
};

use podless_artifact::{Limits, sandbox};
use rustix::{
    mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect},
    process::{Pid, Signal, getppid, kill_process},
};

fn main() {
    let attempt = std::env::args().nth(1).unwrap_or_default();
    let parent = getppid();
    if attempt == "landlock" {
        say(&behind_landlock());
        return;
    }
    let mut own_file = tempfile::tempfile().expect("a file, before");
    if sandbox::enter(Limits { memory_bytes: 256 << 20, cpu_seconds: 1 }).is_err() {
        say("no walls");
        return;
    }
    let outcome = match attempt.as_str() {
        "nothing" => Ok(()),
        "connect" => TcpStream::connect("127.0.0.1:9").map(drop),
        "udp" => UdpSocket::bind("127.0.0.1:0").map(drop),
        "unix" => std::os::unix::net::UnixDatagram::unbound().map(drop),
        "read-file" => File::open("/etc/passwd").map(drop),
        "write-file" => fs::write("/tmp/podless-sandbox-probe", "x"),
        "write-open-file" => own_file.write_all(b"x"),
        "list" => fs::read_dir("/").map(drop),
        "exec" => Err(Command::new("/bin/true").exec()),
        "fork" => Command::new("/bin/true").status().map(drop),
        "thread" => thread::Builder::new().spawn(|| {}).map(drop),
        "kill-parent" => kill(parent),
        "executable-memory" => map(ProtFlags::READ | ProtFlags::EXEC),
        "make-executable" => make_executable(),
        "memory" => {
            let hoard: Vec<Vec<u8>> = (0..512).map(|_| vec![1; 1 << 20]).collect();
            say(&hoard.len().to_string());
            Ok(())
        }
        "spin" => loop {
            std::hint::black_box(());
        },
        "panic" => panic!("on purpose"),
        _ => Err(io::Error::other("no such attempt")),
    };
    say(&match outcome {
        Ok(()) => "done".to_owned(),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => "refused".to_owned(),
        Err(error) => format!("failed: {error}"),
    });
}

/// What the second wall refuses without the first.
fn behind_landlock() -> String {
    if !sandbox::landlock() {
        return "no landlock".to_owned();
    }
    let attempts = [
        ("read-file", File::open("/etc/passwd").map(drop)),
        ("write-file", fs::write("/tmp/podless-sandbox-probe", "x")),
        ("list", fs::read_dir("/").map(drop)),
        ("connect", TcpStream::connect("127.0.0.1:9").map(drop)),
    ];
    let each = attempts.map(|(attempt, outcome)| match outcome {
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => format!("{attempt} denied"),
        other => format!("{attempt} {other:?}"),
    });
    each.join(", ")
}

fn kill(parent: Option<Pid>) -> io::Result<()> {
    let parent = parent.ok_or_else(|| io::Error::other("no parent"))?;
    Ok(kill_process(parent, Signal::TERM)?)
}

#[expect(unsafe_code, reason = "the attempt is a raw mapping")]
fn map(protection: ProtFlags) -> io::Result<()> {
    // SAFETY: a new anonymous mapping at an address of the kernel's choice, which nothing uses.
    unsafe { mmap_anonymous(std::ptr::null_mut(), 4096, protection, MapFlags::PRIVATE)? };
    Ok(())
}

#[expect(unsafe_code, reason = "the attempt is a raw mapping")]
fn make_executable() -> io::Result<()> {
    // SAFETY: a new anonymous mapping, of which nothing is used.
    unsafe {
        let page = mmap_anonymous(std::ptr::null_mut(), 4096, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)?;
        mprotect(page, 4096, MprotectFlags::READ | MprotectFlags::EXEC)?;
    }
    Ok(())
}

fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
