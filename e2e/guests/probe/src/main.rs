//! Does what a component should not do, or what a test must see: a path for each.

use std::{
    env, fs,
    hint::black_box,
    net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use http_body_util::BodyExt;
use wstd::{
    http::{Body, Error, Request, Response, StatusCode},
    time::Duration,
};

/// Requests that this instance has served: 1 for a fresh one.
static SERVED: AtomicU64 = AtomicU64::new(0);

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let served = SERVED.fetch_add(1, Ordering::Relaxed) + 1;
    let number = number(request.uri().query().unwrap_or_default());
    let text = match request.uri().path() {
        "/" => "probe\n".to_owned(),
        "/spin" => loop {
            black_box(());
        },
        "/compute" => compute(number),
        "/grow" => grow(number),
        "/hold" => {
            let memory = grow(number);
            wstd::task::sleep(Duration::from_secs(2)).await;
            memory
        }
        "/header" => return header(request.uri().query().unwrap_or_default()),
        "/say" => request.uri().query().unwrap_or_default().to_owned(),
        "/status" => {
            let status = StatusCode::from_u16(number as u16)?;
            return Ok(Response::builder().status(status).body("a body\n".to_owned().into())?);
        }
        "/target" => format!("{} {}\n", request.uri().authority().map_or("", |a| a.as_str()), request.uri().path()),
        "/echo" => return Ok(Response::new(request.into_body())),
        "/drain" => drain(request.into_body()).await?,
        "/env" => env::vars().map(|(name, value)| format!("{name}={value}\n")).collect(),
        "/slow" => {
            wstd::task::sleep(Duration::from_millis(number)).await;
            format!("{number} ms\n")
        }
        "/trap" => process::abort(),
        "/big" => "x".repeat(number as usize),
        "/fresh" => format!("{served}\n"),
        "/fs" => files(),
        "/net" => sockets(),
        _ => return Ok(Response::builder().status(StatusCode::NOT_FOUND).body("no such path\n".to_owned().into())?),
    };
    Ok(Response::new(text.into()))
}

/// The number of a query like `ms=20`, or 0.
fn number(query: &str) -> u64 {
    query.split_once('=').and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
}

/// Takes a body as it comes, and keeps nothing of it.
async fn drain(body: Body) -> Result<String, Error> {
    let (mut body, mut bytes) = (body.into_boxed_body(), 0);
    while let Some(frame) = body.frame().await {
        bytes += frame?.data_ref().map_or(0, |data| data.len());
    }
    Ok(format!("{bytes} bytes\n"))
}

/// Takes this many million steps, about a millisecond each: however busy the machine is, it is the same work.
fn compute(millions: u64) -> String {
    for step in 0..millions * 1_000_000 {
        black_box(step);
    }
    format!("{millions} million steps\n")
}

/// Takes this many MiB and writes to each of their pages.
fn grow(mebibytes: u64) -> String {
    let memory = vec![1u8; (mebibytes as usize) << 20];
    format!("{} bytes\n", black_box(&memory).len())
}

/// An answer with the header of a query like `name=value`.
fn header(query: &str) -> Result<Response<Body>, Error> {
    let (name, value) = query.split_once('=').unwrap_or(("name", "value"));
    Ok(Response::builder().header(name, value).body("with a header\n".to_owned().into())?)
}

fn files() -> String {
    let seen = ["/", ".", "/etc/passwd"].map(|path| match fs::metadata(path) {
        Ok(_) => format!("{path} is there\n"),
        Err(error) => format!("no file {path}: {error}\n"),
    });
    seen.concat()
}

fn sockets() -> String {
    let any = "0.0.0.0:0";
    [
        ("connection", TcpStream::connect("127.0.0.1:8081").map(drop)),
        ("listener", TcpListener::bind(any).map(drop)),
        ("datagrams", UdpSocket::bind(any).map(drop)),
        ("name", "localhost:80".to_socket_addrs().map(drop)),
    ]
    .map(|(what, outcome)| match outcome {
        Ok(()) => format!("{what} is there\n"),
        Err(error) => format!("no {what}: {error}\n"),
    })
    .concat()
}
