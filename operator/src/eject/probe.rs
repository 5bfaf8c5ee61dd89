//! The operator's own look at a shim. In: the address of its admin port; out: whether its node answers. IO.

use std::{io::ErrorKind, time::Duration};

use http::{Request, header::HOST};
use http_body_util::Empty;
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// Whether anything answers within this time: the page, whatever it says, or a refused connection. Then the node is
/// there and the shim only on its way back, which the kubelet sees to.
pub(super) async fn reaches(address: &str, within: Duration) -> bool {
    let look = async {
        match TcpStream::connect(address).await {
            Ok(stream) => answers(stream, address).await.is_ok(),
            Err(error) => error.kind() == ErrorKind::ConnectionRefused,
        }
    };
    timeout(within, look).await.unwrap_or(false)
}

async fn answers(stream: TcpStream, address: &str) -> hyper::Result<()> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = http::Uri::from_static("/healthz");
    request.headers_mut().extend(address.parse().ok().map(|host| (HOST, host)));
    let answer = sender.send_request(request);
    tokio::pin!(connection);
    tokio::select! {
        answer = answer => answer.map(|_| ()),
        // It ends before its answer is taken only by failing.
        ended = &mut connection => ended,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    const SOON: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn who_answers_or_refuses_is_there_and_who_is_silent_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("an address").to_string();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.expect("a request");
            stream.write_all(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n").await.expect("answered");
            (String::from_utf8_lossy(&request[..read]).into_owned(), listener)
        });
        assert!(reaches(&address, SOON).await, "any answer is one");
        let (request, listener) = server.await.expect("served");
        assert!(request.starts_with("GET /healthz HTTP/1.1\r\n"), "{request}");
        assert!(!reaches(&address, SOON).await, "it connects, and nobody answers");
        drop(listener);
        assert!(reaches(&address, SOON).await, "refused: the node is there");
    }
}
