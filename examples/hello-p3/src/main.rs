//! Answers every request with a greeting, by way of WASI 0.3: an async handler.

use std::env;

use wasip3::{
    http::types::{ErrorCode, Request, Response},
    http_compat::http_into_wasi_response,
};

wasip3::http::service::export!(Hello);

struct Hello;

impl wasip3::exports::http::handler::Guest for Hello {
    async fn handle(_request: Request) -> Result<Response, ErrorCode> {
        let greeting = env::var("GREETING").unwrap_or_else(|_| "Hello from Podless".to_owned());
        http_into_wasi_response(http::Response::new(format!("{greeting}\n")))
    }
}

// The target makes components of programs; this one is never run, only asked.
fn main() {}
