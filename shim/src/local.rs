//! The shim without an operator, for one machine: assignments come from this process, and what the shim says goes back
//! to it. Everything between is the shim's own: the same gate, store, loader, linkers and hot path. IO.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek, Write},
    net::TcpListener,
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use anyhow::anyhow;
use podless_artifact::seal::Seal;
use podless_host::log::Lines;
use podless_link::{
    SERVICE_PORTS, TRUST_CA, TRUST_SEAL,
    v1::{Assign, FromShim, from_shim, to_shim},
};
use tokio::{
    runtime::{self, Handle},
    sync::{mpsc, oneshot},
};

use crate::{
    control::{self, ControlConfig, doors::Doors, link::LinkEvent, store::Store},
    engine, node,
    serve::Node,
    shared::Shared,
};

/// Descriptors that are left for everything but connections.
const FILES_LEFT: u64 = 256;
/// Connections of all services together, when descriptors allow.
const CONNECTIONS: u64 = 4096;
/// Bytes that are copied at once.
const PIECE: usize = 256 << 10;

/// What a shim on its own works with.
pub struct Options {
    /// A folder of its own, for the artifacts that it runs.
    pub folder: PathBuf,
    /// Public half of the key that signs seals and assignments, PEM.
    pub seal_public_pem: String,
    /// Instances that may be live at once, when this machine allows as many.
    pub instances: u32,
    /// Listening sockets: the first is service port 20000, and so on.
    pub sockets: Vec<TcpListener>,
    /// Where guests' lines go, as JSON.
    pub log: Box<dyn Write + Send>,
}

/// A shim in this process. Dropping it ends the shim without waiting for requests.
pub struct Local {
    store: Store,
    events: mpsc::UnboundedSender<LinkEvent>,
    said: mpsc::Receiver<FromShim>,
    stop: Option<oneshot::Sender<()>>,
    control: Option<JoinHandle<anyhow::Result<()>>>,
}

/// The service port of the socket with this index.
pub fn service_port(index: usize) -> Option<u16> {
    SERVICE_PORTS.clone().nth(index)
}

impl Local {
    /// Starts a shim; it serves on the runtime that this is called in.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let Options { folder, seal_public_pem, instances, sockets, log } = options;
        let target = engine::target(None)?;
        let limits = node::read();
        let (engines, capacity) = engine::start(target, Some(instances), limits)?;
        let trust_dir = folder.join("trust");
        std::fs::create_dir_all(&trust_dir)?;
        std::fs::write(trust_dir.join(TRUST_SEAL), seal_public_pem)?;
        // There is no link whose authority it would be.
        std::fs::write(trust_dir.join(TRUST_CA), "")?;
        let connections = limits.files.saturating_sub(FILES_LEFT).clamp(64, CONNECTIONS) as usize;
        let config = ControlConfig {
            trust_dir,
            data_dir: folder.clone(),
            // Assignments may hold secrets, and nothing of this process is served again after it.
            state_dir: None,
            admin_port: None,
            shared_port: None,
            // Nothing is parked where nobody scales.
            park_after: Duration::MAX,
            capacity: podless_link::v1::Capacity {
                instances: capacity.instances,
                bounded_by: capacity.bounded_by.to_owned(),
                services: u32::try_from(sockets.len()).unwrap_or(u32::MAX),
            },
            room: node::room(capacity.instances, None, limits),
            engines: Arc::new(engines),
            target,
            node: Arc::new(Node::new(capacity.instances as usize, limits.memory, connections)),
            lines: Lines::start(log)?,
            shared: Arc::new(Shared::default()),
            serve: Handle::current(),
        };
        let doors = Box::new(Given(SERVICE_PORTS.zip(sockets).collect()));
        let (events, heard) = mpsc::unbounded_channel();
        let (outbox, mut said) = mpsc::channel(1024);
        let (stop, stopped) = oneshot::channel();
        let control = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            runtime::Builder::new_current_thread().enable_all().build()?.block_on(control::run(
                config,
                doors,
                |to_control| relay(heard, outbox, to_control),
                stopped,
            ))
        })?;
        // The first word is Hello: from then on the shim's folder is in order.
        let Some(FromShim { body: Some(from_shim::Body::Hello(_)) }) = said.recv().await else {
            let ended = control.join().map_err(|_| anyhow!("the control loop panicked"))?;
            return Err(ended.err().unwrap_or_else(|| anyhow!("the shim did not start")));
        };
        Ok(Self { store: Store::open(&folder), events, said, stop: Some(stop), control: Some(control) })
    }

    /// Lays an artifact where the shim finds it: the bytes that the seal names, or none. Blocks for as long as hashing
    /// and writing take.
    pub fn lay(&self, seal: &Seal, code: &File) -> anyhow::Result<()> {
        let mut code = code.try_clone()?;
        code.rewind()?;
        let mut receiving = self.store.receive(seal)?;
        let mut piece = vec![0; PIECE];
        loop {
            match code.read(&mut piece)? {
                0 => break,
                read => receiving.write(&piece[..read])?,
            }
        }
        receiving.finish()?;
        Ok(())
    }

    /// Gives the shim a signed assignment, whose artifact has been laid.
    pub fn assign(&self, assign: Assign) {
        // Who does not listen any more has said why in what `next` answers.
        let _ = self.events.send(LinkEvent::Said(to_shim::Body::Assign(assign)));
    }

    /// Asks for a report now.
    pub fn ask_for_report(&self) {
        let _ = self.events.send(LinkEvent::Report);
    }

    /// What the shim says next: acknowledgements and reports. `None` when it has ended.
    pub async fn next(&mut self) -> Option<from_shim::Body> {
        loop {
            if let Some(body) = self.said.recv().await?.body {
                return Some(body);
            }
        }
    }

    /// Closes the ports, lets requests in flight end within their time, and ends the shim.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let Some(control) = self.control.take() else { return Ok(()) };
        let ended = tokio::task::spawn_blocking(move || control.join()).await?;
        ended.map_err(|_| anyhow!("the control loop panicked"))?
    }
}

/// The sockets that were given, by service port.
struct Given(HashMap<u16, TcpListener>);

impl Doors for Given {
    fn open(&mut self, port: u16) -> io::Result<TcpListener> {
        self.0.remove(&port).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no socket was given for it"))
    }
}

/// The link's stand-in: opens at once, passes everything on, and never closes: without it nothing would be left to do.
async fn relay(
    mut heard: mpsc::UnboundedReceiver<LinkEvent>,
    outbox: mpsc::Sender<FromShim>,
    to_control: mpsc::Sender<LinkEvent>,
) {
    if to_control.send(LinkEvent::Opened(None, outbox)).await.is_err() {
        return;
    }
    while let Some(event) = heard.recv().await {
        if to_control.send(event).await.is_err() {
            return;
        }
    }
    std::future::pending().await
}
