//! The walls around the child that parses untrusted bytes. In: limits; out: a process that can read, write and compute
//! with what it has open, and nothing else. IO.

use std::{collections::BTreeMap, io};

use rustix::process::{Resource, Rlimit, getpid, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// What the child may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Address space, in bytes. With the operator's own memory it must fit into the container's limit: when the kernel
    /// kills for want of memory, it takes all processes of the container.
    pub memory_bytes: u64,
    /// Seconds of CPU.
    pub cpu_seconds: u64,
}

impl Default for Limits {
    /// Room for the largest components: 18 MB from Python take 13 s here.
    fn default() -> Self {
        Self { memory_bytes: 2 << 30, cpu_seconds: 180 }
    }
}

/// Why the walls do not stand; then nothing may be read.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A resource limit was refused.
    #[error("cannot limit {0:?}: {1}")]
    Limit(Resource, io::Error),
    /// The filter was refused.
    #[error("cannot filter system calls: {0}")]
    Filter(#[from] seccompiler::Error),
}

/// Puts this process, which has one thread, behind the walls. There is no way back.
pub fn enter(limits: Limits) -> Result<(), SandboxError> {
    for (resource, soft, hard) in [
        (Resource::As, limits.memory_bytes, limits.memory_bytes),
        // At the soft limit SIGXCPU, which tells the parent what happened.
        (Resource::Cpu, limits.cpu_seconds, limits.cpu_seconds + 1),
        (Resource::Fsize, 0, 0),
        (Resource::Nofile, 0, 0),
        (Resource::Core, 0, 0),
    ] {
        let limit = Rlimit { current: Some(soft), maximum: Some(hard) };
        setrlimit(resource, limit).map_err(|error| SandboxError::Limit(resource, error.into()))?;
    }
    // Sets no_new_privs first.
    seccompiler::apply_filter(&filter().map_err(seccompiler::Error::Backend)?)?;
    Ok(())
}

/// What remains: reading and writing what is open, memory that is not executable, signals to itself, an end. All else
/// answers EPERM: no open, socket, exec, fork or thread, and none of the calls that kernels will yet learn.
fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_lseek,
        libc::SYS_close,
        libc::SYS_fstat,
        libc::SYS_brk,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_clock_gettime,
        libc::SYS_getrandom,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_restart_syscall,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ]
    .into_iter()
    .map(|call| (call, vec![]))
    .collect();

    let executable = libc::PROT_EXEC as u64;
    let not_executable = || argument(2, SeccompCmpOp::MaskedEq(executable), 0);
    rules.insert(libc::SYS_mmap, vec![not_executable()?]);
    rules.insert(libc::SYS_mprotect, vec![not_executable()?]);
    // abort() raises a signal this way; only in this process.
    let own = u64::from(getpid().as_raw_nonzero().get().unsigned_abs());
    rules.insert(libc::SYS_tgkill, vec![argument(0, SeccompCmpOp::Eq, own)?]);

    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch)?.try_into()
}

fn argument(index: u8, operation: SeccompCmpOp, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(index, SeccompCmpArgLen::Dword, operation, value)?])
}
