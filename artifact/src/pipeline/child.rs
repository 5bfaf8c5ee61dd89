//! The parent's end of the child that audits and compiles. In: a pulled component; out: first what it says of itself,
//! then, once audited, its machine code in a file. IO.

use std::{
    env,
    ffi::OsString,
    fs::{self, Permissions},
    io,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use podless_engine::Recipe;
use rustix::process::{Pid, Signal, kill_process_group};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdout, Command},
    time::{Instant, timeout_at},
};

use super::{audit::AuditedComponent, pull::PulledComponent};
use crate::compiler::{
    errand::{Errand, Limits, Report, Walls},
    facts::{Facts, FactsError, MOST, NAME_CHARS},
};

/// Longest line that the child may say.
const LINE_BYTES: u64 = 4 << 20;
/// Most machine code that one component may become.
const CODE_BYTES: u64 = 512 << 20;
/// Longest message that is passed on.
const MESSAGE_CHARS: usize = 500;

/// How many seconds may pass for each that a child may take of a CPU: that ends one that does nothing.
const PATIENCE: u64 = 6;

/// Name of the program that is the operator's child.
const PROGRAM: &str = "podless-compile";

/// The program that is the child: it calls `compile_child` with the one argument that follows those here.
#[derive(Clone, Debug)]
pub struct ChildProgram {
    /// The executable.
    pub path: PathBuf,
    /// Its first arguments.
    pub arguments: Vec<OsString>,
}

impl ChildProgram {
    /// `podless-compile` in this program's own folder.
    pub fn beside() -> io::Result<Self> {
        Ok(Self { path: env::current_exe()?.with_file_name(PROGRAM), arguments: vec![] })
    }

    /// This program's own subcommand.
    pub fn subcommand(name: &str) -> Self {
        Self { path: "/proc/self/exe".into(), arguments: vec![name.into()] }
    }

    /// The walls that stand around such a child on this machine.
    pub(crate) async fn walls(&self) -> Result<Walls, CompileError> {
        let limits = Limits::default();
        let mut child = Running::start(self, limits, &Errand::Walls, Stdio::null())?;
        match child.report().await? {
            Report::Walls(walls) => Ok(walls),
            _ => Err(out_of_turn()),
        }
    }
}

/// Why there is no machine code.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CompileError {
    /// The bytes are no component.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// The compiler refused it.
    #[error("the component does not compile ({0}): build it with a released toolchain, for WASI 0.2 or 0.3")]
    Failed(String),
    /// More time than it may use.
    #[error(
        "compiling the component takes more than {} s of CPU time, which is the limit: make it smaller, as by a release \
         build that is optimised for size and has fewer dependencies", .0.cpu_seconds
    )]
    Time(Limits),
    /// More memory than it may use.
    #[error(
        "compiling the component takes more than {} MiB of memory, which is the limit: make it smaller, as by a release \
         build that is optimised for size, and split functions of thousands of lines", .0.memory_bytes >> 20
    )]
    Memory(Limits),
    /// More machine code than a shim takes.
    #[error("the component becomes more than {} MiB of machine code, which is the limit: make it smaller", CODE_BYTES >> 20)]
    Code,
    /// Not the component's fault.
    #[error("compiling did not work: {0}; it is tried again")]
    Broken(String),
}

impl From<io::Error> for CompileError {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Machine code that a child has made, in a file that nobody else knows yet. Nothing vouches for it.
pub struct MachineCode {
    pub(crate) file: NamedTempFile,
    pub(crate) sha256: String,
    pub(crate) size: u64,
    pub(crate) millis: u64,
}

impl MachineCode {
    /// Its size, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Milliseconds that the compilation took.
    pub fn millis(&self) -> u64 {
        self.millis
    }

    /// Copies it to a file, whole or not at all. A file that is there is replaced; what is no regular file is left alone, as
    /// is what a link leads to.
    pub fn save(&self, to: &Path) -> io::Result<()> {
        match fs::symlink_metadata(to) {
            Ok(there) if !there.is_file() => return Err(io::Error::other("it is no regular file")),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let folder = to.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        // For whom any new file is for.
        let mut copy = tempfile::Builder::new().permissions(Permissions::from_mode(0o666)).tempfile_in(folder)?;
        io::copy(&mut self.file.reopen()?, &mut copy)?;
        copy.persist(to)?;
        Ok(())
    }
}

/// Machine code of an audited component.
pub(crate) struct CompiledComponent {
    pub(crate) audited: AuditedComponent,
    pub(crate) code: MachineCode,
}

/// A child that compiles.
pub(crate) struct Compiling(Running);

impl Compiling {
    pub(crate) fn start(
        program: &ChildProgram,
        limits: Limits,
        recipe: Recipe,
        component: PulledComponent,
    ) -> io::Result<Self> {
        let errand = Errand::Compile { limits, recipe };
        Ok(Self(Running::start(program, limits, &errand, Stdio::from(component.into_file()))?))
    }

    /// What the component says of itself.
    pub(crate) async fn facts(&mut self) -> Result<Facts, CompileError> {
        match self.0.report().await? {
            Report::Facts(Ok(facts)) if are_possible(&facts) => Ok(facts),
            Report::Facts(Ok(_)) => {
                Err(CompileError::Broken("the child says more of the component than it may".to_owned()))
            }
            // The parser quotes what the component has.
            Report::Facts(Err(FactsError::NotWebAssembly(why))) => {
                Err(FactsError::NotWebAssembly(shorten(&why)).into())
            }
            Report::Facts(Err(why)) => Err(why.into()),
            Report::Failed(why) => Err(CompileError::Failed(shorten(&why))),
            Report::Code { .. } | Report::Walls(_) => Err(out_of_turn()),
        }
    }

    /// The machine code of what was audited, which the child makes meanwhile.
    pub(crate) async fn code(
        self,
        audited: AuditedComponent,
        folder: &Path,
    ) -> Result<CompiledComponent, CompileError> {
        Ok(CompiledComponent { audited, code: self.machine_code(folder).await? })
    }

    /// The machine code.
    pub(crate) async fn machine_code(mut self, folder: &Path) -> Result<MachineCode, CompileError> {
        let child = &mut self.0;
        let (size, millis) = match child.report().await? {
            Report::Code { size, millis } if size <= CODE_BYTES => (size, millis),
            Report::Code { .. } => return Err(CompileError::Code),
            Report::Failed(why) => return Err(CompileError::Failed(shorten(&why))),
            Report::Facts(_) | Report::Walls(_) => return Err(out_of_turn()),
        };
        let file = NamedTempFile::new_in(folder)?;
        let copying = copy(&mut child.output, tokio::fs::File::from_std(file.reopen()?), size);
        let sha256 = match timeout_at(child.deadline, copying).await {
            Ok(copied) => copied?,
            Err(_) => return Err(CompileError::Time(child.limits)),
        };
        match sha256 {
            Some(sha256) => Ok(MachineCode { file, sha256, size, millis }),
            None => Err(child.ended().await),
        }
    }
}

/// A child at work, in a process group of its own; dropping it kills the group.
struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
    limits: Limits,
    deadline: Instant,
}

impl Running {
    fn start(program: &ChildProgram, limits: Limits, errand: &Errand, input: Stdio) -> io::Result<Self> {
        let mut child = Command::new(&program.path)
            .args(&program.arguments)
            .arg(serde_json::to_string(errand)?)
            .env_clear()
            .env(podless_engine::EDITION, podless_engine::edition())
            .current_dir("/")
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().ok_or_else(|| io::Error::other("the child has no output"))?;
        // A machine may be busy, and give the operator a small share.
        let deadline = Instant::now() + Duration::from_secs(limits.cpu_seconds.saturating_mul(PATIENCE));
        Ok(Self { child, output: BufReader::new(output), limits, deadline })
    }

    async fn report(&mut self) -> Result<Report, CompileError> {
        let mut line = Vec::new();
        let reading = async { (&mut self.output).take(LINE_BYTES).read_until(b'\n', &mut line).await };
        match timeout_at(self.deadline, reading).await {
            Ok(read) => read?,
            Err(_) => return Err(CompileError::Time(self.limits)),
        };
        if line.last() != Some(&b'\n') {
            return Err(match line.len() as u64 {
                LINE_BYTES => CompileError::Broken("the child does not stop talking".to_owned()),
                _ => self.ended().await,
            });
        }
        serde_json::from_slice(&line).map_err(|_| CompileError::Broken("the child does not make sense".to_owned()))
    }

    /// The child has closed its output and said less than it should.
    async fn ended(&mut self) -> CompileError {
        match timeout_at(self.deadline, self.child.wait()).await {
            Ok(Ok(status)) => judge_end(status, self.limits),
            Ok(Err(error)) => error.into(),
            Err(_) => CompileError::Time(self.limits),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // There is a number for as long as nobody has waited for its end: until then it is nobody else's.
        if let Some(group) = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

fn out_of_turn() -> CompileError {
    CompileError::Broken("the child spoke out of turn".to_owned())
}

/// A signal is how limits end a process: SIGXCPU for time, SIGABRT when an allocation failed, SIGSEGV for the stack.
/// SIGKILL is none of theirs: the kernel sends it when the machine is short of memory, which is not the component's
/// fault. A panic is reported.
fn judge_end(status: ExitStatus, limits: Limits) -> CompileError {
    match status.signal() {
        Some(libc::SIGXCPU) => CompileError::Time(limits),
        Some(libc::SIGABRT | libc::SIGSEGV) => CompileError::Memory(limits),
        Some(libc::SIGKILL) => CompileError::Broken(
            "the compiling process was killed, perhaps because the machine is short of memory".to_owned(),
        ),
        _ => CompileError::Broken(format!("the compiling process ended early ({status})")),
    }
}

/// Copies this many bytes; their SHA-256, or `None` when fewer come.
async fn copy(from: &mut (impl AsyncRead + Unpin), mut to: tokio::fs::File, size: u64) -> io::Result<Option<String>> {
    let (mut hash, mut left, mut buffer) = (Sha256::new(), size, vec![0; 64 << 10]);
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        left = left.checked_sub(read as u64).ok_or_else(|| io::Error::other("the child sends more than it said"))?;
        hash.update(&buffer[..read]);
        to.write_all(&buffer[..read]).await?;
    }
    to.flush().await?;
    Ok((left == 0).then(|| hex::encode(hash.finalize())))
}

/// Whether a child that does its work could say so.
fn are_possible(facts: &Facts) -> bool {
    let few = facts.imports.len().max(facts.exports.len()) <= MOST;
    let mut names = facts.imports.iter().map(|import| &import.name).chain(&facts.exports);
    few && names.all(|name| name.chars().count() <= NAME_CHARS && !name.contains(char::is_control))
}

/// Text of the child, fit for a sentence.
fn shorten(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MESSAGE_CHARS).collect()
}
