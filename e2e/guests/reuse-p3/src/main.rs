//! Says which of its instance's requests this is, by WASI 0.3: at once, or after so many milliseconds (`/slow?20`). Or
//! traps (`/trap`), or never comes back (`/spin`), or goes on for so many milliseconds after its answer (`/linger?20`).

use std::{
    hint::black_box,
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use wasip3::{
    clocks::monotonic_clock::wait_for,
    http::types::{ErrorCode, Fields, Request, Response},
    wit_bindgen::spawn_local,
    wit_future, wit_stream,
};

wasip3::http::service::export!(Reuse);

/// Requests that this instance has begun to serve: 1 for a fresh one.
static BEGUN: AtomicU64 = AtomicU64::new(0);

struct Reuse;

impl wasip3::exports::http::handler::Guest for Reuse {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let number = BEGUN.fetch_add(1, Ordering::Relaxed) + 1;
        let target = request.get_path_with_query().unwrap_or_default();
        let mut lingers = None;
        match target.split_once('?').unwrap_or((&target, "")) {
            ("/slow", millis) => wait_for(nanos(millis)).await,
            ("/linger", millis) => lingers = Some(nanos(millis)),
            ("/trap", _) => process::abort(),
            ("/spin", _) => loop {
                black_box(());
            },
            _ => {}
        }
        let (mut body, body_reader) = wit_stream::new();
        let (_no_trailers, trailers) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(Fields::new(), Some(body_reader), trailers);
        spawn_local(async move {
            body.write_all(format!("{number}\n").into_bytes()).await;
            drop(body);
            if let Some(nanos) = lingers {
                wait_for(nanos).await;
            }
        });
        Ok(response)
    }
}

fn nanos(millis: &str) -> u64 {
    millis.parse::<u64>().unwrap_or(0) * 1_000_000
}

fn main() {}
