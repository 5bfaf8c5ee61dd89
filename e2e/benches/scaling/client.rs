//! Requests of the cluster's client, each on a connection of its own, so that kube-proxy chooses for each. In: where to;
//! out: how long each took. IO, bounded in number and time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use podless_e2e::{Target, in_client};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{interval, sleep, timeout},
};

use super::stats::Sent;

/// An item of the example `crud`.
pub(crate) const ITEM: &str = "/items/00000000000000ff";
/// Longest that a request may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a connection is waited for before another is tried: the kernel itself tries again after a second, and that
/// would be measured.
const CONNECT: Duration = Duration::from_millis(900);
/// The same while the service is being made: one that was begun too early leads nowhere.
const NOT_YET: Duration = Duration::from_millis(100);
/// Between two looks at such a service.
const LOOK: Duration = Duration::from_millis(2);
/// Between two looks of a load at what is due.
const TICK: Duration = Duration::from_millis(5);
/// Most requests of a load that are under way: what is due beyond is lost.
const MOST: usize = 1000;

async fn connect(target: &Target, within: Duration) -> Result<TcpStream> {
    let stream = timeout(within, TcpStream::connect(target.address)).await.context("no connection")??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One GET; when the head of the answer was there, which is an error unless it is a success.
async fn exchange(stream: TcpStream, target: &Target, path: &str) -> Result<Instant> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path).header("host", &target.host).body(Empty::<Bytes>::new())?;
    let answer = timeout(PATIENCE, sender.send_request(request)).await.context("no answer")??;
    let first_byte = Instant::now();
    let status = answer.status();
    answer.into_body().collect().await?;
    connection.abort();
    ensure!(status.is_success(), "{status}");
    Ok(first_byte)
}

/// One GET: how long it took from before its connection to the first byte.
async fn ask(target: &Target, path: &str, within: Duration) -> Result<Duration> {
    let begin = Instant::now();
    let stream = connect(target, within).await?;
    Ok(exchange(stream, target, path).await? - begin)
}

/// The same of a service that kube-proxy may not know yet: a connection that cannot be made is tried again, and what
/// counts begins with the one that could.
async fn ask_when_there(target: &Target, path: &str) -> Result<Duration> {
    let first = Instant::now();
    loop {
        let begin = Instant::now();
        match connect(target, CONNECT).await {
            Ok(stream) => return Ok(exchange(stream, target, path).await? - begin),
            Err(error) if first.elapsed() > PATIENCE => return Err(error),
            Err(_) => sleep(LOOK).await,
        }
    }
}

/// Asks each of these in turn, so many times one after the other; answers the milliseconds to the first byte of each.
pub(crate) async fn in_turn(targets: &[Target], path: &'static str, times: usize) -> Result<Vec<Vec<f64>>> {
    let targets = targets.to_vec();
    in_client(async move || {
        let mut all = vec![];
        for target in &targets {
            let mut of_this = vec![];
            for _ in 0..times {
                let took = ask_when_there(target, path).await.with_context(|| target.host.clone())?;
                of_this.push(took.as_secs_f64() * 1000.0);
            }
            all.push(of_this);
        }
        Ok(all)
    })
    .await
}

/// Asks until there is an answer; when that was.
pub(crate) async fn until_served(target: &Target, path: &'static str) -> Result<Instant> {
    let target = target.clone();
    in_client(async move || {
        let asked = async {
            while ask(&target, path, NOT_YET).await.is_err() {
                sleep(LOOK).await;
            }
            Instant::now()
        };
        timeout(Duration::from_secs(60), asked).await.with_context(|| format!("{} does not answer", target.host))
    })
    .await
}

/// Sends `rate` requests a second, the first at once, by the seconds since `start`, to each of these in turn and however slowly they are
/// answered, for so many seconds.
pub(crate) async fn load(
    targets: Vec<Target>,
    path: &'static str,
    seconds: f64,
    start: Instant,
    rate: impl Fn(f64) -> f64 + Send + 'static,
) -> Result<Vec<Sent>> {
    in_client(async move || {
        let (mut due, mut last, mut number) = (0.0, start.elapsed().as_secs_f64(), 0);
        let (mut ticks, mut under_way, mut sent) = (interval(TICK), JoinSet::new(), vec![]);
        loop {
            tokio::select! {
                _ = ticks.tick(), if last < seconds => {
                    let at = start.elapsed().as_secs_f64();
                    due += rate(at) * (at - last);
                    last = at;
                    while due > 0.0 {
                        due -= 1.0;
                        if under_way.len() >= MOST {
                            sent.push(Sent { at, took: Err("too many under way".to_owned()) });
                            continue;
                        }
                        let target = targets[number % targets.len()].clone();
                        number += 1;
                        under_way.spawn(async move {
                            let took = ask(&target, path, PATIENCE).await.map_err(|error| format!("{error:#}"));
                            Sent { at, took: took.map(|took| took.as_secs_f64() * 1000.0) }
                        });
                    }
                }
                Some(one) = under_way.join_next() => sent.push(one?),
                else => break,
            }
        }
        sent.sort_by(|a, b| a.at.total_cmp(&b.at));
        Ok(sent)
    })
    .await
}
