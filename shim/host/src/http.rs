//! `wasi:http` towards the guest: our limits, and the one way out, for who was granted it.

use std::sync::Arc;

use wasmtime_wasi_http::{Error, RequestOptions, Result, WasiBody, WasiHttpCtx, WasiHttpHooks};

use super::outbound::{Moving, Outbound};

/// Most bytes of headers that the guest may hold in one set of fields.
const FIELDS: usize = 64 << 10;
/// Most bytes of an answer's body that are taken from the guest in one piece: what a slow client holds is a piece or two.
const PIECE: usize = 128 << 10;

/// A context with our limits.
pub(crate) fn context() -> WasiHttpCtx {
    let mut context = WasiHttpCtx::new();
    context.set_field_size_limit(FIELDS);
    context
}

/// What a guest's requests go through, when it may send any.
pub(crate) struct Hooks(pub(crate) Option<Arc<Outbound>>);

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Moving,
    ) -> Box<dyn Future<Output = Result<(http::Response<WasiBody>, Moving)>> + Send> {
        match self.0.clone() {
            Some(outbound) => Box::new(outbound.send(request, options)),
            None => Box::new(std::future::ready(Err(Error::HttpRequestDenied))),
        }
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        PIECE
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        PIECE
    }

    // A client that hangs up is its own affair: said to the guest as an error, not to our log.
    fn p2_error_from_hyper(&mut self, _: &hyper::Error) -> wasmtime_wasi_http::p2::bindings::http::types::ErrorCode {
        wasmtime_wasi_http::p2::bindings::http::types::ErrorCode::HttpProtocolError
    }

    fn p3_error_from_hyper(&mut self, _: &hyper::Error) -> wasmtime_wasi_http::p3::bindings::http::types::ErrorCode {
        wasmtime_wasi_http::p3::bindings::http::types::ErrorCode::HttpProtocolError
    }
}
