//! Requests of guests to other servers: matched with what is granted, resolved once, sent to an address that was looked
//! at. IO. Redirects are the guest's affair: each is a request of its own, and is asked the same.

mod allow;
mod body;
mod exchange;
mod gate;
mod place;
mod resolve;
mod tls;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::{Method, Request, Response};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use wasmtime_wasi_http::{Error, RequestOptions, Result, WasiBody};

pub(crate) use self::exchange::Moving;
pub use self::gate::{Counts, Grant, NodeGate, ServiceGate};
use self::{
    allow::{Scheme, Target},
    exchange::{Connection, Times, exchange, prepare},
    resolve::resolve,
};

/// Longest time until a connection is made, look-up and TLS included.
const CONNECT: Duration = Duration::from_secs(10);

/// The way out of one generation of a service.
pub struct Outbound {
    /// What it is granted.
    pub grant: Grant,
    /// Longest time of every phase, and of all together: that of the request that the guest answers.
    pub limit: Duration,
    /// What the service's generations share.
    pub service: Arc<ServiceGate>,
    /// What all services share.
    pub node: Arc<NodeGate>,
}

impl Outbound {
    /// Sends a request; gives the answer, and what is left to do for its body.
    pub fn send(
        self: Arc<Self>,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
    ) -> impl Future<Output = Result<(Response<WasiBody>, Moving)>> + Send + use<> {
        // Before anything waits: requests that a guest has asked for and does not await lie in the shim's memory.
        let admitted = self.service.places.admit().map(|admitted| (admitted, request));
        async move {
            let result = match admitted {
                Some((_admitted, request)) => self.try_send(request, options.unwrap_or_default()).await,
                None => Err(Error::ConnectionLimitReached),
            };
            self.service.count(&result);
            result
        }
    }

    async fn try_send(
        &self,
        request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<(Response<WasiBody>, Moving)> {
        let target = Target::of(request.uri()).map_err(|_| Error::HttpRequestUriInvalid)?;
        if request.method() == Method::CONNECT {
            return Err(Error::HttpRequestMethodInvalid);
        }
        if !self.grant.hosts.allow(&target) {
            let why = "spec.capabilities.outboundHttp.allowedHosts does not allow it";
            return Err(self.service.deny(&target, why, Error::HttpRequestDenied));
        }
        let asked = |time: Option<Duration>| time.map_or(self.limit, |time| time.min(self.limit));
        let now = Instant::now();
        let until = now + asked(options.connect_timeout).min(CONNECT);
        let place = self.service.places.connection(until).await;
        let place = place.ok_or(Error::ConnectionLimitReached)?;
        let stream = self.connect(&target, until).await?;
        let request = prepare(request, &target)?;
        let times = Times {
            first_byte: asked(options.first_byte_timeout),
            between_bytes: asked(options.between_bytes_timeout),
            end: now + self.limit,
        };
        exchange(stream, request, times, place).await
    }

    async fn connect(&self, target: &Target, until: Instant) -> Result<Box<dyn Connection>> {
        let prohibited = |address: IpAddr| {
            let why = format!(
                "{address} is no public address, and spec.capabilities.outboundHttp.allowedCidrs does not allow it"
            );
            self.service.deny(target, &why, Error::DestinationIpProhibited)
        };
        let found = resolve(&target.host, &self.grant.ranges, &self.service.places, until).await?;
        if let (true, Some(refused)) = (found.allowed.is_empty(), found.refused) {
            return Err(prohibited(refused));
        }
        let stream = reach(&found.allowed, target.port, until).await?;
        // Where pods have public addresses, this one's is one: who is reached from the same address is this shim.
        if let (Ok(own), Ok(peer)) = (stream.local_addr(), stream.peer_addr())
            && own.ip() == peer.ip()
            && !self.grant.ranges.iter().any(|range| range.contains(&peer.ip()))
        {
            return Err(prohibited(peer.ip()));
        }
        let _ = stream.set_nodelay(true);
        match target.scheme {
            Scheme::Http => Ok(Box::new(stream)),
            Scheme::Https => {
                let connected = timeout_at(until, self.node.tls.connect(&target.host, stream)).await;
                Ok(Box::new(connected.map_err(|_| Error::ConnectionTimeout)??))
            }
        }
    }
}

/// Connects to the first of these addresses that answers; each has its share of the time.
async fn reach(addresses: &[IpAddr], port: u16, until: Instant) -> Result<TcpStream> {
    let mut failure = Error::DestinationNotFound;
    for (tried, address) in addresses.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(1);
        failure = match timeout(share, TcpStream::connect(SocketAddr::new(*address, port))).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => match error.kind() {
                io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
                io::ErrorKind::TimedOut => Error::ConnectionTimeout,
                io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Error::DestinationIpUnroutable,
                _ => Error::DestinationUnavailable,
            },
            Err(_) => Error::ConnectionTimeout,
        };
    }
    Err(failure)
}
