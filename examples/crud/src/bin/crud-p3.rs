//! The way in by WASI 0.3.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use wasip3::{
    http::types::{ErrorCode, Request, Response},
    http_compat::{http_from_wasi_request, http_into_wasi_response},
};

wasip3::http::service::export!(Crud);

struct Crud;

impl wasip3::exports::http::handler::Guest for Crud {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let (head, body) = http_from_wasi_request(request)?.into_parts();
        let body = body.collect().await?.to_bytes();
        let answer = crud::answer(&head.method, head.uri.path(), &body);
        http_into_wasi_response(answer.map(Full::<Bytes>::from))
    }
}

// The target makes components of programs; this one is never run, only asked.
fn main() {}
