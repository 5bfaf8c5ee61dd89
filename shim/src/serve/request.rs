//! The way of one request: admitted, handed to a fresh instance, answered. Whatever happens, the client gets a status
//! code and one line.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, Version, header, uri::Authority};
use hyper::body::{Body, Incoming};
use tokio::time::{Instant, timeout, timeout_at};
use wasmtime_wasi_http::WasiBody;

use super::{
    body::{Active, Answer, Limited, MAX_REQUEST},
    budget::Budget,
    flight::{Flight, Waiting},
    instance::{NotMade, tell_cut},
    refusal::Refusal,
    service::{Handler, Service},
};
use podless_host::log::{Message, Stream};

/// Longest time that a request waits for a place.
const QUEUE: Duration = Duration::from_secs(1);
/// Longest wait for an instance to end that gave no answer.
const ENDING: Duration = Duration::from_secs(1);

/// Answers a request that has begun.
pub(crate) async fn answer(
    service: Option<Arc<Service>>,
    node: &Arc<Budget>,
    mut active: Active,
    request: Request<Incoming>,
) -> Response<Answer> {
    let http2 = request.version() == Version::HTTP_2;
    let Some(service) = service else {
        return Refusal::NoService.response().map(|body| Answer::of_shim(body, active));
    };
    let stats = &service.stats;
    match serve(&service, node, request).await {
        Ok((response, cut)) => {
            stats.answered(response.status());
            active.answered();
            if http2 {
                // Streams share the connection's bytes; the head is handed over here, microseconds before it is written.
                stats.first_byte.record(active.since.elapsed());
            } else {
                active.answering();
            }
            response.map(|body| Answer::of_component(body, cut, active))
        }
        Err(refusal) => {
            let response = refusal.response();
            stats.answered(response.status());
            stats.rejected.fetch_add(refusal.is_rejection().into(), Relaxed);
            stats.stopped.fetch_add((refusal == Refusal::Stopped).into(), Relaxed);
            response.map(|body| Answer::of_shim(body, active))
        }
    }
}

/// Has an instance answer: the response, and the flag that says that it was cut off.
async fn serve(
    service: &Service,
    node: &Arc<Budget>,
    request: Request<Incoming>,
) -> Result<(Response<WasiBody>, Arc<AtomicBool>), Refusal> {
    if matches!(service.handler, Handler::Stopped) {
        return Err(Refusal::Stopped);
    }
    let deadline = Instant::now() + service.timeout;
    let (request, too_large) = admit(request, service)?;
    let handler = service.handler.resident(deadline).await?;
    let until = deadline.min(Instant::now() + QUEUE);
    let ours = service.budget.acquire(until).await.map_err(|_| Refusal::Busy)?;
    let nodes = node.acquire(until).await.map_err(|_| Refusal::NodeBusy)?;
    let flight = Flight::new(deadline, [ours, nodes]);
    let waiting = Waiting::new(flight.clone());
    let result = timeout_at(flight.deadline(), handler.handle(flight.clone(), request)).await;
    let (refusal, detail) = match result {
        Ok(Ok(response)) => {
            if let Some(why) = waiting.answered() {
                tell_cut(&service.log, &why);
            }
            return Ok((response, flight.cut()));
        }
        _ if too_large.load(Relaxed) => (Refusal::TooLarge, None),
        Ok(Err(error)) if !flight.is_given_up() => explain(&flight, &error).await,
        Ok(Err(_)) | Err(_) => (Refusal::Timeout, None),
    };
    tell(service, refusal, detail.as_deref());
    Err(refusal)
}

/// Finds out what an error of the handler means. That there was no answer is known before why: the instance is asked.
async fn explain(flight: &Flight, error: &wasmtime::Error) -> (Refusal, Option<String>) {
    if let Some(NotMade(error)) = error.downcast_ref() {
        return (Refusal::of_start(error), Some(format!("{error:#}")));
    }
    match timeout(ENDING, flight.ended()).await {
        Ok(Some(failure)) => (Refusal::Trapped, Some(failure)),
        _ => (Refusal::of(error), Some(error.root_cause().to_string())),
    }
}

/// Checks what can be checked before anything is spent on the request.
fn admit(request: Request<Incoming>, service: &Service) -> Result<(Request<WasiBody>, Arc<AtomicBool>), Refusal> {
    if request.body().size_hint().lower() > MAX_REQUEST {
        return Err(Refusal::TooLarge);
    }
    let (mut parts, body) = request.into_parts();
    if parts.method == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if parts.uri.authority().is_some() => {}
        // HTTP/1.0 has no Host; the component gets the one name that is certain.
        (None, _) if parts.version == Version::HTTP_10 => {
            let name = format!("{}.{}", service.identity.name, service.identity.namespace);
            parts.headers.insert(header::HOST, HeaderValue::from_str(&name).map_err(|_| Refusal::Host)?);
        }
        (Some(host), None) if Authority::try_from(host.as_bytes()).is_ok() => {}
        _ => return Err(Refusal::Host),
    }
    let (body, too_large) = Limited::limit(body);
    Ok((Request::from_parts(parts, body), too_large))
}

/// Tells the service's log what the client is not told.
fn tell(service: &Service, refusal: Refusal, detail: Option<&str>) {
    let (code, line) = refusal.parts();
    let mut message = format!("{}: {}", code.as_u16(), line.trim_end());
    if let Some(detail) = detail {
        message = format!("{message}: {detail}");
    }
    service.log.write(Message { level: Some("error"), ..Message::new(Stream::Shim, &message) });
}
