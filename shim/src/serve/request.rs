//! The way of one request: admitted, handed to a fresh instance, answered. Whatever happens, the client gets a status
//! code and one line.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{Method, Request, Response, Version, header};
use hyper::body::{Body, Incoming};
use tokio::time::{Instant, timeout, timeout_at};
use wasmtime_wasi_http::WasiBody;

use super::{
    authority,
    bodiless::{emptied, is_bodiless},
    body::{Active, Answer, Held, Limited, MAX_REQUEST, MAX_RESPONSE},
    flight::{Flight, Waiting},
    instance::{NotMade, tell_cut},
    refusal::{Facts, PODLESS_ERROR, Refusal},
    service::Service,
};
use podless_host::log::{Message, Stream};

/// Longest time that a request waits for a place.
const QUEUE: Duration = Duration::from_secs(1);
/// Longest wait for an instance to end that gave no answer.
const ENDING: Duration = Duration::from_secs(1);

/// Answers a request that has begun.
pub(crate) async fn answer(
    service: Result<Arc<Service>, Refusal>,
    mut active: Active,
    request: Request<Incoming>,
) -> Response<Answer> {
    let (http2, method) = (request.version() == Version::HTTP_2, request.method().clone());
    let service = match service {
        Ok(service) => service,
        Err(refusal) => {
            let refusal = framed(&request).err().unwrap_or(refusal);
            return refusal.response().map(|body| Answer::of_shim(body, active));
        }
    };
    let stats = &service.stats;
    match serve(&service, request, active.hold()).await {
        Ok((mut response, cut)) => {
            response.headers_mut().remove(PODLESS_ERROR);
            stats.answered(response.status());
            active.answered();
            if http2 {
                // Streams share the connection's bytes; the head is handed over here, microseconds before it is written.
                stats.first_byte.record(active.since.elapsed());
            } else {
                active.answering();
            }
            let response = if is_bodiless(&method, response.status()) { emptied(response) } else { response };
            response.map(|body| Answer::of_component(body, cut, active))
        }
        Err(refusal) => {
            let response = refusal.response();
            stats.answered(response.status());
            stats.refused(refusal);
            response.map(|body| Answer::of_shim(body, active))
        }
    }
}

/// Has an instance answer: the response, and the flag that says that it was cut off.
async fn serve(
    service: &Service,
    request: Request<Incoming>,
    held: Held,
) -> Result<(Response<WasiBody>, Arc<AtomicBool>), Refusal> {
    let deadline = Instant::now() + service.timeout;
    let (request, too_large) = admit(request, held, service)?;
    let handler = service.handler.resident(deadline).await?;
    let until = deadline.min(Instant::now() + QUEUE);
    let ours = service.budget.acquire(until).await.map_err(|_| Refusal::Busy)?;
    let nodes = service.instances.take_many(handler.places(), until).await.map_err(Refusal::of_full)?;
    let flight = Flight::new(deadline, ours, nodes);
    let waiting = Waiting::new(flight.clone());
    let result = timeout_at(flight.deadline(), handler.handle(flight.clone(), request)).await;
    let (refusal, detail) = match result {
        // Neither a tunnel nor the promise of another answer.
        Ok(Ok(response)) if response.status().is_informational() => {
            (Refusal::NoAnswer, Some(format!("its status is {}, which no answer has", response.status())))
        }
        Ok(Ok(response)) => {
            if declared(&response) <= MAX_RESPONSE {
                if let Some(why) = waiting.answered() {
                    tell_cut(&service.log, &why);
                }
                return Ok((response, flight.cut()));
            }
            (Refusal::ResponseTooLarge, None)
        }
        _ if too_large.load(Relaxed) => (Refusal::RequestTooLarge, None),
        Ok(Err(error)) if !flight.is_given_up() => explain(&flight, &error).await,
        Ok(Err(_)) | Err(_) => (Refusal::Timeout, None),
    };
    tell(service, refusal, detail.as_deref());
    Err(refusal)
}

/// How long the answer's body is, as far as its head tells.
fn declared(response: &Response<WasiBody>) -> u64 {
    let header = response.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    header.unwrap_or(0).max(response.body().size_hint().lower())
}

/// Finds out what an error of the handler means. That there was no answer is known before why: the instance is asked.
async fn explain(flight: &Flight, error: &wasmtime::Error) -> (Refusal, Option<String>) {
    if let Some(NotMade(error)) = error.downcast_ref() {
        return (Refusal::of_start(error), Some(format!("{error:#}")));
    }
    match timeout(ENDING, flight.ended()).await {
        Ok(Some(failure)) => (failure.refusal, Some(failure.why)),
        _ => (Refusal::of(error), Some(error.root_cause().to_string())),
    }
}

/// Checks what can be checked before anything is spent on the request.
fn admit(
    request: Request<Incoming>,
    held: Held,
    service: &Service,
) -> Result<(Request<WasiBody>, Arc<AtomicBool>), Refusal> {
    if request.body().size_hint().lower() > MAX_REQUEST {
        return Err(Refusal::RequestTooLarge);
    }
    framed(&request)?;
    let (mut parts, body) = request.into_parts();
    let named = authority::of(&parts)?;
    // HTTP/1.0 need not name a host; the component gets the one name that is certain.
    let certain = || format!("{}.{}", service.identity.name, service.identity.namespace).parse();
    let named = named.map_or_else(certain, Ok).map_err(|_| Refusal::Host)?;
    authority::put(&mut parts, named)?;
    let (body, too_large) = Limited::limit(body, held);
    Ok((Request::from_parts(parts, body), too_large))
}

/// Checks that where the request ends is beyond doubt, whoever it is for: else nothing that follows it may be believed.
fn framed<B>(request: &Request<B>) -> Result<(), Refusal> {
    if request.method() == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    let mut codings = request.headers().get_all(header::TRANSFER_ENCODING).iter();
    if codings.next().is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        || codings.next().is_some()
    {
        return Err(Refusal::Coding);
    }
    Ok(())
}

/// Tells the service's log what the client is not told.
fn tell(service: &Service, refusal: Refusal, detail: Option<&str>) {
    let Facts { code, line, .. } = refusal.facts();
    let mut message = format!("{}: {}", code.as_u16(), line.trim_end());
    if let Some(detail) = detail {
        message = format!("{message}: {detail}");
    }
    service.log.write(Message { level: Some("error"), ..Message::new(Stream::Shim, &message) });
}
