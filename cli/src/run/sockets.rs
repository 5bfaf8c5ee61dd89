//! Listening: an address in, a socket for each service out. IO, before anything else takes time.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use tokio::net::TcpSocket;

use crate::failure::Failure;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Listens on this many ports, from this one upward.
pub(super) fn listen(first: SocketAddr, count: usize) -> Result<Vec<TcpListener>, Failure> {
    (0..count).map(|index| listen_on(nth(first, index)?)).collect()
}

fn nth(first: SocketAddr, index: usize) -> Result<SocketAddr, Failure> {
    let step = if first.port() == 0 { 0 } else { index };
    let port = usize::from(first.port()).checked_add(step).and_then(|port| u16::try_from(port).ok());
    let too_many = || {
        Failure::mistake("NoPort", format!("there is no port after 65535: give a lower one than {first} by --listen"))
    };
    Ok(SocketAddr::new(first.ip(), port.ok_or_else(too_many)?))
}

fn listen_on(address: SocketAddr) -> Result<TcpListener, Failure> {
    let open = || -> io::Result<TcpListener> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)?.into_std()
    };
    open().map_err(|error| {
        Failure::environment(format!("cannot listen on {address}: {error}: give another address by --listen"))
    })
}

/// Where a browser of this machine finds it.
pub(super) fn url(socket: &TcpListener) -> io::Result<String> {
    let mut address = socket.local_addr()?;
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Ok(format!("http://{address}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_go_upward_and_end() {
        let port = |first: &str, index| nth(first.parse().expect("an address"), index).map(|address| address.port());
        assert_eq!(port("127.0.0.1:8080", 2), Ok(8082));
        assert_eq!(port("[::1]:0", 2), Ok(0));
        assert!(port("127.0.0.1:65535", 1).is_err_and(|failure| failure.to_string().contains("65535")));
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_named() {
        let sockets = listen("127.0.0.1:0".parse().expect("an address"), 2).expect("two ports");
        let taken = sockets[0].local_addr().expect("an address");
        let message = listen(taken, 1).expect_err("taken").to_string();
        assert!(message.contains(&taken.to_string()) && message.contains("--listen"), "{message}");
    }

    #[tokio::test]
    async fn the_url_is_one_that_can_be_asked() {
        let socket = listen("0.0.0.0:0".parse().expect("an address"), 1).expect("a port").remove(0);
        assert!(url(&socket).expect("a URL").starts_with("http://127.0.0.1:"));
    }
}
