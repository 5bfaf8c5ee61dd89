//! Answers every request with a greeting.

use std::env;

use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(_request: Request<Body>) -> Result<Response<Body>, Error> {
    let greeting = env::var("GREETING").unwrap_or_else(|_| "Hello from Podless".to_owned());
    Ok(Response::new(format!("{greeting}\n").into()))
}
