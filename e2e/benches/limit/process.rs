//! A server as a process on a core of its own: what it takes of CPU and memory. It ends with what holds it. IO.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::cores;

const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at what nothing tells of.
const LOOK: Duration = Duration::from_millis(2);

/// A process, and those that it has started.
pub(crate) struct Process {
    name: String,
    child: Child,
}

/// What processes hold, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Each page divided by the number of processes that share it.
    pub(crate) proportional: f64,
    /// Pages that are no file's, or no more as they are in one.
    pub(crate) anonymous: f64,
    /// Page tables.
    pub(crate) tables: f64,
}

impl Process {
    /// Starts it on this core, or on all. What it prints goes nowhere, unless BENCH_LOG is set.
    pub(crate) async fn start(name: &str, core: Option<usize>, mut command: Command) -> Result<Self> {
        if std::env::var_os("BENCH_LOG").is_none() {
            command.stderr(Stdio::null());
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        let child = cores::on(core, move || Ok(command.spawn()?)).await.with_context(|| format!("starting {name}"))?;
        Ok(Self { name: name.to_owned(), child })
    }

    /// Waits until it listens there.
    pub(crate) async fn listens(&mut self, address: SocketAddr) -> Result<()> {
        self.until(async {
            while TcpStream::connect_timeout(&address, PATIENCE).is_err() {
                tokio::time::sleep(LOOK).await;
            }
            Ok(())
        })
        .await
    }

    /// Waits for something that will not be when it has ended.
    pub(crate) async fn until(&mut self, started: impl Future<Output = Result<()>>) -> Result<()> {
        let ended = async {
            loop {
                match self.child.try_wait() {
                    Ok(None) => tokio::time::sleep(LOOK).await,
                    ended => return ended,
                }
            }
        };
        tokio::select! {
            started = started => started,
            ended = ended => bail!("{} has ended: {:?}", self.name, ended?),
            () = tokio::time::sleep(PATIENCE) => bail!("{} is not there after {PATIENCE:?}", self.name),
        }
    }

    /// It, and those that it has started.
    fn all(&self) -> Vec<u32> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        [id].into_iter().chain(children.split_whitespace().filter_map(|id| id.parse().ok())).collect()
    }

    /// Seconds of CPU that they have taken so far.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let of = |id| {
            let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
            let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
            let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
            Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
        };
        self.all().into_iter().map(of).sum()
    }

    /// What they hold now.
    pub(crate) fn memory(&self) -> Result<Memory> {
        let mut memory = Memory::default();
        for id in self.all() {
            let rollup = fs::read_to_string(format!("/proc/{id}/smaps_rollup"))?;
            let status = fs::read_to_string(format!("/proc/{id}/status"))?;
            memory.proportional += kilobytes(&rollup, "Pss:")?;
            memory.anonymous += kilobytes(&rollup, "Anonymous:")?;
            memory.tables += kilobytes(&status, "VmPTE:")?;
        }
        Ok(memory)
    }

    /// Kills the processes that it has started, and not itself.
    pub(crate) fn kill_children(&self) -> Result<()> {
        for id in self.all().into_iter().skip(1) {
            let id = rustix::process::Pid::from_raw(i32::try_from(id)?).context("a process")?;
            rustix::process::kill_process(id, rustix::process::Signal::KILL)?;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let all = self.all();
        // The group is its own: none of those that it has started stays.
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
        // Until then its ports are not free.
        let start = Instant::now();
        while all.iter().any(|id| is_alive(*id)) && start.elapsed() < PATIENCE {
            thread::sleep(LOOK);
        }
    }
}

/// Whether a process still has anything.
fn is_alive(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // Its first thread may be dead before the others.
    let alone = || fs::read_dir(format!("/proc/{id}/task")).is_ok_and(|threads| threads.count() <= 1);
    let dead = stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
    !(stat.is_empty() || dead && alone())
}

/// Bytes of a line like `Pss:   12 kB`.
fn kilobytes(text: &str, field: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("no {field}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0)
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;

    #[tokio::test]
    async fn a_process_and_its_children_are_counted_and_end() -> Result<()> {
        let mut command = Command::new("sh");
        command.args(["-c", "while :; do :; done & wait"]);
        let process = Process::start("a loop", None, command).await?;
        let start = Instant::now();
        while process.cpu_seconds()? < 0.05 {
            ensure!(start.elapsed() < PATIENCE, "it takes no time");
        }
        let all = process.all();
        assert_eq!(all.len(), 2);
        let memory = process.memory()?;
        assert!(memory.proportional > 0.0 && memory.anonymous > 0.0 && memory.tables > 0.0, "{memory:?}");
        drop(process);
        assert!(!all.into_iter().any(is_alive));
        Ok(())
    }
}
