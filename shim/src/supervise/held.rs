//! The listening sockets that outlive the serving process: questions in, sockets out. IO: opens ports.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::{AsFd, BorrowedFd},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketFlags, SocketType, bind, listen, socket_with,
        sockopt::{set_ipv6_v6only, set_socket_reuseaddr},
    },
};

use super::wire::Ask;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Every port that is held open.
#[derive(Default)]
pub(crate) struct Held(BTreeMap<u16, Port>);

struct Port {
    socket: TcpListener,
    /// The process that serves now asked for it.
    wanted: bool,
}

impl Held {
    /// Answers a question.
    pub(crate) fn answer(&mut self, ask: Ask) -> io::Result<Option<BorrowedFd<'_>>> {
        match ask {
            Ask::Port(number) => {
                let port = match self.0.entry(number) {
                    Entry::Occupied(port) => port.into_mut(),
                    Entry::Vacant(none) => none.insert(Port { socket: open(number)?, wanted: false }),
                };
                port.wanted = true;
                Ok(Some(port.socket.as_fd()))
            }
            Ask::Forget(number) => {
                self.0.remove(&number);
                Ok(None)
            }
            Ask::Settled => {
                self.0.retain(|_, port| port.wanted);
                Ok(None)
            }
        }
    }

    /// A new process serves: it has asked for nothing yet.
    pub(crate) fn begin(&mut self) {
        self.0.values_mut().for_each(|port| port.wanted = false);
    }
}

/// Opens a port on all of the pod's addresses, of both families.
fn open(port: u16) -> io::Result<TcpListener> {
    let opened = open_at(Ipv6Addr::UNSPECIFIED.into(), port);
    // The kernel may have no IPv6, or no addresses of it.
    let opened = match opened {
        Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => open_at(Ipv4Addr::UNSPECIFIED.into(), port),
        opened => opened,
    };
    Ok(opened?)
}

fn open_at(address: IpAddr, port: u16) -> rustix::io::Result<TcpListener> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        // Whatever the pod's sysctl says: it takes IPv4 as well.
        set_ipv6_v6only(&socket, false)?;
    }
    set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &SocketAddr::from((address, port)))?;
    listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

#[cfg(test)]
mod tests {
    use std::{net::TcpStream, os::fd::AsRawFd};

    use super::*;

    fn free() -> u16 {
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
    }

    #[test]
    fn a_port_is_held_until_it_is_forgotten_or_nobody_asks_again() {
        let (kept, left) = (free(), free());
        let reachable = |port: u16| TcpStream::connect(("127.0.0.1", port)).is_ok();
        let mut held = Held::default();
        let first = held.answer(Ask::Port(kept)).expect("held").expect("a socket").as_raw_fd();
        held.answer(Ask::Port(left)).expect("held");
        held.begin();
        assert!(reachable(kept) && reachable(left), "both wait for the next process");
        assert_eq!(held.answer(Ask::Port(kept)).expect("held").expect("a socket").as_raw_fd(), first, "the same one");
        held.answer(Ask::Settled).expect("answered");
        assert!(reachable(kept) && !reachable(left));
        held.answer(Ask::Forget(kept)).expect("answered");
        assert!(!reachable(kept));
        let taken = TcpListener::bind("0.0.0.0:0").expect("a port");
        let port = taken.local_addr().expect("an address").port();
        assert_eq!(held.answer(Ask::Port(port)).map(drop).map_err(|e| e.kind()), Err(io::ErrorKind::AddrInUse));
    }
}
