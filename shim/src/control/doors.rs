//! Where the sockets of service ports come from: a port's number in, a listening socket out. IO.

use std::{
    ffi::CString,
    io,
    net::TcpListener,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    net::sockopt::{Timeout, set_socket_timeout},
    process::{Pid, Signal, getppid, set_parent_process_death_signal},
};

use crate::supervise::{
    SERVING,
    wire::{Ask, ask},
};

/// Longest wait for the supervisor, which answers in microseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who opens ports. Called on the control loop's thread inside the serving runtime, so each call must be short.
pub(crate) trait Doors: Send {
    /// The listening socket of a port.
    fn open(&mut self, port: u16) -> io::Result<TcpListener>;

    /// The port is served no more: nobody is to hold it open.
    fn close(&mut self, _port: u16) {}

    /// Everything that was served before a restart has asked for its port: others need not wait any longer.
    fn settled(&mut self) {}

    /// The process that holds the sockets beside this one.
    fn keeper(&self) -> Option<Pid> {
        None
    }
}

/// The supervisor: it holds every socket open should this process die.
pub(crate) struct Supervisor(OwnedFd);

impl Supervisor {
    /// Makes this process the one that serves for the supervisor which started it: it has a name of its own, and dies
    /// with the supervisor.
    pub(crate) fn of_this_process() -> io::Result<Self> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        rustix::thread::set_name(&CString::new(SERVING)?)?;
        let supervisor = io::stdin().as_fd().try_clone_to_owned()?;
        set_socket_timeout(&supervisor, Timeout::Recv, Some(PATIENCE)).map_err(|_| {
            io::Error::other("standard input is not the supervisor's socket: start podless-shim without --supervised")
        })?;
        Ok(Self(supervisor))
    }

    fn tell(&self, message: Ask) {
        if let Err(error) = ask(&self.0, message) {
            tracing::error!(%error, ?message, "the supervisor does not answer");
        }
    }
}

impl Doors for Supervisor {
    fn open(&mut self, port: u16) -> io::Result<TcpListener> {
        let socket = ask(&self.0, Ask::Port(port))?;
        socket.map(TcpListener::from).ok_or_else(|| io::Error::other("the supervisor gave no socket"))
    }

    fn close(&mut self, port: u16) {
        self.tell(Ask::Forget(port));
    }

    fn settled(&mut self) {
        self.tell(Ask::Settled);
    }

    fn keeper(&self) -> Option<Pid> {
        getppid()
    }
}
