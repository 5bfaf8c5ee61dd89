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

use tokio::sync::Notify;

use crate::{
    client,
    operator::{Operator, PATIENCE},
};

/// A service port that is free now.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes run side by side: each begins at another place.
    let offset = u16::try_from(std::process::id() % 250).expect("small") * 40;
    loop {
        let port = 20_000 + offset + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).is_ok() {
            return port;
        }
    }
}

/// A running shim.
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
        let volumes = Arc::new(tempfile::tempdir().expect("a directory"));
        let (state_dir, data_dir) = (volumes.path().join("state"), volumes.path().join("data"));
        let admin = free_port();
        let instances = if flags.contains(&"--instances") { [].as_slice() } else { &["--instances", "64"] };
        let arguments: Vec<String> = [
            ("--operator", operator.url()),
            ("--token-file", operator.dir.path().join("token").display().to_string()),
            ("--trust-dir", operator.trust_dir().display().to_string()),
            ("--data-dir", data_dir.display().to_string()),
            ("--state-dir", state_dir.display().to_string()),
            ("--admin-port", admin.to_string()),
            ("--log-format", "text".to_owned()),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .chain(flags.iter().map(|flag| (*flag).to_owned()))
        .chain(instances.iter().map(|flag| (*flag).to_owned()))
        .collect();
        let command = Arc::new(move || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_podless-shim"));
            command.args(&arguments).env("NO_COLOR", "1").stdout(Stdio::piped());
            command
        });
        let (lines, printed) = (Arc::default(), Arc::default());
        let child = spawn(&*command, &lines, &printed);
        Self { child, command, admin, lines, printed, _volumes: volumes, state_dir, data_dir }
    }

    /// Kills it as a node's failure would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
    }

    /// Starts it again with the same volumes.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(&*self.command, &self.lines, &self.printed);
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

    /// What `/proc` says of its resident memory, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).expect("statm");
        text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("pages") * 4096
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
