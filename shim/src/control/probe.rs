//! Asking another shim whether it is there, because the operator cannot tell: an address in, yes or no out. IO.

use std::{io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use podless_link::v1::Probe;
use tokio::{net::TcpStream, time::timeout};

/// Longest time that an answer is waited for, whatever the operator asks.
const LONGEST: Duration = Duration::from_secs(10);

/// Whether the other shim answers `GET /healthz` in time. Only its admin port is asked.
pub(super) async fn probe(probe: Probe, admin_port: Option<u16>) -> bool {
    let Ok(address) = probe.address.parse::<SocketAddr>() else { return false };
    if Some(address.port()) != admin_port {
        tracing::warn!(%address, "only an admin port is probed");
        return false;
    }
    let limit = Duration::from_millis(probe.timeout_millis).min(LONGEST);
    timeout(limit, healthz(address)).await.is_ok_and(|answer| answer.is_ok_and(|status| status == StatusCode::OK))
}

async fn healthz(address: SocketAddr) -> io::Result<StatusCode> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let request = Request::get("/healthz").header(header::HOST, address.to_string()).body(Empty::<Bytes>::new());
    let request = request.map_err(io::Error::other)?;
    let asking = async move { sender.send_request(request).await.map(|answer| answer.status()) };
    let (answer, _) = tokio::join!(asking, connection);
    answer.map_err(io::Error::other)
}
