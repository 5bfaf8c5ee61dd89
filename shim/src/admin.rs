//! The admin port: `/healthz`, `/readyz` and `/metrics`, on the control loop's thread.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use axum::{
    Router,
    http::{HeaderName, StatusCode, header},
    routing::get,
};
use tokio::{net::TcpListener, runtime::Handle, time::timeout};

use crate::metrics::Metrics;

/// The serving threads must take a task within this time, or the kubelet may restart the shim. Guests give their
/// thread back every 10 ms.
const STUCK: Duration = Duration::from_secs(5);

const TEXT: [(HeaderName, &str); 1] =
    [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];

/// Serves the pages until the process ends.
pub(crate) async fn serve(listener: TcpListener, metrics: Arc<Metrics>, serving: Handle) -> std::io::Result<()> {
    let shared = metrics.shared.clone();
    let pages = Router::new()
        .route("/healthz", get(async move || healthz(&serving).await))
        .route(
            "/readyz",
            get(async move || {
                if shared.draining.load(Relaxed) {
                    (StatusCode::SERVICE_UNAVAILABLE, "going away\n")
                } else if shared.ready.load(Relaxed) {
                    (StatusCode::OK, "ready\n")
                } else {
                    (StatusCode::SERVICE_UNAVAILABLE, "waiting for the operator's assignments\n")
                }
            }),
        )
        .route(
            "/metrics",
            get(async move || match metrics.text() {
                Ok(text) => Ok((TEXT, text)),
                Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
            }),
        );
    axum::serve(listener, pages).await
}

async fn healthz(serving: &Handle) -> (StatusCode, &'static str) {
    match timeout(STUCK, serving.spawn(async {})).await {
        Ok(Ok(())) => (StatusCode::OK, "ok\n"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "the serving threads take no task\n"),
    }
}
