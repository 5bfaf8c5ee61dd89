//! One request over one connection: a request and a stream in, the answer's head and its moving body out. IO.

use std::{error::Error as _, io, time::Duration};

use http::{HeaderValue, Request, Response, Uri, Version, header, uri::PathAndQuery};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout},
};
use wasmtime_wasi_http::{Error, Result, WasiBody};

use super::{allow::Target, body::Received, place::Place};

/// Most bytes of an answer's head.
const HEAD_BYTES: usize = 64 << 10;
/// Most headers of an answer.
const HEADERS: usize = 128;

/// What is left to do after the head of an answer is there: moving its body.
pub(crate) type Moving = Box<dyn Future<Output = Result<()>> + Send>;

/// A connection to another server, in clear or by TLS.
pub(crate) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// The request as it goes over the wire: the path alone, and a Host header that names who was looked at.
pub(crate) fn prepare(mut request: Request<WasiBody>, target: &Target) -> Result<Request<WasiBody>> {
    let path = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    *request.version_mut() = Version::HTTP_11;
    let host = HeaderValue::from_str(&target.authority()).map_err(|_| Error::HttpRequestUriInvalid)?;
    request.headers_mut().insert(header::HOST, host);
    Ok(request)
}

/// How long the phases of an exchange may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// Until the answer's head is there.
    pub(crate) first_byte: Duration,
    /// Between two pieces of its body.
    pub(crate) between_bytes: Duration,
    /// When all of it must be there.
    pub(crate) end: Instant,
}

/// Sends the request and waits for the head of its answer; the place is held until the body has moved.
pub(crate) async fn exchange(
    stream: Box<dyn Connection>,
    request: Request<WasiBody>,
    times: Times,
    place: Place,
) -> Result<(Response<WasiBody>, Moving)> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| of_hyper(&error))?;
    let mut connection = Box::pin(connection);
    let mut over = None;
    let response = {
        let mut answered = std::pin::pin!(timeout(times.first_byte, sender.send_request(request)));
        tokio::select! {
            answered = answered.as_mut() => answered,
            // The connection moves nothing unless it is polled; when it has ended, the answer says how.
            ended = connection.as_mut() => {
                over = Some(ended);
                answered.await
            }
        }
    };
    let response = response.map_err(|_| Error::ConnectionReadTimeout)?.map_err(|error| of_hyper(&error))?;
    // What was read at once may exceed the buffer's limit.
    let head: usize = response.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if head > HEAD_BYTES {
        return Err(Error::HttpResponseHeaderSectionSize(u32::try_from(head).ok()));
    }
    let moving = {
        let place = place.clone();
        async move {
            let ended = match over {
                Some(ended) => ended,
                None => connection.await,
            };
            drop(place);
            ended.map_err(|error| of_hyper(&error))
        }
    };
    let response = response.map(|body| Received::new(body, times.between_bytes, times.end, place).boxed_unsync());
    Ok((response, Box::new(moving)))
}

/// What an error on the wire means to the guest.
pub(crate) fn of_hyper(error: &hyper::Error) -> Error {
    if error.is_parse_too_large() {
        Error::HttpResponseHeaderSectionSize(None)
    } else if error.is_incomplete_message() {
        Error::HttpResponseIncomplete
    } else if error.is_timeout() {
        Error::HttpResponseTimeout
    } else if error.is_closed() || error.is_canceled() {
        Error::ConnectionTerminated
    } else if let Some(Error::HttpRequestBodySize(size)) = error.source().and_then(|cause| cause.downcast_ref()) {
        Error::HttpRequestBodySize(*size)
    } else if error.source().is_some_and(|cause| cause.is::<io::Error>()) {
        Error::ConnectionTerminated
    } else {
        Error::HttpProtocolError
    }
}
