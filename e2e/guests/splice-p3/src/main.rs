//! Gives the body of a request back as it comes, with its trailers, by WASI 0.3: no byte of it passes through the guest.

use wasip3::{
    http::types::{ErrorCode, Fields, Request, Response},
    wit_future,
};

wasip3::http::service::export!(Splice);

struct Splice;

impl wasip3::exports::http::handler::Guest for Splice {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let (_all_went_well, result) = wit_future::new(|| Ok(()));
        let (body, trailers) = Request::consume_body(request, result);
        let (response, _sent) = Response::new(Fields::new(), Some(body), trailers);
        Ok(response)
    }
}

fn main() {}
