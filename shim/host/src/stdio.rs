//! The guest's standard output and error: its bytes in, lines of the service's log out. Writing never blocks.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    async_trait,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

use super::{
    lines::LineCutter,
    log::{Message, ServiceLog, Stream},
};

/// Most bytes that the guest hands over in one call.
const WRITE_PERMIT: usize = 64 << 10;

/// One stream of one instance; every handle of the guest to it shares the line that is being written.
#[derive(Clone)]
pub(crate) struct Output(Arc<Shared>);

struct Shared {
    log: Arc<ServiceLog>,
    stream: Stream,
    cutter: Mutex<LineCutter>,
}

impl Output {
    /// A stream that writes to the service's log.
    pub(crate) fn new(log: Arc<ServiceLog>, stream: Stream) -> Self {
        Self(Arc::new(Shared { log, stream, cutter: Mutex::default() }))
    }

    fn push(&self, bytes: &[u8]) {
        let mut cutter = self.0.cutter.lock().unwrap_or_else(PoisonError::into_inner);
        cutter.push(bytes, |line, truncated| {
            self.0.log.write(Message { truncated, ..Message::new(self.0.stream, line) });
        });
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let cutter = self.cutter.get_mut().unwrap_or_else(PoisonError::into_inner);
        cutter.end(|line, truncated| self.log.write(Message { truncated, ..Message::new(self.stream, line) }));
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.push(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_PERMIT)
    }
}
