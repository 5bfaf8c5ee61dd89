//! Guests' lines: text in, JSON lines on stdout out, bounded in size, rate and memory. A guest that floods loses its
//! own lines; nobody waits for it.

use std::{
    io::Write,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    time::Instant,
};

use serde::Serialize;
use tracing_subscriber::fmt::{
    format::Writer,
    time::{FormatTime, SystemTime},
};

use super::{
    bucket::Bucket,
    share::{Share, Shares},
};

/// Bytes of lines that may wait for stdout, all namespaces together.
const QUEUE_BYTES: u64 = 4 << 20;
/// What a line costs at least, so that empty lines are not free.
const LEAST_COST: u64 = 256;
/// Bytes of lines a second that one service may write, and how many at once.
const RATE: u64 = 512 << 10;
const BURST: u64 = 1 << 20;

/// Where a line comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// The guest's standard output.
    Stdout,
    /// The guest's standard error.
    Stderr,
    /// `wasi:logging`.
    Logging,
    /// The shim, about this guest: why a request failed.
    Shim,
}

/// What a service has to say.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Message<'a> {
    /// Where it comes from.
    pub stream: Stream,
    /// How bad it is, when that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<&'a str>,
    /// What it is about, in the guest's own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<&'a str>,
    /// The line.
    #[serde(rename = "message")]
    pub text: &'a str,
    /// The line was longer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

impl<'a> Message<'a> {
    /// A whole line of which nothing else is known.
    pub fn new(stream: Stream, text: &'a str) -> Self {
        Self { stream, level: None, context: None, text, truncated: false }
    }
}

/// One line on its way to stdout.
#[derive(Serialize)]
struct Line<'a> {
    time: &'a str,
    namespace: &'a str,
    service: &'a str,
    #[serde(flatten)]
    message: Message<'a>,
    /// Lines of this service that were lost before this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped: Option<u64>,
}

/// The way to stdout: a queue bounded in bytes, of which each namespace has its share, emptied by a thread of its own.
#[derive(Clone)]
pub struct Lines {
    queue: mpsc::Sender<(String, Arc<Share>)>,
    queued: Arc<Shares>,
    dropped: Arc<AtomicU64>,
}

impl Lines {
    /// Starts the thread that writes to `out`; it ends when every sender is gone.
    pub fn start(mut out: impl Write + Send + 'static) -> std::io::Result<Self> {
        let (queue, lines) = mpsc::channel::<(String, Arc<Share>)>();
        std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            for (line, share) in lines {
                // Nothing can be done about a stdout that is gone; the lines are lost as they would be there.
                let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
                share.give_back(line.len() as u64);
            }
        })?;
        Ok(Self { queue, queued: Arc::new(Shares::new(QUEUE_BYTES)), dropped: Arc::default() })
    }

    /// Lines lost since the start, all services together.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    fn push(&self, line: String, share: &Arc<Share>) -> bool {
        let length = line.len() as u64;
        if !share.take(length) {
            return false;
        }
        let sent = self.queue.send((line, share.clone())).is_ok();
        if !sent {
            share.give_back(length);
        }
        sent
    }
}

/// What one service writes through.
pub struct ServiceLog {
    lines: Lines,
    /// Of its namespace.
    share: Arc<Share>,
    namespace: String,
    service: String,
    bucket: Mutex<Bucket>,
    /// Lost lines that no later line has told of.
    untold: AtomicU64,
}

impl ServiceLog {
    /// A service's share of the log.
    pub fn new(lines: Lines, namespace: &str, service: &str) -> Self {
        Self {
            share: lines.queued.of(namespace),
            lines,
            namespace: namespace.to_owned(),
            service: service.to_owned(),
            bucket: Mutex::new(Bucket::new(RATE, BURST, Instant::now())),
            untold: AtomicU64::new(0),
        }
    }

    /// Writes one line, or counts it as lost.
    pub fn write(&self, message: Message<'_>) {
        let cost = (message.text.len() as u64).max(LEAST_COST);
        let allowed = self.bucket.lock().unwrap_or_else(PoisonError::into_inner).take(cost, Instant::now());
        let untold = self.untold.swap(0, Relaxed);
        if !(allowed && self.push(message, untold)) {
            self.untold.fetch_add(untold + 1, Relaxed);
            self.lines.dropped.fetch_add(1, Relaxed);
        }
    }

    fn push(&self, message: Message<'_>, untold: u64) -> bool {
        let mut time = String::new();
        let line = Line {
            time: SystemTime.format_time(&mut Writer::new(&mut time)).map_or("", |()| &time),
            namespace: &self.namespace,
            service: &self.service,
            message,
            dropped: (untold > 0).then_some(untold),
        };
        serde_json::to_string(&line).is_ok_and(|mut text| {
            text.push('\n');
            self.lines.push(text, &self.share)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pipe(mpsc::Sender<Vec<u8>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(std::io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_json_with_its_service() {
        let (sender, lines) = mpsc::channel();
        let log = ServiceLog::new(Lines::start(Pipe(sender)).expect("a thread"), "shop", "cart");
        log.write(Message { level: Some("info"), context: Some("boot"), ..Message::new(Stream::Logging, "a \"b\"\n") });
        let line: serde_json::Value = serde_json::from_slice(&lines.recv().expect("a line")).expect("JSON");
        assert!(line["time"].as_str().is_some_and(|t| t.len() > 20 && t.ends_with('Z')), "{line}");
        for (key, want) in [
            ("stream", "logging"),
            ("level", "info"),
            ("context", "boot"),
            ("namespace", "shop"),
            ("service", "cart"),
            ("message", "a \"b\"\n"),
        ] {
            assert_eq!(line[key], want, "{key}");
        }
        assert!(line.get("dropped").is_none() && line.get("truncated").is_none());
    }

    /// Of a stdout that is stuck.
    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_namespace_that_floods_leaves_room_in_the_queue() {
        let (unstick, stuck) = mpsc::channel();
        let lines = Lines::start(Stuck(stuck)).expect("a thread");
        let quiet = ServiceLog::new(lines.clone(), "quiet", "one");
        // Each may write a burst; all of them together far more than the queue has.
        for n in 0..20 {
            let loud = ServiceLog::new(lines.clone(), "loud", &n.to_string());
            (0..4000).for_each(|_| loud.write(Message::new(Stream::Stdout, "x")));
        }
        let dropped = lines.dropped();
        assert!(dropped > 1000 && lines.queued.held() > QUEUE_BYTES / 2, "{dropped} dropped");
        quiet.write(Message::new(Stream::Stdout, "here"));
        assert_eq!(lines.dropped(), dropped, "the other namespace's line has room");
        drop(unstick);
    }

    #[test]
    fn a_flood_is_cut_and_counted() {
        let (sender, received) = mpsc::channel();
        let lines = Lines::start(Pipe(sender)).expect("a thread");
        let (loud, quiet) = (ServiceLog::new(lines.clone(), "a", "loud"), ServiceLog::new(lines.clone(), "a", "quiet"));
        for _ in 0..100_000 {
            loud.write(Message::new(Stream::Stdout, "x"));
        }
        quiet.write(Message::new(Stream::Stdout, "here"));
        let dropped = lines.dropped();
        assert!(dropped > 50_000 && dropped < 100_000, "{dropped} dropped");
        drop((lines, loud, quiet));
        let last = received.iter().last().expect("lines");
        assert!(String::from_utf8_lossy(&last).contains("quiet"), "the other service's line came through");
    }
}
