//! A TCP stream that tells its clock when bytes come and go, keeps what was read too early, and lets who has closed its
//! side be answered.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use super::clock::ConnectionClock;

/// What a client begins with that has chosen HTTP/2.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Most bytes that are read before it is known who takes them: the head of a usual request.
const FIRST: usize = 4096;

/// The stream of one connection.
pub(crate) struct TimedStream {
    stream: TcpStream,
    clock: Arc<ConnectionClock>,
    /// What was read and nobody has taken yet.
    unread: Bytes,
    /// What is missing of the preface, while it may still be one.
    preface: &'static [u8],
    /// When the client closed its side.
    closed: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl TimedStream {
    /// Times this stream.
    pub(crate) fn new(stream: TcpStream, clock: Arc<ConnectionClock>) -> Self {
        Self { stream, clock, unread: Bytes::new(), preface: PREFACE, closed: None, timer: None }
    }

    /// Waits until the client says something, and keeps that for who reads it: whether it speaks HTTP/2. An error, too,
    /// when it has left.
    pub(crate) async fn spoken(&mut self) -> io::Result<bool> {
        poll_fn(|context| self.poll_spoken(context)).await
    }

    fn poll_spoken(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.unread.is_empty() || !self.preface.is_empty() {
            let mut bytes = [const { MaybeUninit::uninit() }; FIRST];
            let mut bytes = ReadBuf::uninit(&mut bytes);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut bytes))?;
            if bytes.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.read(bytes.filled());
            self.unread = [&self.unread, bytes.filled()].concat().into();
        }
        Poll::Ready(Ok(self.clock.speaks_http2()))
    }

    /// Takes back what was read and not used: a request has begun with it.
    pub(crate) fn put_back(&mut self, unread: Bytes) {
        // What is empty still holds the buffer that it was a part of.
        if !unread.is_empty() {
            self.clock.read(Instant::now());
            self.unread = unread;
        }
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

    fn read(&mut self, bytes: &[u8]) {
        if !self.preface.is_empty() {
            let (due, rest) = self.preface.split_at(bytes.len().min(self.preface.len()));
            let agrees = bytes.starts_with(due);
            self.preface = if agrees { rest } else { &[] };
            if agrees && rest.is_empty() {
                self.clock.chose_http2();
            }
        }
        self.clock.read(Instant::now());
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
        if !self.unread.is_empty() {
            let length = buffer.remaining().min(self.unread.len());
            buffer.put_slice(&self.unread[..length]);
            self.unread.advance(length);
            if self.unread.is_empty() {
                self.unread = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.read(&buffer.filled()[before..]);
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    async fn connected() -> (TcpStream, TimedStream, Arc<ConnectionClock>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let client = TcpStream::connect(address).await.expect("connected");
        let (stream, _) = listener.accept().await.expect("accepted");
        let clock = Arc::new(ConnectionClock::new(Instant::now(), 0));
        (client, TimedStream::new(stream, clock.clone()), clock)
    }

    #[tokio::test]
    async fn the_preface_tells_http_2_in_one_piece_or_several_and_nothing_is_lost() {
        let long = [PREFACE, &[7; 2 * FIRST]].concat();
        for (pieces, http2) in [
            (vec![PREFACE], true),
            (vec![&PREFACE[..3], &PREFACE[3..]], true),
            (vec![&long[..]], true),
            (vec![b"PRI / HTTP/1.1\r\n".as_slice(), PREFACE], false),
            (vec![b"PRI", b" / HTTP/1.1\r\n\r\n"], false),
            (vec![b"PUT / HTTP/1.1\r\n\r\n".as_slice()], false),
        ] {
            let (mut client, mut timed, clock) = connected().await;
            let sent = pieces.concat();
            let sending = async {
                for piece in &pieces {
                    client.write_all(piece).await.expect("written");
                    tokio::task::yield_now().await;
                }
            };
            let (spoken, ()) = tokio::join!(timed.spoken(), sending);
            assert_eq!((spoken.expect("spoken"), clock.speaks_http2()), (http2, http2), "{pieces:?}");
            let mut read = vec![0; sent.len()];
            timed.read_exact(&mut read).await.expect("read");
            assert!(read == sent, "what was looked at is read as well: {pieces:?}");
            timed.put_back(Bytes::from_static(b"again"));
            assert_eq!(timed.spoken().await.expect("spoken"), http2);
            let mut read = [0; 5];
            timed.read_exact(&mut read).await.expect("read");
            assert_eq!(&read, b"again");
        }
    }

    #[tokio::test]
    async fn who_leaves_without_a_word_has_spoken_nothing() {
        for begun in [&b""[..], &PREFACE[..5]] {
            let (mut client, mut timed, _) = connected().await;
            client.write_all(begun).await.expect("written");
            drop(client);
            assert_eq!(timed.spoken().await.map_err(|error| error.kind()), Err(io::ErrorKind::UnexpectedEof));
        }
    }
}
