//! `podless run`: what is named in; served until a signal, and then the status that a cluster would have reported out.
//! The pipeline is the operator's and what serves is the shim's: here they are put into one process.

mod assignment;
mod log;
mod signals;
mod sockets;
mod status;

use std::{collections::BTreeSet, fs, io, net::TcpListener, path::Path, process::ExitCode, time::Duration};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use podless_artifact::SealedArtifact;
use podless_crds::WasmService;
use podless_link::v1::{Report, ack::Outcome, from_shim::Body};
use podless_operator::build::compiler_options;
use podless_shim::local::{Local, Options};
use tokio::{task::spawn_blocking, time::timeout};

use self::{log::TextLog, signals::Signals};
use crate::{
    args::{Output, RunArgs},
    failure::Failure,
    output::say,
    service,
    target::{Source, Target},
    workshop::Workshop,
};

/// Instances that may be live at once.
const INSTANCES: u32 = 1000;
/// Longest wait for the last report.
const LAST_REPORT: Duration = Duration::from_secs(3);

/// What is wanted.
struct Wish {
    service: WasmService,
    source: Source,
}

/// What serves.
struct Serving {
    uid: String,
    service: WasmService,
    artifact: SealedArtifact,
    url: String,
}

impl Serving {
    fn name(&self) -> &str {
        self.service.metadata.name.as_deref().unwrap_or_default()
    }
}

/// Serves until it is told to stop.
pub(crate) async fn run(args: RunArgs, output: Output) -> Result<ExitCode, Failure> {
    let mut signals = Signals::new().map_err(Failure::environment)?;
    let wishes = wishes(&args)?;
    let sockets = sockets::listen(args.listen, wishes.len())?;
    let (local, serving) = tokio::select! {
        // First: Ctrl-C ends the compiling child too, which is not why nothing is served.
        biased;
        () = signals.next() => return Err(Failure::interrupted()),
        started = start(&args, wishes, sockets) => started?,
    };
    for one in &serving {
        say(&format!("{} is served at {}", one.name(), one.url));
    }
    say("Ctrl-C ends it and prints its status");
    until_told_to_stop(local, &serving, signals, output).await
}

/// What the target holds.
fn wishes(args: &RunArgs) -> Result<Vec<Wish>, Failure> {
    let path = match Target::of(&args.target)? {
        Target::Component(source) => {
            let service = service::of(&source, &args.changes)?;
            return Ok(vec![Wish { service, source }]);
        }
        Target::Services(path) => path,
    };
    let text = fs::read_to_string(&path)
        .map_err(|error| Failure::mistake("FileNotRead", format!("cannot read {}: {error}", path.display())))?;
    let documents = service::read(&text, &args.changes).map_err(|failure| failure.of(&path.display().to_string()))?;
    for other in documents.others {
        say(&format!("left out, there is no cluster here: {other}"));
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let wish = |service: WasmService| {
        let source = Source::of_spec(&service.spec.revision.image, folder);
        Wish { service, source }
    };
    Ok(documents.services.into_iter().map(wish).collect())
}

/// Makes the artifacts and has a shim serve them.
async fn start(args: &RunArgs, wishes: Vec<Wish>, sockets: Vec<TcpListener>) -> Result<(Local, Vec<Serving>), Failure> {
    let plain_http = args.registries.plain_http.clone();
    // May wait for another process, and must not hold up a signal.
    let opened = spawn_blocking(move || Workshop::open(&plain_http)).await;
    let workshop = opened.map_err(Failure::environment)??;
    let mut serving = vec![];
    for (index, (Wish { service, source }, socket)) in wishes.into_iter().zip(&sockets).enumerate() {
        let name = service.metadata.name.clone().unwrap_or_default();
        let url = sockets::url(socket).map_err(Failure::environment)?;
        let options = compiler_options(service.spec.revision.compiler);
        let artifact = workshop.build(&source, service::grants(&service), options).await;
        let artifact = artifact.map_err(|failure| failure.of(&name))?;
        serving.push(Serving { uid: format!("local-{index}"), service, artifact, url });
    }
    let folder = folder_of_its_own(workshop.folder()).map_err(Failure::environment)?;
    let options = Options {
        // As `/proc` names what is mapped from it.
        folder: folder.path().canonicalize().map_err(Failure::environment)?,
        seal_public_pem: workshop.key().public_pem().map_err(Failure::environment)?,
        instances: INSTANCES,
        sockets,
        log: Box::new(TextLog(io::stderr())),
    };
    let mut local = Local::start(options).await.map_err(Failure::environment)?;
    for (index, one) in serving.iter().enumerate() {
        let assign = assignment::signed(one, index, &workshop.key())?;
        local.lay(one.artifact.seal(), one.artifact.code()).map_err(Failure::environment)?;
        local.assign(assign);
    }
    until_loaded(&mut local, &serving).await?;
    // Everything is mapped: the folder and the cache's lock are needed no more.
    Ok((local, serving))
}

/// A folder for the shim. Who holds the cache's lock may remove those of processes that were killed.
fn folder_of_its_own(cache: &Path) -> io::Result<tempfile::TempDir> {
    const PREFIX: &str = "run-";
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    tempfile::Builder::new().prefix(PREFIX).tempdir_in(cache)
}

async fn until_loaded(local: &mut Local, serving: &[Serving]) -> Result<(), Failure> {
    let mut waiting: BTreeSet<_> = serving.iter().map(|one| one.uid.as_str()).collect();
    while !waiting.is_empty() {
        let Some(body) = local.next().await else { return Err(ended()) };
        let Body::Ack(ack) = body else { continue };
        match ack.outcome {
            Some(Outcome::Failed(failed)) => {
                let name = serving.iter().find(|one| one.uid == ack.service_uid).map_or("", Serving::name);
                return Err(Failure::mistake("LoadFailed", failed.message).of(name));
            }
            _ => drop(waiting.remove(ack.service_uid.as_str())),
        }
    }
    Ok(())
}

fn ended() -> Failure {
    Failure::environment("what serves has ended by itself: set RUST_LOG=info to see why")
}

async fn until_told_to_stop(
    mut local: Local,
    serving: &[Serving],
    mut signals: Signals,
    output: Output,
) -> Result<ExitCode, Failure> {
    let (since, mut last) = (Time(Timestamp::now()), Report::default());
    loop {
        tokio::select! {
            said = local.next() => match said {
                Some(Body::Report(report)) => last = report,
                Some(_) => {}
                None => return Err(ended()),
            },
            () = signals.next() => break,
        }
    }
    local.ask_for_report();
    let newest = async {
        while let Some(body) = local.next().await {
            if let Body::Report(report) = body {
                return Some(report);
            }
        }
        None
    };
    let last = timeout(LAST_REPORT, newest).await.ok().flatten().unwrap_or(last);
    for (index, one) in serving.iter().enumerate() {
        let report = last.services.iter().find(|report| report.service_uid == one.uid);
        status::print(one, status::status(one, report, &since), index, output)?;
    }
    tokio::select! {
        stopped = local.stop() => stopped.map_err(Failure::environment).map(|()| ExitCode::SUCCESS),
        // Somebody does not want to wait for requests that are still being answered.
        () = signals.next() => Ok(ExitCode::from(130)),
    }
}
