//! Misbehaves in every way that a component can, a path for each. Straight on WASI 0.2: nothing that a runtime for guests
//! does stands between it and the shim.

mod answers;
mod calls;
mod resources;
mod work;

use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

wasip2::http::proxy::export!(Storm);

struct Storm;

impl wasip2::exports::http::incoming_handler::Guest for Storm {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let number = |name| number(query, name);
        match path {
            "/spin" => work::spin(),
            "/fill" => work::fill(number("mb")),
            "/copy" => work::copy(number("mb")),
            "/strokes" => answer(out, &work::strokes(number("mb"))),
            "/memory" => resources::memory(),
            "/handles" => resources::handles(),
            "/hoard" => resources::hoard(),
            "/stack" => drop(resources::stack(1)),
            "/trap" => std::process::abort(),
            "/clock" => calls::clock(),
            "/churn" => calls::churn(),
            "/ready" => calls::ready(),
            "/poll" => calls::poll(),
            "/large" => calls::large(),
            "/random" => calls::random(),
            "/log" => answer(out, &calls::log(number("lines"), text(query, "line"))),
            "/connect" => answer(out, &calls::connect(number("requests"), text(query, "to"))),
            "/endless" => answers::endless(out),
            "/mute" => answers::mute(out),
            "/silent" => answers::silent(),
            "/headers" => answers::headers(out, number("count"), number("bytes")),
            // It takes the request and gives no answer.
            "/nothing" => {}
            _ => answer(out, "calm\n"),
        }
    }
}

/// The answer's head, sent; its body is still to be written.
fn begin(out: ResponseOutparam, headers: Fields) -> OutgoingBody {
    let response = OutgoingResponse::new(headers);
    let body = response.body().expect("the first time");
    ResponseOutparam::set(out, Ok(response));
    body
}

fn answer(out: ResponseOutparam, text: &str) {
    let body = begin(out, Fields::new());
    body.write().and_then(|stream| stream.blocking_write_and_flush(text.as_bytes()).map_err(drop)).expect("written");
    OutgoingBody::finish(body, None).expect("whole");
}

/// What a query like `a=1&b=2` has under a name.
fn text<'a>(query: &'a str, name: &str) -> &'a str {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find_map(|(key, value)| (key == name).then_some(value)).unwrap_or_default()
}

fn number(query: &str, name: &str) -> usize {
    text(query, name).parse().unwrap_or(0)
}

fn main() {}
