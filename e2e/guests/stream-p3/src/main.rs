//! Streams through its own memory by WASI 0.3: gives each piece of a request's body back as it comes, and its trailers.
//! `/target` says what was asked for, `/forbidden` which headers it may not set, `/status?CODE` answers with a status.

use wasip3::{
    http::types::{ErrorCode, Fields, Request, Response},
    wit_bindgen::{StreamResult, spawn_local},
    wit_future, wit_stream,
};

wasip3::http::service::export!(Stream);

/// Bytes of a piece.
const PIECE: usize = 64 << 10;

struct Stream;

impl wasip3::exports::http::handler::Guest for Stream {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        Ok(match path {
            "/target" => text(format!("{} {target}\n", request.get_authority().unwrap_or_default())),
            "/forbidden" => text(forbidden()),
            "/status" => {
                let response = text("a body\n".to_owned());
                let _ = response.set_status_code(query.parse().unwrap_or(500));
                response
            }
            _ => echo(request),
        })
    }
}

fn echo(request: Request) -> Response {
    let headers = Fields::new();
    // By HTTP/1 only trailers arrive that were announced.
    for names in request.get_headers().get("trailer") {
        let _ = headers.append("trailer", &names);
    }
    let (_all_went_well, result) = wit_future::new(|| Ok(()));
    let (mut body, trailers) = Request::consume_body(request, result);
    let (mut back, reader) = wit_stream::new();
    let (response, _sent) = Response::new(headers, Some(reader), trailers);
    spawn_local(async move {
        while let (StreamResult::Complete(_), piece) = body.read(Vec::with_capacity(PIECE)).await {
            if !back.write_all(piece).await.is_empty() {
                break;
            }
        }
    });
    response
}

/// Headers that say how a message travels are not the guest's.
fn forbidden() -> String {
    let names = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "content-type"];
    let refused = names.into_iter().filter(|name| Fields::new().append(name, b"x").is_err());
    refused.map(|name| format!("{name}\n")).collect()
}

fn text(text: String) -> Response {
    let (mut body, reader) = wit_stream::new();
    let (_no_trailers, trailers) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(Fields::new(), Some(reader), trailers);
    spawn_local(async move {
        body.write_all(text.into_bytes()).await;
    });
    response
}

fn main() {}
