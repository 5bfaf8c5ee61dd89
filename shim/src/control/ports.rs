//! The open ports and whose they are. A port that a withdrawn service still lingers on is handed to the next service
//! without being closed.

use std::{collections::HashMap, io, net::TcpListener, sync::Arc};

use rustix::process::Pid;
use tokio::runtime::Handle;

use super::doors::Doors;
use crate::serve::{
    Node, Route,
    hosts::{HostTable, Seat},
    listen::Listener,
    service::{Identity, Service},
};

/// One tenure of a port: a later one ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tenure(u64);

struct Port {
    listener: Listener,
    owner: Arc<Identity>,
    lingering: bool,
    tenure: Tenure,
}

/// Every open port.
pub(crate) struct Ports {
    open: HashMap<u16, Port>,
    /// With its number.
    shared: Option<(u16, Shared)>,
    doors: Box<dyn Doors>,
    node: Arc<Node>,
    serve: Handle,
    tenures: u64,
}

/// The port of all services that have hosts.
enum Shared {
    /// Who comes waits until what there was before a restart is there again.
    Held(TcpListener),
    Open(Listener),
}

/// Why a service cannot have its port.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PortError {
    /// Another service has it.
    #[error("port {0} belongs to another service on this node")]
    Taken(u16),
    /// The kernel refused.
    #[error("port {0} cannot be opened: {1}")]
    Open(u16, io::Error),
}

impl Ports {
    /// No ports yet; they will be served on this runtime.
    pub(crate) fn new(doors: Box<dyn Doors>, node: Arc<Node>, serve: Handle) -> Self {
        Self { open: HashMap::new(), shared: None, doors, node, serve, tenures: 0 }
    }

    /// Holds the shared port: nobody is answered there yet.
    pub(crate) fn hold_shared(&mut self, number: u16) -> io::Result<()> {
        self.shared = Some((number, Shared::Held(self.doors.open(number)?)));
        Ok(())
    }

    /// Answers on the shared port by this table, if it is held.
    pub(crate) fn open_shared(&mut self, hosts: Arc<HostTable<Seat>>) -> io::Result<()> {
        let (number, socket) = match self.shared.take() {
            Some((number, Shared::Held(socket))) => (number, socket),
            other => {
                self.shared = other;
                return Ok(());
            }
        };
        let _serving = self.serve.enter();
        let listener = Listener::open(socket, Arc::new(Route::shared(hosts)), self.node.clone());
        // As of a service's port: nobody accepts there.
        let listener = listener.inspect_err(|_| self.doors.close(number))?;
        self.shared = Some((number, Shared::Open(listener)));
        Ok(())
    }

    /// Serves a service on its port: from now on each request there gets this generation.
    pub(crate) fn serve(&mut self, number: u16, service: Arc<Service>) -> Result<(), PortError> {
        let owner = service.identity.clone();
        if let Some(port) = self.open.get_mut(&number) {
            if port.owner.uid != owner.uid && !port.lingering {
                return Err(PortError::Taken(number));
            }
            port.listener.route.swap(Some(service));
            (port.owner, port.lingering) = (owner, false);
            port.tenure = next(&mut self.tenures);
            return Ok(());
        }
        let _serving = self.serve.enter();
        let listener = self
            .doors
            .open(number)
            .and_then(|socket| Listener::open(socket, Arc::new(Route::new(service)), self.node.clone()))
            .map_err(|error| {
                // Nobody accepts there: clients are to be refused, not kept waiting.
                self.doors.close(number);
                PortError::Open(number, error)
            })?;
        let tenure = next(&mut self.tenures);
        self.open.insert(number, Port { listener, owner, lingering: false, tenure });
        Ok(())
    }

    /// More shims than before get connections of this port.
    pub(crate) fn spread(&self, number: u16, before: u32, after: u32) {
        if let Some(port) = self.open.get(&number) {
            port.listener.spread(before, after);
        }
    }

    /// The owner leaves: the port answers on until it is closed or handed on.
    pub(crate) fn linger(&mut self, number: u16) -> Option<Tenure> {
        let port = self.open.get_mut(&number)?;
        port.lingering = true;
        Some(port.tenure)
    }

    /// Takes out a port to close it, unless it was handed on meanwhile.
    pub(crate) fn take(&mut self, number: u16, tenure: Tenure) -> Option<Listener> {
        let still = self.open.get(&number).is_some_and(|port| port.lingering && port.tenure == tenure);
        let port = still.then(|| self.open.remove(&number)).flatten()?;
        self.doors.close(number);
        Some(port.listener)
    }

    /// Takes out every port.
    pub(crate) fn take_all(&mut self) -> Vec<Listener> {
        let shared = self.shared.take();
        let numbers = self.open.keys().copied().chain(shared.as_ref().map(|(number, _)| *number));
        numbers.for_each(|number| self.doors.close(number));
        let shared = shared.and_then(|(_, shared)| match shared {
            Shared::Open(listener) => Some(listener),
            Shared::Held(_) => None,
        });
        self.open.drain().map(|(_, port)| port.listener).chain(shared).collect()
    }

    /// What was served before a restart is served again, as far as it can be.
    pub(crate) fn settled(&mut self) {
        self.doors.settled();
    }

    /// The process that holds the sockets beside this one.
    pub(crate) fn keeper(&self) -> Option<Pid> {
        self.doors.keeper()
    }
}

fn next(tenures: &mut u64) -> Tenure {
    *tenures += 1;
    Tenure(*tenures)
}
