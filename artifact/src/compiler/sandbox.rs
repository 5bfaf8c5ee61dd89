//! The walls around the child that parses untrusted bytes. In: limits; out: a process that can read, write and compute
//! with what it has open, and nothing else. IO.

use std::{collections::BTreeMap, io};

use landlock::{
    ABI, Access, AccessFs, AccessNet, RestrictionStatus, Ruleset, RulesetAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::process::{Resource, Rlimit, Signal, getpid, set_parent_process_death_signal, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::errand::{Limits, Walls};

/// Why the walls do not stand; then nothing may be read.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The process could not be cut off from who started it.
    #[error("cannot part from the parent: {0}")]
    Alone(io::Error),
    /// A resource limit was refused.
    #[error("cannot limit {0:?}: {1}")]
    Limit(Resource, io::Error),
    /// The filter was refused.
    #[error("cannot filter system calls: {0}")]
    Filter(#[from] seccompiler::Error),
}

/// Leaves this process nothing of its parent's but the three standard streams, and lets it end with its parent. To be
/// called before anything is opened. Who starts it does so on a thread that lasts: to the kernel that is the parent.
pub fn alone() -> Result<(), SandboxError> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| SandboxError::Alone(error.into()))?;
    close_others().map_err(SandboxError::Alone)
}

#[expect(unsafe_code, reason = "no crate that we use has a safe close_range")]
fn close_others() -> io::Result<()> {
    // SAFETY: the process has just begun; nothing in it owns a descriptor but the standard streams, which stay.
    match unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Puts this process, which has one thread, behind the walls; says which of them stand. There is no way back.
pub fn enter(limits: Limits) -> Result<Walls, SandboxError> {
    // First: it needs a descriptor.
    let landlock = landlock();
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
    Ok(Walls { seccomp: true, landlock })
}

/// Has the kernel refuse every file, socket and signal, as far as its Landlock knows them: all of it is refused by the
/// filter too. Whether anything is; a kernel without Landlock is no error.
pub fn landlock() -> bool {
    let restrict = || -> Result<RestrictionStatus, RulesetError> {
        Ruleset::default()
            .handle_access(AccessFs::from_all(ABI::V5))?
            .handle_access(AccessNet::from_all(ABI::V5))?
            .scope(Scope::from_all(ABI::V6))?
            .create()?
            .restrict_self()
    };
    restrict().is_ok_and(|restricted| restricted.ruleset != RulesetStatus::NotEnforced)
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
