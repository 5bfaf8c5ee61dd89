//! Wiring: flags in, a running shim out, until it is asked to stop. The serving runtime has all cores; the control loop
//! and the admin port have a thread of their own, so neither waits for the other.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use podless_host::log::Lines;
use podless_link::v1;
use tokio::{net::TcpListener, runtime, sync::oneshot};

use crate::{
    admin,
    cli::Cli,
    control::{
        self, ControlConfig,
        doors::{Doors, Supervisor},
        link,
    },
    drain, engine, memory,
    metrics::Metrics,
    node,
    serve::Node,
    shared::Shared,
};

/// Runs the shim: the process that the supervisor started.
pub fn run(cli: &Cli) -> anyhow::Result<()> {
    let mut doors = Supervisor::of_this_process()?;
    let admin = doors.open(cli.admin_port).context("the admin port cannot be opened")?;
    admin.set_nonblocking(true)?;
    let mut limits = node::read();
    if let Some(mebibytes) = cli.memory_limit {
        limits.memory = u64::from(mebibytes) << 20;
    }
    let target = engine::target(cli.target)?;
    let (engines, capacity) = engine::start(target, cli.instances, limits)?;
    tracing::info!(
        instances = capacity.instances,
        bounded_by = capacity.bounded_by,
        pagemap_scan = !limits.swap,
        %target,
        fingerprint = podless_engine::fingerprint(target),
        "starting"
    );
    let (services, connections) = node::ports_and_connections(limits);
    let node = Arc::new(Node::new(capacity.instances as usize, limits.memory, connections));
    memory::watch(&node.memory)?;
    let shared = Arc::new(Shared::default());
    let lines = Lines::start(std::io::stdout())?;
    let serving = runtime::Builder::new_multi_thread().enable_all().thread_name("serve").build()?;
    let metrics = Arc::new(Metrics {
        shared: shared.clone(),
        node: node.clone(),
        lines: lines.clone(),
        slots: capacity.instances,
        restarts: cli.supervised.unwrap_or_default(),
    });
    let config = ControlConfig {
        trust_dir: cli.trust_dir.clone(),
        data_dir: cli.data_dir.clone(),
        state_dir: Some(cli.state_dir.clone()),
        admin_port: Some(cli.admin_port),
        shared_port: cli.shared_port,
        park_after: Duration::from_secs(cli.park_seconds),
        capacity: v1::Capacity { instances: capacity.instances, bounded_by: capacity.bounded_by.to_owned(), services },
        room: node::room(capacity.instances, cli.code_memory, limits),
        engines: Arc::new(engines),
        target,
        node: node.clone(),
        lines,
        shared: shared.clone(),
        serve: serving.handle().clone(),
    };
    let (stop, stopped) = oneshot::channel();
    let (ended, control_ended) = oneshot::channel::<()>();
    let (operator, handle) = (cli.link(), serving.handle().clone());
    let control = std::thread::Builder::new().name("control".to_owned()).spawn(move || -> anyhow::Result<()> {
        let _ended = ended;
        // Threads that read, hash and map, while this one does not.
        let runtime = runtime::Builder::new_current_thread().enable_all().on_thread_start(node::give_way).build()?;
        runtime.block_on(async {
            tokio::spawn(admin::serve(TcpListener::from_std(admin)?, metrics, handle));
            control::run(config, Box::new(doors), |events| link::run(operator, events), stopped).await
        })
    })?;
    serving.block_on(async {
        tokio::select! {
            drained = drain::wait(node, shared, Duration::from_secs(cli.drain_seconds)) => drained,
            // A control loop that ended by itself has failed; its error is returned below.
            _ = control_ended => Ok(()),
        }
    })?;
    let _ = stop.send(());
    let result = control.join().map_err(|_| anyhow!("the control loop panicked"))?;
    serving.shutdown_background();
    result
}
