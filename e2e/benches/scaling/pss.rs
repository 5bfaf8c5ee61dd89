//! Memory of pods. In: uids of pods; out: the proportional set size of all that is there for them: the program, the pause
//! container, and the container runtime's shim. IO: reads /proc of this machine, of which the nodes are namespaces.

use std::{collections::BTreeSet, fs, io};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// A process, as this machine numbers it.
#[derive(Clone, Debug)]
struct Process {
    pid: u32,
    parent: u32,
    name: String,
    /// Its control groups: those of a pod have the pod's uid in their path.
    groups: String,
}

/// Bytes of pods, each page divided by the number of processes that share it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq)]
pub(crate) struct Memory {
    /// What the pods are for.
    pub(crate) programs: f64,
    /// The containers that hold their namespaces.
    pub(crate) pause: f64,
    /// `containerd-shim`, one for each pod.
    pub(crate) runtime: f64,
}

impl Memory {
    pub(crate) fn total(&self) -> f64 {
        self.programs + self.pause + self.runtime
    }
}

/// What pods take.
pub(crate) fn of_pods(uids: &[String]) -> Result<Memory> {
    let all = processes()?;
    let chosen = belonging(&all, uids);
    let mut memory = Memory::default();
    for process in all.iter().filter(|process| chosen.contains(&process.pid)) {
        let bytes = match fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid)) {
            Ok(text) => pss(&text).with_context(|| format!("smaps_rollup of {}", process.name))?,
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(error).with_context(|| format!("memory of {}", process.name)),
        };
        *match process.name.as_str() {
            "pause" => &mut memory.pause,
            RUNTIME => &mut memory.runtime,
            _ => &mut memory.programs,
        } += bytes;
    }
    ensure!(memory.programs > 0.0, "no process of these pods is on this machine: is its /proc another's?");
    Ok(memory)
}

/// As the kernel cuts `containerd-shim-runc-v2`.
const RUNTIME: &str = "containerd-shim";

/// Processes in the groups of these pods, and the runtime shims that are their parents.
fn belonging(all: &[Process], uids: &[String]) -> BTreeSet<u32> {
    let inside = |process: &&Process| uids.iter().any(|uid| process.groups.contains(&format!("pod{uid}")));
    let inside: Vec<_> = all.iter().filter(inside).collect();
    let parents = inside.iter().map(|process| process.parent);
    let runtime = |pid: &u32| all.iter().any(|process| process.pid == *pid && process.name == RUNTIME);
    inside.iter().map(|process| process.pid).chain(parents.filter(runtime)).collect()
}

fn processes() -> Result<Vec<Process>> {
    let mut all = vec![];
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
        let (status, groups) = match (read("status"), read("cgroup")) {
            (Ok(status), Ok(groups)) => (status, groups),
            (Err(error), _) | (_, Err(error)) if is_gone(&error) => continue,
            (Err(error), _) | (_, Err(error)) => return Err(error.into()),
        };
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let parent = field("PPid:").and_then(|number| number.parse().ok()).context("a process has a parent")?;
        all.push(Process { pid, parent, name: field("Name:").unwrap_or_default().to_owned(), groups });
    }
    Ok(all)
}

/// A process may end while it is looked at; ESRCH (3) is said of one that has.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(3)
}

/// The bytes of a `smaps_rollup`.
fn pss(text: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32, name: &str, groups: &str) -> Process {
        Process { pid, parent, name: name.to_owned(), groups: groups.to_owned() }
    }

    #[test]
    fn a_pod_is_its_program_its_pause_and_its_runtime_shim() {
        let all = [
            process(1, 0, "init", "0::/"),
            process(10, 1, RUNTIME, "0::/containerd"),
            process(11, 10, "pause", "0::/kubepods/besteffort/podaaa-1/x"),
            process(12, 10, "crud-axum", "0::/kubepods/besteffort/podaaa-1/y"),
            process(20, 1, RUNTIME, "0::/containerd"),
            process(21, 20, "pause", "0::/kubepods/besteffort/podbbb-2/x"),
            process(31, 1, "odd", "0::/kubepods/podccc-3/x"),
        ];
        let pids = |uids: &[&str]| -> Vec<u32> {
            let uids: Vec<_> = uids.iter().map(|uid| (*uid).to_owned()).collect();
            belonging(&all, &uids).into_iter().collect()
        };
        assert_eq!(pids(&["aaa-1"]), [10, 11, 12]);
        assert_eq!(pids(&["ccc-3"]), [31], "its parent is no runtime shim");
        assert_eq!(pids(&["aaa-1", "bbb-2"]).len(), 5);
        assert!(pids(&[]).is_empty());
    }

    #[test]
    fn this_process_has_memory() -> Result<()> {
        let text = fs::read_to_string("/proc/self/smaps_rollup")?;
        assert!(pss(&text)? > 100_000.0);
        assert!(processes()?.iter().any(|process| process.pid == std::process::id()));
        Ok(())
    }
}
