//! Answers without a body: those to HEAD, 204 and 304. A response in, the same with an empty body out; what its component
//! writes nevertheless is read and thrown away, as long as it may write: to the component its client is there. IO: a task
//! that reads it.

use http::{Method, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Body;
use wasmtime_wasi_http::WasiBody;

/// Whether the answer to this method has no body, whatever its head says.
pub(crate) fn is_bodiless(method: &Method, status: StatusCode) -> bool {
    method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// The same answer without its body.
pub(crate) fn emptied(response: Response<WasiBody>) -> Response<WasiBody> {
    let (mut head, mut body) = response.into_parts();
    if head.status == StatusCode::NO_CONTENT {
        head.headers.remove(header::CONTENT_LENGTH);
    }
    if !body.is_end_stream() {
        tokio::spawn(async move { while let Some(Ok(_)) = body.frame().await {} });
    }
    Response::from_parts(head, Empty::new().map_err(|never| match never {}).boxed_unsync())
}
