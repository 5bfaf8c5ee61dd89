//! The example `crud` as a native server, for a pod: what WasmServices are measured beside. IO: serves on port 8080
//! until it is told to end.
//!
//! The answers come from the example's own code, so that the work is the same. One thread, as a small service has it.

use std::io;

use axum::{
    Router,
    body::{Body, Bytes},
    http::{Method, Response, Uri},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    // The first process of a container is not ended by a signal that it does not listen for.
    let mut ended = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(("0.0.0.0", 8080)).await?;
    axum::serve(listener, Router::new().fallback(answer))
        .with_graceful_shutdown(async move {
            ended.recv().await;
        })
        .await
}

async fn answer(method: Method, uri: Uri, body: Bytes) -> Response<Body> {
    crud::answer(&method, uri.path(), &body).map(Body::from)
}
