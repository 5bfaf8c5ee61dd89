//! A home of the test's own, the program in it, and a registry. IO.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

fn variable(name: &str) -> PathBuf {
    std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set: run this test by `make test-unit`")).into()
}

/// A built guest.
pub(crate) fn guest(name: &str) -> PathBuf {
    let path = variable("PODLESS_TEST_ARTIFACTS").join(format!("{name}.wasm"));
    assert!(path.is_file(), "{} is not built: run `make guests`", path.display());
    path
}

/// A folder that is everything the program knows of its user.
pub(crate) struct Home(tempfile::TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file; answers its path.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(&path, content).expect("written");
        path.display().to_string()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_podless"));
        command.args(arguments).current_dir(self.path()).stdin(Stdio::null());
        command.env_clear().env("HOME", self.path());
        command
    }

    /// Runs the program to its end: its code, what it printed and what it said.
    pub(crate) fn podless(&self, arguments: &[&str]) -> (i32, String, String) {
        ended(&self.command(arguments).output().expect("the program starts"))
    }

    /// Starts the program, which is going to serve `services`.
    pub(crate) fn serve(&self, services: usize, arguments: &[&str]) -> Served {
        let mut child =
            self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let said = Arc::new(Mutex::new(vec![]));
        let (heard, lines) = mpsc::channel();
        let (stderr, into) = (child.stderr.take().expect("piped"), said.clone());
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                into.lock().unwrap().push(line.clone());
                let _ = heard.send(line);
            }
        });
        let mut served = Served { stdout: child.stdout.take(), child, said, lines, urls: vec![] };
        while served.urls.len() < services {
            let line = served.next_line();
            served.urls.extend(line.split_once(" is served at http://").map(|(_, address)| address.to_owned()));
        }
        served
    }
}

fn ended(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// The program, serving. It ends with the test.
pub(crate) struct Served {
    child: Child,
    stdout: Option<ChildStdout>,
    said: Arc<Mutex<Vec<String>>>,
    lines: mpsc::Receiver<String>,
    /// `address:port` of each service.
    pub(crate) urls: Vec<String>,
}

impl Served {
    fn next_line(&self) -> String {
        self.lines
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("it says no more than {:?}", self.said.lock().unwrap()))
    }

    /// Waits until it says a line with this in it.
    pub(crate) fn wait_for(&self, text: &str) {
        while !self.next_line().contains(text) {}
    }

    /// A GET: the status code and the body.
    pub(crate) fn get(&self, service: usize, path: &str) -> (u16, String) {
        let answer = ask(&self.urls[service], path).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a code");
        (code, body.to_owned())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is there");
    }

    /// Reads the first line of what it prints.
    pub(crate) fn first_printed(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.stdout.as_mut().expect("piped")).read_line(&mut line).expect("a line");
        line
    }

    /// Waits for its end: its code and what it printed.
    pub(crate) fn end(mut self) -> (i32, String) {
        let mut printed = String::new();
        if let Some(mut stdout) = self.stdout.take() {
            stdout.read_to_string(&mut printed).expect("text");
        }
        let status = self.child.wait().expect("it ends");
        (status.code().unwrap_or(-1), printed)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a GET and reads the answer to its end.
pub(crate) fn ask(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A real registry on a port of its own; it ends with the test.
pub(crate) struct Registry {
    pub(crate) host: String,
    process: Child,
    _folder: tempfile::TempDir,
}

impl Registry {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let address: SocketAddr = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
        let process = Command::new(variable("PODLESS_TEST_REGISTRY_BIN"))
            .args(["registry", "-address", &address.to_string(), "-dir"])
            .arg(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the registry starts");
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < until, "the registry does not listen on {address}");
            thread::park_timeout(Duration::from_millis(5));
        }
        Self { host: address.to_string(), process, _folder: folder }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
