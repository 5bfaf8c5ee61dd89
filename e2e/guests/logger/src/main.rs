//! Says where it speaks on every stream that it has: stdout, stderr and wasi:logging.

use wstd::http::{Body, Error, Request, Response};

wit_bindgen::generate!({ path: "../../../wit/logging", generate_all });

use wasi::logging::logging::{Level, log};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let path = request.uri().path();
    println!("stdout {path}");
    eprintln!("stderr {path}");
    log(Level::Warn, "logger", &format!("logging {path}"));
    Ok(Response::new("said\n".to_owned().into()))
}
