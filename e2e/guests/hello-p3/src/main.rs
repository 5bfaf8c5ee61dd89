//! The greeting again, by way of WASI 0.3: an async handler and streams.

use std::env;

use wasip3::{
    http::types::{ErrorCode, Fields, Request, Response},
    wit_bindgen::spawn_local,
    wit_future, wit_stream,
};

wasip3::http::service::export!(Hello);

struct Hello;

impl wasip3::exports::http::handler::Guest for Hello {
    async fn handle(_request: Request) -> Result<Response, ErrorCode> {
        let greeting = env::var("GREETING").unwrap_or_else(|_| "Hello from Podless".to_owned());
        let (mut body, body_reader) = wit_stream::new();
        let (_no_trailers, trailers) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(Fields::new(), Some(body_reader), trailers);
        spawn_local(async move {
            body.write_all(format!("{greeting}\n").into_bytes()).await;
        });
        Ok(response)
    }
}

fn main() {}
