//! Greets like the example hello, and has as much code as a large service: by its path one of many functions computes.

use wstd::http::{Body, Error, Request, Response};

include!(concat!(env!("OUT_DIR"), "/work.rs"));

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let which = request.uri().path().trim_start_matches('/').parse::<usize>();
    let computed = which.ok().and_then(|which| WORK.get(which)).map_or(0, |work| work(7));
    Ok(Response::new(format!("Hello from Podless {computed}\n").into()))
}
