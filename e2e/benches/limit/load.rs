//! A load: connections that are kept, each of which asks again as soon as it is answered. In: where to, what, how many;
//! out: what came back and how long each took. IO, bounded in time.
//!
//! One thread, no runtime, no library of HTTP: who asks must not be what is measured.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
};

use super::answer::Answer;

/// Longest wait for any one answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes that are read at once.
const PIECE: usize = 256 << 10;

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    /// A whole request, as it goes over the wire.
    pub(crate) request: Vec<u8>,
    pub(crate) connections: usize,
    pub(crate) time: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) seconds: f64,
    /// Of each answer: when it was asked for, in seconds since the start, and the milliseconds that it took.
    pub(crate) answers: Vec<(f32, f32)>,
    /// Answers that were no success.
    pub(crate) failures: usize,
    /// Bytes of all bodies.
    pub(crate) body_bytes: u64,
}

impl Outcome {
    /// Answers a second.
    pub(crate) fn rate(&self) -> f64 {
        self.answers.len() as f64 / self.seconds
    }

    /// Milliseconds that this share of the answers did not take longer than.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let mut took: Vec<_> = self.answers.iter().map(|(_, took)| *took).collect();
        let at = ((took.len() as f64 * share) as usize).min(took.len().saturating_sub(1));
        if took.is_empty() { 0.0 } else { (*took.select_nth_unstable_by(at, f32::total_cmp).1).into() }
    }
}

struct Connection {
    stream: TcpStream,
    /// Bytes of the request that have gone.
    sent: usize,
    /// Whether it is to be told when more can be sent.
    full: bool,
    since: Instant,
    answer: Answer,
}

/// A request of this method and body.
pub(crate) fn request(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: bench\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Opens the connections, then asks for as long as is said; answers that are under way then are waited for.
pub(crate) fn run(load: &Load) -> Result<Outcome> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut connections = (0..load.connections).map(|_| connect(load.address)).collect::<Result<Vec<_>>>()?;
    for (number, connection) in connections.iter().enumerate() {
        epoll::add(&poll, &connection.stream, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
    }
    let (mut outcome, mut piece, mut under_way) = (Outcome::default(), vec![0; PIECE], connections.len());
    let mut events: Vec<epoll::Event> = Vec::with_capacity(256);
    let start = Instant::now();
    for (number, connection) in connections.iter_mut().enumerate() {
        connection.since = Instant::now();
        connection.send(&poll, number, &load.request)?;
    }
    while under_way > 0 {
        events.clear();
        let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        epoll::wait(&poll, spare_capacity(&mut events), Some(&patience))?;
        ensure!(!events.is_empty(), "no answer within {PATIENCE:?}");
        for event in &events {
            let (flags, number) = (event.flags, event.data.u64() as usize);
            let connection = &mut connections[number];
            if flags.contains(epoll::EventFlags::OUT) {
                connection.send(&poll, number, &load.request)?;
            }
            if !flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
                continue;
            }
            let read = match connection.stream.read(&mut piece) {
                Ok(0) => Err(io::Error::from(ErrorKind::UnexpectedEof)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                other => other,
            };
            let Some(done) = connection.answer.take(&piece[..read.context("a connection broke")?])? else { continue };
            let now = Instant::now();
            let (at, took) = (connection.since - start, now - connection.since);
            outcome.answers.push((at.as_secs_f32(), took.as_secs_f32() * 1000.0));
            outcome.failures += usize::from(!(200..300).contains(&done.status));
            outcome.body_bytes += done.body_bytes;
            if now - start < load.time {
                connection.since = now;
                connection.sent = 0;
                connection.send(&poll, number, &load.request)?;
            } else {
                under_way -= 1;
            }
        }
    }
    outcome.seconds = start.elapsed().as_secs_f64();
    Ok(outcome)
}

fn connect(address: SocketAddr) -> Result<Connection> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).context("no connection")?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(Connection { stream, sent: 0, full: false, since: Instant::now(), answer: Answer::default() })
}

impl Connection {
    /// Sends as much as there is room for, and is told when there is more.
    fn send(&mut self, poll: &impl std::os::fd::AsFd, number: usize, request: &[u8]) -> Result<()> {
        while self.sent < request.len() {
            match self.stream.write(&request[self.sent..]) {
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("a connection broke"),
            }
        }
        let full = self.sent < request.len();
        if full != self.full {
            self.full = full;
            let flags = if full { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
            epoll::modify(poll, &self.stream, epoll::EventData::new_u64(number as u64), flags)?;
        }
        Ok(())
    }
}

/// One request after the other on a connection of its own, already open; the milliseconds to the first byte of each.
pub(crate) fn first_bytes(address: SocketAddr, request: &[u8], times: usize) -> Result<Vec<f64>> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).context("no connection")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut piece, mut took) = (vec![0; PIECE], vec![]);
    for _ in 0..times {
        let (since, mut answer) = (Instant::now(), Answer::default());
        stream.write_all(request)?;
        let mut first = None;
        let done = loop {
            let read = stream.read(&mut piece).context("no answer")?;
            first = first.or_else(|| Some(since.elapsed()));
            ensure!(read > 0, "the connection was closed");
            if let Some(done) = answer.take(&piece[..read])? {
                break done;
            }
        };
        ensure!((200..300).contains(&done.status), "{}", done.status);
        took.extend(first.map(|first| first.as_secs_f64() * 1000.0));
    }
    Ok(took)
}

/// Sends one request on each of so many connections, and reads nothing: they stay in flight while these are held.
pub(crate) fn hold(address: SocketAddr, request: &[u8], connections: usize) -> Result<Vec<TcpStream>> {
    let held = (0..connections).map(|_| {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE).context("no connection")?;
        stream.write_all(request)?;
        Ok(stream)
    });
    held.collect()
}

/// A page, with its head.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).context("no connection")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&request("GET", path, b""))?;
    let (mut piece, mut answer, mut text) = (vec![0; PIECE], Answer::default(), vec![]);
    loop {
        let read = stream.read(&mut piece)?;
        ensure!(read > 0, "the connection was closed");
        text.extend_from_slice(&piece[..read]);
        if answer.take(&piece[..read])?.is_some() {
            return Ok(String::from_utf8(text)?);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    /// A server that answers each request with its own body, twice over.
    fn echo() -> Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || serve(stream));
            }
        });
        Ok(address)
    }

    fn serve(mut stream: TcpStream) -> io::Result<()> {
        let (mut got, mut piece) = (vec![], vec![0; 1 << 16]);
        loop {
            let read = stream.read(&mut piece)?;
            if read == 0 {
                return Ok(());
            }
            got.extend_from_slice(&piece[..read]);
            let Some(head) = got.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let text = String::from_utf8_lossy(&got[..head]).into_owned();
            let length: usize = text.rsplit(": ").next().and_then(|n| n.parse().ok()).unwrap_or(0);
            if got.len() == head + 4 + length {
                let body = got.split_off(head + 4);
                write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 2 * length)?;
                stream.write_all(&body)?;
                stream.write_all(&body)?;
                got.clear();
            }
        }
    }

    #[test]
    fn every_connection_asks_until_the_time_is_over() -> Result<()> {
        let load = Load {
            address: echo()?,
            request: request("POST", "/", &vec![7; 3 << 20]),
            connections: 3,
            time: Duration::from_millis(200),
        };
        let outcome = run(&load)?;
        assert!(outcome.answers.len() >= 3 && outcome.seconds >= 0.2, "{outcome:?}");
        assert_eq!(outcome.body_bytes, outcome.answers.len() as u64 * (6 << 20));
        assert!(outcome.failures == 0 && outcome.quantile(0.5) <= outcome.quantile(0.99));
        assert_eq!(first_bytes(load.address, &request("GET", "/", b""), 5)?.len(), 5);
        Ok(())
    }
}
