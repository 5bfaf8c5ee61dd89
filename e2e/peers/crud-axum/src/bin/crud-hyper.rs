//! The same without a framework: hyper alone. IO: serves on the address that is its argument, on one thread.

use std::{convert::Infallible, env, io};

use http_body_util::{BodyExt, Either, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let address = env::args().nth(1);
    let listener = TcpListener::bind(address.as_deref().unwrap_or("0.0.0.0:8080")).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)));
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Either<Incoming, Full<Bytes>>>, Infallible> {
    let (head, body) = request.into_parts();
    if head.uri.path() == "/splice" {
        return Ok(Response::new(Either::Left(body)));
    }
    // A body that breaks off is no item.
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let answer = crud::answer(&head.method, head.uri.path(), &body);
    Ok(answer.map(|body| Either::Right(Full::new(body.into()))))
}
