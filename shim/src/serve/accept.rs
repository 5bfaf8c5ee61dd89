//! One loop that accepts for all ports of the node: listening sockets in, connections out, each to its port. So a port that
//! nobody connects to costs a place in the kernel's set and an entry here, no task. IO.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
    },
    io::{Errno, retry_on_intr},
    net::{SocketFlags, accept_with},
};
use tokio::{
    io::unix::AsyncFd,
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};

use super::listen::Port;

/// Pause after an error of `accept` that does not pass by itself, as when descriptors run out.
const PAUSE: Duration = Duration::from_millis(50);
/// Ports that are looked at in one turn; each gives one connection, so none waits for another's crowd.
const BATCH: usize = 256;
/// `epoll_wait` only looks.
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// The ports that are accepted on.
pub(crate) struct Acceptor {
    epoll: AsyncFd<OwnedFd>,
    doors: RwLock<HashMap<u64, Arc<Door>>>,
    next: AtomicU64,
}

struct Door {
    socket: std::net::TcpListener,
    port: Arc<Port>,
}

impl Acceptor {
    /// Starts the loop; it takes a place of `connections` for each. Must run on the serving runtime.
    pub(super) fn start(connections: Arc<Semaphore>) -> io::Result<Arc<Self>> {
        #[expect(deprecated, reason = "unsound for what closes its descriptor early; an `OwnedFd` does not")]
        let epoll = AsyncFd::new(epoll::create(CreateFlags::CLOEXEC)?)?;
        let this = Arc::new(Self { epoll, doors: RwLock::default(), next: AtomicU64::new(0) });
        tokio::spawn(accept(this.clone(), connections));
        Ok(this)
    }

    /// Accepts on a listening socket from now on; its number comes back.
    pub(super) fn add(&self, socket: std::net::TcpListener, port: Arc<Port>) -> io::Result<u64> {
        socket.set_nonblocking(true)?;
        // Its connections have that from it: small answers must not wait for the client's acknowledgement of the last ones.
        rustix::net::sockopt::set_tcp_nodelay(&socket, true)?;
        // Never used again: an event of a port that was closed meanwhile is nobody's.
        let number = self.next.fetch_add(1, Relaxed);
        let door = Arc::new(Door { socket, port });
        self.doors.write().unwrap_or_else(PoisonError::into_inner).insert(number, door.clone());
        if let Err(error) = epoll::add(&self.epoll, &door.socket, EventData::new_u64(number), EventFlags::IN) {
            self.remove(number);
            return Err(error.into());
        }
        Ok(number)
    }

    /// Closes a listening socket.
    pub(super) fn remove(&self, number: u64) {
        let door = self.doors.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
        if let Some(door) = door {
            // One that could not be added is not there; a closed one leaves by itself.
            let _ = epoll::delete(&self.epoll, &door.socket);
        }
    }

    /// A port that was full takes connections again.
    pub(super) fn resume(&self, number: u64) {
        self.set(number, EventFlags::IN);
    }

    fn set(&self, number: u64, flags: EventFlags) {
        if let Some(door) = self.door(number)
            && let Err(error) = epoll::modify(&self.epoll, &door.socket, EventData::new_u64(number), flags)
        {
            tracing::error!(%error, "a port's connections cannot be waited for");
        }
    }

    fn door(&self, number: u64) -> Option<Arc<Door>> {
        self.doors.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    /// The ports where somebody waits; waits for the first.
    async fn ready(&self, numbers: &mut Vec<u64>) -> io::Result<()> {
        while numbers.is_empty() {
            let mut guard = self.epoll.readable().await?;
            self.look(numbers)?;
            if numbers.is_empty() {
                guard.clear_ready();
            }
        }
        Ok(())
    }

    fn look(&self, numbers: &mut Vec<u64>) -> io::Result<()> {
        let mut events = Vec::with_capacity(BATCH);
        retry_on_intr(|| epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&AT_ONCE)))?;
        numbers.extend(events.iter().map(|event| event.data.u64()));
        Ok(())
    }

    /// Accepts one connection, if it is still there.
    fn one(&self, number: u64, place: OwnedSemaphorePermit, draw: u64) -> io::Result<()> {
        let Some(door) = self.door(number) else { return Ok(()) };
        let socket = match accept_with(&door.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let stream = TcpStream::from_std(socket.into())?;
        if !door.port.take(stream, place, draw) {
            // What comes now waits in the kernel's backlog.
            self.set(number, EventFlags::empty());
            if door.port.has_room() {
                self.resume(number);
            }
        }
        Ok(())
    }
}

async fn accept(acceptor: Arc<Acceptor>, connections: Arc<Semaphore>) {
    let random = RandomState::new();
    let (mut numbers, mut accepted) = (vec![], 0u64);
    loop {
        if let Err(error) = acceptor.ready(&mut numbers).await {
            tracing::error!(%error, "connections cannot be waited for");
            sleep(PAUSE).await;
        }
        for number in numbers.drain(..) {
            // The place is taken before the connection is: what does not fit waits in the kernel's backlog.
            let Ok(place) = connections.clone().acquire_owned().await else { return };
            accepted += 1;
            if let Err(error) = acceptor.one(number, place, random.hash_one(accepted)) {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(PAUSE).await;
            }
        }
    }
}
