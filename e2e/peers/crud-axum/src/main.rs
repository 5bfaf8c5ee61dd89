//! The example `crud` as a native server: what WasmServices are measured beside. IO: serves on the address that is its
//! argument, or as a pod on port 8080, until it is told to end.
//!
//! The answers come from the example's own code, so that the work is the same. One thread, as a small service has it. Beside
//! them `/splice` gives a body back as it comes, and `/drain` only takes it.

use std::{env, io};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{Method, Response, Uri},
    routing::post,
    serve::ListenerExt,
};
use http_body_util::BodyExt;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    // The first process of a container is not ended by a signal that it does not listen for.
    let mut ended = signal(SignalKind::terminate())?;
    let address = env::args().nth(1);
    let listener = TcpListener::bind(address.as_deref().unwrap_or("0.0.0.0:8080")).await?.tap_io(|stream| {
        // What has no delay for the others has none here.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, Router::new().route("/splice", post(splice)).route("/drain", post(drain)).fallback(answer))
        .with_graceful_shutdown(async move {
            ended.recv().await;
        })
        .await
}

async fn splice(body: Body) -> Body {
    body
}

async fn drain(mut body: Body) -> String {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
    format!("{bytes} bytes\n")
}

async fn answer(method: Method, uri: Uri, body: Bytes) -> Response<Body> {
    crud::answer(&method, uri.path(), &body).map(Body::from)
}
