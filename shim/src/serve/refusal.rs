//! Why a request got no answer from its component: an error in, a status code and one plain line out. Pure. The line
//! says what happened, never what is inside the guest: that goes to the log.

use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use wasmtime::{PoolConcurrencyLimitError, Trap};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::{WasiBody, handler::TrapOrPanicError};

/// Seconds after which a client that was refused may come again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Nothing is served here.
    NoService,
    /// The service is stopped on purpose.
    Stopped,
    /// The service was parked, and could not be loaded.
    NotLoaded,
    /// The request names no host, or none that can be, or several.
    Host,
    /// The request wants a tunnel.
    Connect,
    /// The request's body exceeds the limit.
    TooLarge,
    /// The service's budget is exhausted.
    Busy,
    /// The node has no free instance.
    NodeBusy,
    /// The request took longer than it may.
    Timeout,
    /// The component trapped: a panic, its memory's limit, an exit.
    Trapped,
    /// The component could not be instantiated.
    NotStarted,
    /// The component ended without an answer, or answered with an error code.
    NoAnswer,
}

impl Refusal {
    /// What an error of the guest's call means.
    pub(crate) fn of(error: &wasmtime::Error) -> Self {
        if error.is::<Trap>() || error.is::<TrapOrPanicError>() || error.is::<I32Exit>() {
            Self::Trapped
        } else {
            Self::NoAnswer
        }
    }

    /// What an error of making the instance means.
    pub(crate) fn of_start(error: &wasmtime::Error) -> Self {
        if error.is::<PoolConcurrencyLimitError>() { Self::NodeBusy } else { Self::NotStarted }
    }

    /// The status code and the line.
    pub(crate) fn parts(self) -> (StatusCode, &'static str) {
        match self {
            Self::NoService => (StatusCode::SERVICE_UNAVAILABLE, "the service has left this node\n"),
            Self::Stopped => (StatusCode::SERVICE_UNAVAILABLE, "the service is stopped: its spec.replicas is 0\n"),
            Self::NotLoaded => (StatusCode::SERVICE_UNAVAILABLE, "the service could not be loaded\n"),
            Self::Host => (StatusCode::BAD_REQUEST, "the request needs one Host header with a host's name\n"),
            Self::Connect => (StatusCode::METHOD_NOT_ALLOWED, "there are no tunnels here\n"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the request body exceeds 64 MiB\n"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "the service has as many requests in flight as it may\n"),
            Self::NodeBusy => (StatusCode::SERVICE_UNAVAILABLE, "the node has no free instance\n"),
            Self::Timeout => (StatusCode::GATEWAY_TIMEOUT, "the component did not answer in time\n"),
            Self::Trapped => (StatusCode::INTERNAL_SERVER_ERROR, "the component failed\n"),
            Self::NotStarted => (StatusCode::INTERNAL_SERVER_ERROR, "the component could not be started\n"),
            Self::NoAnswer => (StatusCode::BAD_GATEWAY, "the component gave no answer\n"),
        }
    }

    /// The answer.
    pub(crate) fn response(self) -> Response<WasiBody> {
        let (code, line) = self.parts();
        let mut response = Response::new(Full::from(line).map_err(|never| match never {}).boxed_unsync());
        *response.status_mut() = code;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if code == StatusCode::SERVICE_UNAVAILABLE && self != Self::Stopped {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }

    /// Whether the request was turned away for want of capacity.
    pub(crate) fn is_rejection(self) -> bool {
        matches!(self, Self::Busy | Self::NodeBusy)
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::error::Context as _;

    use super::*;

    #[test]
    fn a_trap_is_found_under_its_context() {
        let trap = Err::<(), _>(wasmtime::Error::from(Trap::UnreachableCodeReached)).context("while answering");
        assert_eq!(Refusal::of(&trap.expect_err("an error")), Refusal::Trapped);
        assert_eq!(Refusal::of(&wasmtime::Error::from(TrapOrPanicError)), Refusal::Trapped);
        assert_eq!(Refusal::of(&wasmtime::Error::msg("never set")), Refusal::NoAnswer);
    }

    #[test]
    fn a_busy_answer_says_when_to_come_again() {
        for refusal in [Refusal::Busy, Refusal::NotLoaded] {
            let response = refusal.response();
            assert_eq!(
                (response.status().as_u16(), response.headers()[header::RETRY_AFTER].as_bytes()),
                (503, &b"1"[..])
            );
        }
        assert!(!Refusal::Stopped.response().headers().contains_key(header::RETRY_AFTER), "nobody knows when");
        assert!(!Refusal::Timeout.response().headers().contains_key(header::RETRY_AFTER));
    }
}
