//! The counter, counted: a server on loopback loses some requests on purpose, and just these must be noticed.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::pending,
    io,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

use super::{Kind, Lane, Plan, Traffic, mix};
use crate::{Target, eventually};

const PATIENCE: Duration = Duration::from_secs(20);

/// What becomes of a request in place of an answer.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Its connection, or with HTTP/2 its stream, ends when it has been read.
    Drop,
    /// The same in the middle of the answer.
    Cut,
    Status,
    Wrong,
    Hang,
    /// It is answered, and a little later the connection is closed, idle.
    CloseIdle,
}

/// The faults that have not happened yet, by the request's number.
type Faults = Arc<Mutex<HashMap<usize, Fault>>>;

/// Serves until it is aborted, and answers as the guest `probe` does.
async fn server(faults: &[(usize, Fault)]) -> Result<(Target, JoinHandle<io::Result<Infallible>>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let target = Target { address: listener.local_addr()?, host: "probe.example".to_owned() };
    let faults: Faults = Arc::new(Mutex::new(faults.iter().copied().collect()));
    let serving = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            connections.spawn(connection(listener.accept().await?.0, faults.clone()));
        }
    });
    Ok((target, serving))
}

async fn connection(stream: TcpStream, faults: Faults) {
    let idle = Arc::new(Notify::new());
    let closing = idle.clone();
    let service = service_fn(move |request| answer(request, faults.clone(), closing.clone()));
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    loop {
        let closes = async {
            idle.notified().await;
            sleep(Duration::from_millis(10)).await; // the answer leaves first
        };
        tokio::select! {
            _ = connection.as_mut() => return,
            () = closes => connection.as_mut().graceful_shutdown(),
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    faults: Faults,
    closing: Arc<Notify>,
) -> io::Result<Response<UnsyncBoxBody<Bytes, io::Error>>> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let said = match *request.method() {
        Method::POST => request.into_body().collect().await.map_err(io::Error::other)?.to_bytes(),
        _ => Bytes::from(query),
    };
    let number = String::from_utf8_lossy(&said).split(' ').next().and_then(|first| first.parse().ok());
    let fault = number.and_then(|number: usize| faults.lock().expect("no panic").remove(&number));
    let whole =
        |bytes: &'static [u8]| Full::new(Bytes::from_static(bytes)).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(Full::new(said).map_err(|never| match never {}).boxed_unsync());
    match fault {
        None => {}
        Some(Fault::Drop) => return Err(io::Error::other("on purpose")),
        Some(Fault::Cut) => {
            let first = stream::iter([Ok(Frame::data(Bytes::from_static(b"4")))]);
            let end = stream::once(async {
                sleep(Duration::from_millis(10)).await; // what is before it leaves first
                Err(io::Error::other("on purpose"))
            });
            *response.body_mut() = BodyExt::boxed_unsync(StreamBody::new(first.chain(end)));
        }
        Some(Fault::Status) => {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            *response.body_mut() = whole(b"too much\n");
        }
        Some(Fault::Wrong) => *response.body_mut() = whole(b"the answer to another\n"),
        Some(Fault::Hang) => pending().await,
        Some(Fault::CloseIdle) => closing.notify_one(),
    }
    Ok(response)
}

fn plan() -> Plan {
    Plan { rate: 150, most: Duration::from_secs(20), patience: Duration::from_secs(1), ..Plan::default() }
}

#[tokio::test]
async fn just_what_was_lost_is_noticed() -> Result<()> {
    let lost = [
        (12, Fault::Drop, Lane::New, Method::GET, Kind::Reset),
        (22, Fault::Drop, Lane::KeepAlive, Method::POST, Kind::Reset),
        (43, Fault::Cut, Lane::KeepAlive, Method::GET, Kind::Reset),
        (50, Fault::Drop, Lane::Http2, Method::GET, Kind::Reset),
        (54, Fault::Status, Lane::New, Method::GET, Kind::Status(503)),
        (62, Fault::Wrong, Lane::Http2, Method::GET, Kind::WrongBody),
        (66, Fault::Hang, Lane::New, Method::GET, Kind::Timeout),
    ];
    // What HTTP lets a client mend by itself: a GET again, whose kept connection ended; another connection after one
    // that was closed while it was idle.
    let mended = [(37, Fault::Drop), (70, Fault::CloseIdle)];
    for (number, ..) in mended {
        assert_eq!(mix::ask(&plan(), number).lane, Lane::KeepAlive);
    }
    let faults: Vec<_> = lost.iter().map(|(number, fault, ..)| (*number, *fault)).chain(mended).collect();
    let (target, server) = server(&faults).await?;

    let traffic = Traffic::start_in(None, &target, plan())?;
    eventually("150 good answers", PATIENCE, async || {
        ensure!(traffic.good() >= 150, "{}", traffic.good());
        Ok(())
    })
    .await?;
    let seen = traffic.stop().await?;
    server.abort();
    let mut failed: Vec<_> =
        seen.failed.iter().map(|loss| (loss.number, loss.lane, loss.method.clone(), loss.kind)).collect();
    failed.sort_by_key(|(number, ..)| *number);
    let expected: Vec<_> =
        lost.into_iter().map(|(number, _, lane, method, kind)| (number, lane, method, kind)).collect();
    assert_eq!(failed, expected, "{seen}");
    assert!(seen.retried >= 1, "{seen}");
    assert!(seen.none_lost(1).is_err());
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_gone_is_noticed_on_each_lane() -> Result<()> {
    let (target, server) = server(&[]).await?;
    let traffic = Traffic::start_in(None, &target, plan())?;
    traffic.flows().await?;
    eventually("20 good answers", PATIENCE, async || {
        ensure!(traffic.good() >= 20, "{}", traffic.good());
        Ok(())
    })
    .await?;
    assert_eq!(traffic.lost(), 0);
    server.abort();
    eventually("30 losses", PATIENCE, async || {
        ensure!(traffic.lost() >= 30, "{}", traffic.lost());
        Ok(())
    })
    .await?;
    let seen = traffic.stop().await?;
    for lane in [Lane::New, Lane::KeepAlive, Lane::Http2] {
        let refused = seen.failed.iter().filter(|loss| loss.lane == lane && loss.kind == Kind::Connect).count();
        assert!(refused > 5, "{lane:?}: {seen}");
    }
    assert!(seen.longest_gap > Duration::from_millis(150) && seen.gap_at > Duration::from_millis(100), "{seen}");
    Ok(())
}

#[tokio::test]
async fn a_load_ends_by_itself() -> Result<()> {
    let (target, server) = server(&[]).await?;
    let traffic = Traffic::start_in(None, &target, Plan { most: Duration::from_millis(200), ..plan() })?;
    eventually("30 good answers", PATIENCE, async || {
        ensure!(traffic.good() >= 30, "{}", traffic.good());
        Ok(())
    })
    .await?;
    let seen = traffic.stop().await?;
    server.abort();
    assert_eq!(seen.sent, 30);
    assert!(seen.cut_short && seen.none_lost(30).is_err(), "{seen}");
    Ok(())
}
