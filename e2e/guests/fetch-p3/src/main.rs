//! Asks another server by WASI 0.3 and passes on its answer, or why there is none: `/fetch?http://HOST/PATH`.

use wasip3::{
    http::{
        client,
        types::{ErrorCode, Fields, Request, Response, Scheme},
    },
    wit_bindgen::spawn_local,
    wit_future, wit_stream,
};

wasip3::http::service::export!(Fetch);

struct Fetch;

impl wasip3::exports::http::handler::Guest for Fetch {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let path = request.get_path_with_query().unwrap_or_default();
        let (_, url) = path.split_once("?http://").ok_or(ErrorCode::HttpRequestUriInvalid)?;
        let (host, path) = url.split_at(url.find('/').unwrap_or(url.len()));
        let (_no_trailers, trailers) = wit_future::new(|| Ok(None));
        let (asked, _sent) = Request::new(Fields::new(), None, trailers, None);
        let set = asked
            .set_scheme(Some(&Scheme::Http))
            .and_then(|()| asked.set_authority(Some(host)))
            .and_then(|()| asked.set_path_with_query(Some(path)));
        set.map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
        match client::send(asked).await {
            Ok(response) => Ok(response),
            Err(error) => Ok(failed(error)),
        }
    }
}

fn failed(error: ErrorCode) -> Response {
    let (mut body, body_reader) = wit_stream::new();
    let (_no_trailers, trailers) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(Fields::new(), Some(body_reader), trailers);
    let _ = response.set_status_code(502);
    spawn_local(async move {
        body.write_all(format!("{error:?}\n").into_bytes()).await;
    });
    response
}

fn main() {}
