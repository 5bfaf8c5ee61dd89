//! The supervisor, PID 1 of the container: starts the serving process, holds its listening sockets, and starts it again
//! when it dies, so that clients find an open port meanwhile. One thread; no runtime, no engine, nothing of a guest.

mod held;
mod restarts;
mod signals;
pub(crate) mod wire;

use std::{
    env, io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait},
};

use self::{held::Held, restarts::Restarts, signals::Signals, wire::Ask};
use crate::{cli::Cli, node};

/// Name of the serving process, where the supervisor's is `podless-shim`.
pub(crate) const SERVING: &str = "podless-serve";
/// The flag that makes this program the serving process.
const FLAG: &str = "--supervised";

struct Supervisor {
    signals: Signals,
    held: Held,
    /// It was asked to stop: what dies now stays dead.
    stopping: bool,
}

/// Serves by a child until it is asked to stop, or the child cannot be kept alive; the child's code is passed on.
pub fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    node::raise_file_limit();
    let mut supervisor = Supervisor { signals: Signals::handle()?, held: Held::default(), stopping: false };
    let port = cli.admin_port;
    supervisor.held.answer(Ask::Port(port)).with_context(|| format!("the admin port {port} cannot be opened"))?;
    let mut restarts = Restarts::default();
    for before in 0.. {
        let started = Instant::now();
        let code = match start(before) {
            Ok((child, socket)) => {
                supervisor.held.begin();
                let status = supervisor.serve(child, socket)?;
                tracing::warn!(%child, ?status, stopping = supervisor.stopping, "the serving process ended");
                code_of(status, supervisor.stopping)
            }
            Err(error) => {
                tracing::error!(%error, "the serving process cannot be started");
                1
            }
        };
        if supervisor.stopping {
            return Ok(ExitCode::from(code));
        }
        let Some(pause) = restarts.next(started.elapsed()) else {
            tracing::error!("the serving process dies again and again: giving up");
            return Ok(ExitCode::from(code.max(1)));
        };
        if supervisor.rest(pause)? {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts this program again as the serving process, after so many before it; its standard input is the way to ask for
/// sockets.
fn start(before: u32) -> io::Result<(Pid, OwnedFd)> {
    let (ours, theirs) = wire::pair()?;
    // The very file that runs, whatever has its name by now.
    let child = Command::new("/proc/self/exe")
        .arg0(SERVING)
        .arg(format!("{FLAG}={before}"))
        .args(env::args_os().skip(1))
        .stdin(Stdio::from(theirs))
        // A terminal's Ctrl-C must not reach it twice.
        .process_group(0)
        .spawn()?;
    Ok((Pid::from_child(&child), ours))
}

impl Supervisor {
    /// Answers the child, passes on what it is asked to, until it has ended.
    fn serve(&mut self, child: Pid, socket: OwnedFd) -> io::Result<WaitStatus> {
        let mut socket = Some(socket);
        loop {
            let mut waited = vec![PollFd::new(&self.signals, PollFlags::IN)];
            waited.extend(socket.as_ref().map(|socket| PollFd::new(socket, PollFlags::IN)));
            wait_for(&mut waited, None)?;
            let asks = waited.get(1).is_some_and(|socket| !socket.revents().is_empty());
            for signal in self.signals.take() {
                self.stopping = true;
                // It may be gone already; then it is reaped below.
                let _ = kill_process(child, signal);
            }
            if asks && !socket.as_ref().is_some_and(|socket| self.answer(socket)) {
                socket = None;
            }
            if let Some(status) = reap(child)? {
                return Ok(status);
            }
        }
    }

    /// Answers one question; false when there will be no more.
    fn answer(&mut self, socket: &OwnedFd) -> bool {
        match wire::asked(socket) {
            Ok(Some(ask)) => wire::answer(socket, ask, self.held.answer(ask)).is_ok(),
            Ok(None) => false,
            Err(error) => {
                tracing::error!(%error, "the serving process cannot be understood");
                false
            }
        }
    }

    /// Waits before the next start; true when it was asked to stop meanwhile.
    fn rest(&mut self, pause: Duration) -> io::Result<bool> {
        let until = Instant::now() + pause;
        loop {
            if !self.signals.take().is_empty() {
                return Ok(true);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            wait_for(&mut [PollFd::new(&self.signals, PollFlags::IN)], Some(left))?;
        }
    }
}

fn wait_for(waited: &mut [PollFd<'_>], limit: Option<Duration>) -> io::Result<()> {
    let limit = limit.map(|limit| Timespec::try_from(limit).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 }));
    match poll(waited, limit.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Takes every process that has ended, as PID 1 must: others' orphans too. The child's status when it is among them.
fn reap(child: Pid) -> io::Result<Option<WaitStatus>> {
    let mut status = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, ended))) if pid == child => status = Some(ended),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(Errno::CHILD) => return Ok(status),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The code that tells the kubelet how the child ended.
fn code_of(status: WaitStatus, stopping: bool) -> u8 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(1),
        // Asked to stop before it listened for that.
        (_, Some(signal)) if stopping && [Signal::TERM, Signal::INT].map(Signal::as_raw).contains(&signal) => 0,
        (_, Some(signal)) => u8::try_from(128 + signal).unwrap_or(1),
        (None, None) => 1,
    }
}
