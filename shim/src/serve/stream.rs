//! A TCP stream that tells its clock when bytes come and go, and lets who has closed its side be answered.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use super::clock::ConnectionClock;

/// The stream of one connection.
pub(crate) struct TimedStream {
    stream: TcpStream,
    clock: Arc<ConnectionClock>,
    /// When the client closed its side.
    closed: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl TimedStream {
    /// Times this stream.
    pub(crate) fn new(stream: TcpStream, clock: Arc<ConnectionClock>) -> Self {
        Self { stream, clock, closed: None, timer: None }
    }

    /// The client has closed its side: ready when that is to be taken for the end of the connection.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let closed = *self.closed.get_or_insert_with(Instant::now);
        // With its last answer the connection is over.
        self.clock.wake_at_end(context.waker());
        while let Some(left) = self.clock.patience(closed, Instant::now()) {
            let timer = self.timer.insert(Box::pin(sleep(left)));
            ready!(timer.as_mut().poll(context));
        }
        Poll::Ready(())
    }

    fn wrote(&self, poll: &Poll<io::Result<usize>>) {
        match poll {
            Poll::Ready(Ok(1..)) => self.clock.wrote(Instant::now()),
            Poll::Pending => self.clock.write_blocked(Instant::now()),
            Poll::Ready(_) => {}
        }
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.clock.read(Instant::now());
        } else if matches!(poll, Poll::Ready(Ok(()))) && buffer.remaining() > 0 {
            return self.poll_gone(context).map(Ok);
        }
        poll
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(&poll);
        poll
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wrote(&poll);
        poll
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
