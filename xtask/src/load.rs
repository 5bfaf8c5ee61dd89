//! A short, bounded load: in goes a URL and how much, out comes what was answered and how fast. IO.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Request, StatusCode, Uri, header::HOST};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet};

/// Requests on one connection before the next is opened: kube-proxy balances connections, not requests.
const PER_CONNECTION: u32 = 20;
/// Longest that one request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends GET requests, and stops at a count or a time, whichever comes first.
#[derive(Debug, clap::Args)]
pub(crate) struct Load {
    /// What to ask for, as in http://hello.default.svc.cluster.local
    url: Uri,
    /// Requests, all together.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    requests: u64,
    /// Requests in flight, at most.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=256))]
    concurrency: u32,
    /// Requests that begin in a second, at most. Without it, each begins when one before it has ended.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: Option<u32>,
    /// Most seconds that it may take.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
}

/// What was seen.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Answers by status code.
    answers: BTreeMap<StatusCode, u64>,
    /// Requests without an answer, by what went wrong.
    failures: BTreeMap<String, u64>,
    /// Microseconds from the request sent to the whole answer received.
    micros: Histogram<u64>,
    took: Duration,
}

impl Load {
    /// Sends the load.
    pub(crate) async fn run(self) -> Result<Seen> {
        ensure!(self.url.scheme_str() == Some("http"), "the URL must start with http://");
        let host = self.url.host().context("the URL names no host")?.to_owned();
        let start = Instant::now();
        let until = start + Duration::from_secs(self.seconds);
        let turns = Turns { taken: AtomicU64::new(0), most: self.requests, rate: self.rate, start, until };
        let (url, turns) = (Arc::new(self.url), Arc::new(turns));
        let mut workers = JoinSet::new();
        for _ in 0..self.concurrency {
            workers.spawn(worker(host.clone(), url.clone(), turns.clone()));
        }
        let mut all = Seen::new()?;
        while let Some(one) = workers.join_next().await {
            all.add(one??)?;
        }
        all.took = start.elapsed();
        Ok(all)
    }
}

/// The requests that all workers together send, each in its turn.
#[derive(Debug)]
struct Turns {
    taken: AtomicU64,
    most: u64,
    rate: Option<u32>,
    start: Instant,
    until: Instant,
}

impl Turns {
    /// When the next request is to begin; `None` when there is none left before the end.
    fn next(&self) -> Option<Instant> {
        let turn = self.taken.fetch_add(1, Ordering::Relaxed);
        let due = self.start + self.rate.map_or(Duration::ZERO, |rate| Duration::from_secs(turn) / rate);
        (turn < self.most && due < self.until && Instant::now() < self.until).then_some(due)
    }
}

async fn worker(host: String, url: Arc<Uri>, turns: Arc<Turns>) -> Result<Seen> {
    let mut seen = Seen::new()?;
    let mut connection: Option<(SendRequest<Empty<Bytes>>, u32)> = None;
    while let Some(due) = turns.next() {
        tokio::time::sleep_until(due.into()).await;
        let exchange = async {
            let (mut sender, used) = match connection.take() {
                Some((sender, used)) if used < PER_CONNECTION && !sender.is_closed() => (sender, used),
                _ => (connect(&host, url.port_u16().unwrap_or(80)).await?, 0),
            };
            let path = url.path_and_query().map_or("/", |p| p.as_str());
            let request = Request::get(path).header(HOST, &host).body(Empty::new())?;
            let sent = Instant::now();
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            answer.into_body().collect().await?;
            connection = Some((sender, used + 1));
            anyhow::Ok((status, sent.elapsed()))
        };
        match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(Ok((status, took))) => {
                *seen.answers.entry(status).or_default() += 1;
                seen.micros.saturating_record(u64::try_from(took.as_micros())?);
            }
            Ok(Err(error)) => *seen.failures.entry(format!("{error:#}")).or_default() += 1,
            Err(_) => *seen.failures.entry(format!("no answer within {PATIENCE:?}")).or_default() += 1,
        }
    }
    Ok(seen)
}

async fn connect(host: &str, port: u16) -> Result<SendRequest<Empty<Bytes>>> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

impl Seen {
    fn new() -> Result<Self> {
        let micros = Histogram::new_with_bounds(1, 60_000_000, 3)?;
        Ok(Self { answers: BTreeMap::new(), failures: BTreeMap::new(), micros, took: Duration::ZERO })
    }

    fn add(&mut self, other: Self) -> Result<()> {
        for (status, count) in other.answers {
            *self.answers.entry(status).or_default() += count;
        }
        for (failure, count) in other.failures {
            *self.failures.entry(failure).or_default() += count;
        }
        self.micros.add(other.micros)?;
        Ok(())
    }

    /// Whether every request was answered, and with 200.
    pub(crate) fn is_good(&self) -> bool {
        self.failures.is_empty() && self.answers.keys().all(|status| *status == StatusCode::OK)
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        writeln!(f, "{} answers in {seconds:.1} s: {:.0}/s", self.micros.len(), self.micros.len() as f64 / seconds)?;
        for (status, count) in &self.answers {
            writeln!(f, "  {status}: {count}")?;
        }
        for (failure, count) in &self.failures {
            writeln!(f, "  {failure}: {count}")?;
        }
        let millis = |quantile| self.micros.value_at_quantile(quantile) as f64 / 1000.0;
        write!(f, "  time to the whole answer: p50 {:.2} ms, p99 {:.2} ms", millis(0.5), millis(0.99))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_begin_at_their_rate_until_the_count_or_the_time_is_over() {
        let start = Instant::now();
        let turns = |most, rate, seconds| {
            let until = start + Duration::from_secs(seconds);
            let turns = Turns { taken: AtomicU64::new(0), most, rate, start, until };
            let due = std::iter::from_fn(move || turns.next());
            due.map(|due| (due - start).as_millis()).collect::<Vec<_>>()
        };
        assert_eq!(turns(3, Some(4), 60), [0, 250, 500]);
        assert_eq!(turns(100, Some(2), 2), [0, 500, 1000, 1500]);
        assert_eq!(turns(3, None, 60), [0, 0, 0]);
        assert!(turns(3, None, 0).is_empty());
    }

    #[test]
    fn anything_but_200_is_not_good() -> Result<()> {
        let mut seen = Seen::new()?;
        seen.answers.insert(StatusCode::OK, 3);
        assert!(seen.is_good());
        let mut other = Seen::new()?;
        other.answers.insert(StatusCode::SERVICE_UNAVAILABLE, 1);
        seen.add(other)?;
        assert!(!seen.is_good());
        assert_eq!(seen.answers[&StatusCode::OK], 3);
        Ok(())
    }

    #[test]
    fn a_failure_is_not_good() -> Result<()> {
        let mut seen = Seen::new()?;
        seen.failures.insert("connection refused".to_owned(), 1);
        assert!(!seen.is_good());
        assert!(seen.to_string().contains("connection refused: 1"), "{seen}");
        Ok(())
    }
}
