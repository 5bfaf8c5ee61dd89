//! Why a request got no answer from its component: an error in, a status code, a name and one plain line out. Pure. The
//! line says what happened, never what is inside the guest: that goes to the log. docs/limits.md has all of them.

use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use podless_host::{memory::NoMemory, turns::NoPlace};
use wasmtime::{PoolConcurrencyLimitError, Trap};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::{WasiBody, handler::TrapOrPanicError};

/// The header that every answer of the shim's own has, and no answer of a component: the refusal's name.
pub(crate) const PODLESS_ERROR: HeaderName = HeaderName::from_static("podless-error");
/// Seconds after which a client that was refused may come again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Refusal {
    /// Nothing is served here.
    NoService,
    /// The service is stopped on purpose.
    Stopped,
    /// The service was parked, and could not be loaded.
    NotLoaded,
    /// The request names no host, or none that can be, or several.
    Host,
    /// No service has the host, or the path, that the request names.
    UnknownHost,
    /// The request's body has a transfer coding that is not known here.
    Coding,
    /// The request wants a tunnel.
    Connect,
    /// The request's body exceeds the limit.
    RequestTooLarge,
    /// The service's budget is exhausted.
    Busy,
    /// The node has no free instance, and the namespace has its share of them or more.
    NamespaceBusy,
    /// The node has no free instance.
    NodeBusy,
    /// The instance wanted more memory than the node or the namespace has left.
    Memory,
    /// The request took longer than it may.
    Timeout,
    /// The component trapped: a panic, its memory's limit, an exit.
    Trapped,
    /// The component could not be instantiated.
    NotStarted,
    /// The component ended without an answer, or answered with an error code.
    NoAnswer,
    /// The component's answer says that it exceeds the limit.
    ResponseTooLarge,
}

/// What there is to say about a refusal.
pub(crate) struct Facts {
    /// A stable name: the header's value, and the metric's label.
    pub(crate) name: &'static str,
    /// The status code.
    pub(crate) code: StatusCode,
    /// What the client reads.
    pub(crate) line: &'static str,
}

impl Refusal {
    /// All of them, in the order of their numbers.
    pub(crate) const ALL: [Self; 17] = [
        Self::NoService,
        Self::Stopped,
        Self::NotLoaded,
        Self::Host,
        Self::UnknownHost,
        Self::Coding,
        Self::Connect,
        Self::RequestTooLarge,
        Self::Busy,
        Self::NamespaceBusy,
        Self::NodeBusy,
        Self::Memory,
        Self::Timeout,
        Self::Trapped,
        Self::NotStarted,
        Self::NoAnswer,
        Self::ResponseTooLarge,
    ];

    /// What an error of the guest's call means.
    pub(crate) fn of(error: &wasmtime::Error) -> Self {
        if error.is::<NoMemory>() {
            Self::Memory
        } else if error.is::<Trap>() || error.is::<TrapOrPanicError>() || error.is::<I32Exit>() {
            Self::Trapped
        } else {
            Self::NoAnswer
        }
    }

    /// What an error means that an instance ended with which had begun to answer.
    pub(crate) fn of_end(error: &wasmtime::Error) -> Self {
        if error.is::<PoolConcurrencyLimitError>() {
            // There was no stack for one more of its calls.
            Self::NodeBusy
        } else if error.is::<NoMemory>() {
            Self::Memory
        } else {
            Self::Trapped
        }
    }

    /// What an error of making the instance means.
    pub(crate) fn of_start(error: &wasmtime::Error) -> Self {
        if error.is::<PoolConcurrencyLimitError>() {
            Self::NodeBusy
        } else if error.is::<NoMemory>() {
            Self::Memory
        } else {
            Self::NotStarted
        }
    }

    /// What it means that the node has no place.
    pub(crate) fn of_full(full: NoPlace) -> Self {
        match full {
            NoPlace::Share => Self::NamespaceBusy,
            NoPlace::Node => Self::NodeBusy,
        }
    }

    /// What there is to say about it.
    pub(crate) fn facts(self) -> Facts {
        use StatusCode as Code;

        let (name, code, line) = match self {
            Self::NoService => ("no-service", Code::SERVICE_UNAVAILABLE, "the service has left this node\n"),
            Self::Stopped => ("stopped", Code::SERVICE_UNAVAILABLE, "the service is stopped: its spec.replicas is 0\n"),
            Self::NotLoaded => ("not-loaded", Code::SERVICE_UNAVAILABLE, "the service could not be loaded\n"),
            Self::Host => ("bad-host", Code::BAD_REQUEST, "the request needs one Host header with a host's name\n"),
            Self::UnknownHost => ("unknown-host", Code::NOT_FOUND, "no service has this host\n"),
            Self::Coding => ("bad-coding", Code::NOT_IMPLEMENTED, "of transfer codings only chunked is known here\n"),
            Self::Connect => ("bad-method", Code::METHOD_NOT_ALLOWED, "there are no tunnels here\n"),
            Self::RequestTooLarge => {
                ("request-too-large", Code::PAYLOAD_TOO_LARGE, "the request body exceeds 64 MiB\n")
            }
            Self::Busy => ("busy", Code::SERVICE_UNAVAILABLE, "the service has as many requests in flight as it may\n"),
            Self::NamespaceBusy => (
                "namespace-busy",
                Code::SERVICE_UNAVAILABLE,
                "the node has no free instance, and the namespace has its share of them\n",
            ),
            Self::NodeBusy => ("node-busy", Code::SERVICE_UNAVAILABLE, "the node has no free instance\n"),
            Self::Memory => {
                ("memory", Code::SERVICE_UNAVAILABLE, "the node has not as much memory left as the component wants\n")
            }
            Self::Timeout => ("timeout", Code::GATEWAY_TIMEOUT, "the component did not answer in time\n"),
            Self::Trapped => ("trapped", Code::INTERNAL_SERVER_ERROR, "the component failed\n"),
            Self::NotStarted => ("not-started", Code::INTERNAL_SERVER_ERROR, "the component could not be started\n"),
            Self::NoAnswer => ("no-answer", Code::BAD_GATEWAY, "the component gave no answer\n"),
            Self::ResponseTooLarge => {
                ("response-too-large", Code::BAD_GATEWAY, "the component's answer exceeds 1 GiB\n")
            }
        };
        Facts { name, code, line }
    }

    /// The answer.
    pub(crate) fn response(self) -> Response<WasiBody> {
        let Facts { name, code, line } = self.facts();
        let mut response = Response::new(Full::from(line).map_err(|never| match never {}).boxed_unsync());
        *response.status_mut() = code;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(PODLESS_ERROR, HeaderValue::from_static(name));
        if code == StatusCode::SERVICE_UNAVAILABLE && self != Self::Stopped {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        // Whoever stands between may have read such a request otherwise: nothing that follows it is believed.
        if matches!(self, Self::Host | Self::Coding | Self::Connect) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Whether the request was turned away for want of capacity.
    pub(crate) fn is_rejection(self) -> bool {
        matches!(self, Self::Busy | Self::NamespaceBusy | Self::NodeBusy | Self::Memory)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures::FutureExt as _;
    use podless_engine::{Flavour, Pool, Target, runner};
    use wasmtime::{Func, Store, error::Context as _};

    use super::*;

    #[test]
    fn a_trap_is_found_under_its_context() {
        let trap = Err::<(), _>(wasmtime::Error::from(Trap::UnreachableCodeReached)).context("while answering");
        assert_eq!(Refusal::of(&trap.expect_err("an error")), Refusal::Trapped);
        assert_eq!(Refusal::of(&wasmtime::Error::from(TrapOrPanicError)), Refusal::Trapped);
        assert_eq!(Refusal::of(&wasmtime::Error::msg("never set")), Refusal::NoAnswer);
    }

    /// docs/limits.md has a row for each, and none for anything else.
    #[test]
    fn the_documented_table_is_this_one() {
        let documented: Vec<_> = include_str!("../../../docs/limits.md")
            .lines()
            .skip_while(|line| !line.starts_with("| `Podless-Error` |"))
            .skip(2)
            .take_while(|line| line.starts_with('|'))
            .map(|row| row.split('|').skip(1).take(3).map(str::trim).collect::<Vec<_>>().join(" | "))
            .collect();
        let ours = Refusal::ALL.map(|refusal| {
            let Facts { name, code, line } = refusal.facts();
            format!("`{name}` | {} | {}", code.as_u16(), line.trim_end())
        });
        assert_eq!(documented, ours);
        assert!(Refusal::ALL.iter().enumerate().all(|(n, refusal)| *refusal as usize == n), "counted by their numbers");
    }

    #[test]
    fn what_the_operator_is_told_of_has_these_names() {
        let names = Refusal::ALL.map(|refusal| refusal.facts().name);
        assert!(podless_link::SHED.iter().all(|name| names.contains(name)), "{names:?}");
    }

    #[test]
    fn what_the_node_has_no_memory_for_is_not_the_components_fault() {
        let trap = Err::<(), _>(wasmtime::Error::from(NoMemory)).context("while answering").expect_err("an error");
        assert_eq!((Refusal::of(&trap), Refusal::of_start(&trap)), (Refusal::Memory, Refusal::Memory));
    }

    #[test]
    fn what_the_node_has_no_stack_for_is_not_the_components_fault() {
        let pool = Pool { instances: 1, warm: 1, pagemap_scan: false };
        let engine = runner(Target::default(), Flavour::P2, pool).expect("an engine");
        // Each holds a stack for as long as it waits.
        let call = || async {
            let mut store = Store::new(&engine, ());
            let waits = Func::wrap_async(&mut store, |_, (): ()| Box::new(pending::<()>()));
            waits.call_async(&mut store, &[], &mut []).await
        };
        let mut calls: Vec<_> = (0..32).map(|_| Box::pin(call())).collect();
        let ended = calls.iter_mut().find_map(|call| call.now_or_never()?.err()).expect("there are not so many");
        assert_eq!(Refusal::of_end(&ended), Refusal::NodeBusy, "{ended:#}");
        assert_eq!(Refusal::of_end(&NoMemory.into()), Refusal::Memory);
        assert_eq!(Refusal::of_end(&Trap::UnreachableCodeReached.into()), Refusal::Trapped);
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
