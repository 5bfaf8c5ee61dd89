//! The pages for probes and Prometheus: /healthz, /readyz, /metrics. IO.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    routing::get,
};
use tokio::{net::TcpListener, sync::watch};

use crate::metrics::Metrics;

/// What this replica is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Another replica leads; this one takes over when it must, so it is ready.
    Standby,
    /// It leads, and is not done with looking at what is there.
    Starting,
    /// It leads, and shims can connect.
    Leading,
}

/// Serves until it fails.
pub async fn serve(address: SocketAddr, metrics: Metrics, role: watch::Receiver<Role>) -> std::io::Result<()> {
    let readyz = Arc::new(move || match *role.borrow() {
        Role::Standby => (StatusCode::OK, "standby\n"),
        Role::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        Role::Leading => (StatusCode::OK, "leading\n"),
    });
    let text = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(move || async move { readyz() }))
        .route("/metrics", get(move || async move { ([(CONTENT_TYPE, text)], metrics.text()) }));
    axum::serve(TcpListener::bind(address).await?, router).await
}
