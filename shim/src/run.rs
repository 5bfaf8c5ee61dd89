//! Wiring: flags in, a running shim out, until it is asked to stop. The serving runtime has all cores; the control loop
//! and the admin port have a thread of their own, so neither waits for the other.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use podless_engine::{Pool, runner};
use podless_link::v1;
use tokio::{net::TcpListener, runtime, sync::oneshot};

use crate::{
    admin,
    cli::Cli,
    control::{self, ControlConfig},
    drain,
    host::log::Lines,
    metrics::Metrics,
    node,
    serve::{Node, epoch},
    shared::Shared,
};

/// Descriptors that are left for everything but guests' clients.
const FILES_LEFT: u64 = 1024;
/// Connections of all services together, when descriptors allow.
const CONNECTIONS: u64 = 65_536;

/// Runs the shim.
pub fn run(cli: &Cli) -> anyhow::Result<()> {
    let limits = node::read();
    let capacity = node::capacity(cli.instances, limits);
    let pool = Pool { instances: capacity.instances, pagemap_scan: !limits.swap };
    let engine = runner(pool).map_err(|error| anyhow!("{error:#}")).context("the engine cannot be started")?;
    epoch::start(&engine)?;
    tracing::info!(
        instances = capacity.instances,
        bounded_by = capacity.bounded_by,
        pagemap_scan = pool.pagemap_scan,
        fingerprint = podless_engine::fingerprint(),
        "starting"
    );
    let connections = limits.files.saturating_sub(FILES_LEFT).clamp(64, CONNECTIONS) as usize;
    let node = Arc::new(Node::new(capacity.instances as usize, connections));
    let shared = Arc::new(Shared::default());
    let lines = Lines::start(std::io::stdout())?;
    let serving = runtime::Builder::new_multi_thread().enable_all().thread_name("serve").build()?;
    let metrics = Arc::new(Metrics {
        shared: shared.clone(),
        node: node.clone(),
        lines: lines.clone(),
        slots: capacity.instances,
    });
    let config = ControlConfig {
        link: cli.link(),
        data_dir: cli.data_dir.clone(),
        state_dir: cli.state_dir.clone(),
        capacity: v1::Capacity { instances: capacity.instances, bounded_by: capacity.bounded_by.to_owned() },
        engine,
        node: node.clone(),
        lines,
        shared: shared.clone(),
        serve: serving.handle().clone(),
    };
    let (stop, stopped) = oneshot::channel();
    let (ended, control_ended) = oneshot::channel::<()>();
    let (admin_port, handle) = (cli.admin_port, serving.handle().clone());
    let control = std::thread::Builder::new().name("control".to_owned()).spawn(move || -> anyhow::Result<()> {
        let _ended = ended;
        runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, admin_port))
                .await
                .with_context(|| format!("the admin port {admin_port} cannot be opened"))?;
            tokio::spawn(admin::serve(listener, metrics, handle));
            control::run(config, stopped).await
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
