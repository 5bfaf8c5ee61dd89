//! Signals as something that can be waited for beside a socket. IO: handlers that write to a pipe.

use std::{
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use rustix::process::Signal;
use signal_hook::{
    consts::{SIGCHLD, SIGINT, SIGTERM},
    flag,
    low_level::pipe,
};

/// What was signalled and not yet taken.
pub(crate) struct Signals {
    woken: UnixStream,
    asked: [(Signal, Arc<AtomicBool>); 2],
}

impl Signals {
    /// Handles SIGTERM, SIGINT and SIGCHLD from now on.
    pub(crate) fn handle() -> io::Result<Self> {
        let (woken, wake) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        let asked = [(Signal::TERM, Arc::default()), (Signal::INT, Arc::default())];
        // Handlers run in the order in which they were registered: the flag is set before the pipe wakes.
        for (number, (_, flag)) in [SIGTERM, SIGINT].into_iter().zip(&asked) {
            flag::register(number, Arc::clone(flag))?;
        }
        for number in [SIGTERM, SIGINT, SIGCHLD] {
            pipe::register(number, wake.try_clone()?)?;
        }
        Ok(Self { woken, asked })
    }

    /// Takes what has come: the requests to stop among it.
    pub(crate) fn take(&mut self) -> Vec<Signal> {
        let mut bytes = [0; 64];
        while self.woken.read(&mut bytes).is_ok_and(|length| length > 0) {}
        self.asked.iter().filter(|(_, flag)| flag.swap(false, SeqCst)).map(|(signal, _)| *signal).collect()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.woken.as_fd()
    }
}
