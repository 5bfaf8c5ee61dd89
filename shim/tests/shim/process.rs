//! The real shim, as a process on loopback, and what it prints.

use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use rustix::process::{Pid, Signal};
use tokio::sync::Notify;

use crate::{
    client,
    operator::{Operator, PATIENCE},
};

/// A service port that is free now, and that no test beside this one takes while a shim is down.
pub(crate) fn free_port() -> u16 {
    const EACH: u16 = 1000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Tests that run side by side are processes with a slot each. Those that run in it one after another begin at
    // different places: what was closed a moment ago may still be in use.
    let slot: u16 = std::env::var("NEXTEST_TEST_GLOBAL_SLOT").map_or(0, |slot| slot.parse().expect("a number"));
    let begin = u16::try_from(std::process::id() % 25).expect("small") * 40;
    loop {
        let next = begin + NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(next < begin + EACH, "this test takes too many ports");
        let port = 20_000 + slot % 12 * EACH + next % EACH;
        if TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).is_ok() {
            return port;
        }
    }
}

/// What a shim is started with.
#[derive(Default)]
pub(crate) struct Setup<'a> {
    /// Flags beside those that every shim of these tests has.
    pub(crate) flags: &'a [&'a str],
    /// Variables.
    pub(crate) env: Vec<(&'static str, String)>,
    /// What to do, as root, in a mount namespace of its own before it starts: a script that finds the folder of its
    /// volumes, which has `data` and `state`, in `$0`.
    pub(crate) mounts: Option<String>,
}

/// Whether tests may mount; says which of them is skipped when not.
pub(crate) fn may_mount(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: {test} mounts, which only root may");
    }
    root
}

/// A running shim: its supervisor.
pub(crate) struct Shim {
    child: Child,
    command: Arc<dyn Fn() -> Command + Send + Sync>,
    pub(crate) admin: u16,
    lines: Arc<Mutex<Vec<String>>>,
    printed: Arc<Notify>,
    _volumes: Arc<tempfile::TempDir>,
    pub(crate) state_dir: PathBuf,
    pub(crate) data_dir: PathBuf,
}

impl Shim {
    /// Starts a shim with empty volumes.
    pub(crate) fn start(operator: &Operator, flags: &[&str]) -> Self {
        Self::start_with(operator, Setup { flags, ..Setup::default() })
    }

    /// The same with more around it.
    pub(crate) fn start_with(operator: &Operator, setup: Setup<'_>) -> Self {
        let Setup { flags, env, mounts } = setup;
        let volumes = Arc::new(tempfile::tempdir().expect("a directory"));
        let (state_dir, data_dir) = (volumes.path().join("state"), volumes.path().join("data"));
        for dir in [&state_dir, &data_dir] {
            std::fs::create_dir(dir).expect("made");
        }
        let admin = free_port();
        let arguments: Vec<String> = [
            ("--operator", operator.url()),
            ("--token-file", operator.dir.path().join("token").display().to_string()),
            ("--trust-dir", operator.trust_dir().display().to_string()),
            ("--data-dir", data_dir.display().to_string()),
            ("--state-dir", state_dir.display().to_string()),
            ("--admin-port", admin.to_string()),
            ("--log-format", "text".to_owned()),
            ("--instances", "64".to_owned()),
        ]
        .into_iter()
        .filter(|(flag, _)| !flags.contains(flag))
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .chain(flags.iter().map(|flag| (*flag).to_owned()))
        .collect();
        let folder = volumes.path().to_owned();
        let command = Arc::new(move || {
            let shim = env!("CARGO_BIN_EXE_podless-shim");
            let mut command = match &mounts {
                None => Command::new(shim),
                Some(script) => {
                    let mut command = Command::new("unshare");
                    command
                        .args(["--mount", "--", "sh", "-ec", &format!("{script}\nexec \"$@\"")])
                        .arg(&folder)
                        .arg(shim);
                    command
                }
            };
            command.args(&arguments).env("NO_COLOR", "1").envs(env.iter().cloned()).stdout(Stdio::piped());
            command
        });
        let (lines, printed) = (Arc::default(), Arc::default());
        let child = spawn(&*command, &lines, &printed);
        Self { child, command, admin, lines, printed, _volumes: volumes, state_dir, data_dir }
    }

    /// The process that serves, once there is one.
    pub(crate) async fn serving(&self) -> Pid {
        let waiting = async {
            loop {
                if let Some(pid) = self.serving_now() {
                    return pid;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("a process serves")
    }

    fn serving_now(&self) -> Option<Pid> {
        let id = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
        Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
    }

    /// Kills the process that serves; its supervisor starts another.
    pub(crate) async fn kill_serving(&self) {
        let pid = self.serving().await;
        rustix::process::kill_process(pid, Signal::KILL).expect("killed");
        gone(pid);
    }

    /// Runs a command where the shim has its mounts; `$0` is as in [`Setup::mounts`].
    pub(crate) fn mount(&self, script: &str) {
        let target = self.child.id().to_string();
        let folder = self.data_dir.parent().expect("a folder");
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &target, "--", "sh", "-ec", script]).arg(folder);
        assert!(command.status().expect("started").success(), "{script}");
    }

    /// Kills all of it as a node's failure would.
    pub(crate) fn kill(&mut self) {
        let serving = self.serving_now();
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
        serving.into_iter().for_each(gone);
    }

    /// Starts it again with the same volumes.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(&*self.command, &self.lines, &self.printed);
    }

    /// The supervisor's process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop, as the kubelet does.
    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        tokio::task::spawn_blocking(move || self.child.wait().expect("it ends")).await.expect("waited")
    }

    /// Waits for `/readyz`.
    pub(crate) async fn ready(&self) {
        self.until_admin("/readyz", |status, _| status == 200).await;
    }

    /// Waits until a page of the admin port is as wanted.
    pub(crate) async fn until_admin(&self, path: &str, wanted: impl Fn(u16, &str) -> bool) {
        let waiting = async {
            loop {
                if let Ok(answer) = client::try_get(self.admin, path).await
                    && wanted(answer.status, &answer.body)
                {
                    return;
                }
                // Nothing tells when another process is ready but asking it.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{path} never was as wanted"));
    }

    /// Waits for a line on stdout.
    pub(crate) async fn printed<T>(&self, look: impl Fn(&serde_json::Value) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let mut more = std::pin::pin!(self.printed.notified());
                more.as_mut().enable();
                let found = self.lines.lock().expect("a lock").iter().find_map(|line| {
                    look(&serde_json::from_str(line).unwrap_or_else(|e| panic!("not JSON: {e}: {line}")))
                });
                if let Some(found) = found {
                    return found;
                }
                more.await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("the line is printed")
    }

    /// The lines that a service has printed since the last time; those of others are gone.
    pub(crate) fn take_lines(&self, service: &str) -> Vec<serde_json::Value> {
        let lines = std::mem::take(&mut *self.lines.lock().expect("a lock"));
        let lines =
            lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("not JSON: {e}: {line}")));
        lines.filter(|line: &serde_json::Value| line["service"] == service).collect()
    }

    /// What `/proc` says of its resident memory, in bytes: all of the process that serves, and of the supervisor what
    /// is not in the file of the program that both run.
    pub(crate) async fn resident(&self) -> u64 {
        let pages = |pid: u32| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).expect("statm");
            let mut pages = text.split(' ').skip(1).map(|pages| pages.parse::<u64>().expect("pages"));
            (pages.next().expect("resident"), pages.next().expect("shared"))
        };
        let (serving, _) = pages(self.serving().await.as_raw_nonzero().get().unsigned_abs());
        let (supervisor, shared) = pages(self.child.id());
        (serving + supervisor - shared) * 4096
    }
}

/// Waits until a process has closed all that it had.
fn gone(pid: Pid) {
    let dead = |stat: String| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
    // Its first thread may be dead before the others, which hold its sockets until they are.
    let alone = || std::fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|threads| threads.count() <= 1);
    while std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !dead(stat) || !alone()) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(command: &dyn Fn() -> Command, lines: &Arc<Mutex<Vec<String>>>, printed: &Arc<Notify>) -> Child {
    let mut child = command().spawn().expect("the shim starts");
    let stdout = BufReader::new(child.stdout.take().expect("its stdout"));
    let (lines, printed) = (lines.clone(), printed.clone());
    std::thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            lines.lock().expect("a lock").push(line);
            printed.notify_waiters();
        }
    });
    child
}
