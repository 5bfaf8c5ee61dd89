//! How long a message of each call may be. In: a call; out: what the server with its limit answers. No IO of its own.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{Request, Response};
use podless_link::v1::link_server::{Link, LinkServer};
use tonic::{body::Body, server::NamedService};
use tower::Service;

/// A report of ten thousand services has about 5 MB.
const SESSION: usize = 32 << 20;
/// An assignment, of which a shim takes 4 MiB, and its note.
const GIVE_BACK: usize = 6 << 20;
/// A hash: it is read before anybody knows who calls.
const FETCH: usize = 4 << 10;

/// The link, with a limit for each call.
#[derive(Clone)]
pub(super) struct Limited<T> {
    session: LinkServer<T>,
    give_back: LinkServer<T>,
    fetch: LinkServer<T>,
}

impl<T: Link + Clone> Limited<T> {
    pub(super) fn new(link: &T) -> Self {
        let of = |bytes| LinkServer::new(link.clone()).max_decoding_message_size(bytes);
        Self { session: of(SESSION), give_back: of(GIVE_BACK), fetch: of(FETCH) }
    }
}

impl<T: Link> Service<Request<Body>> for Limited<T> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let server = match request.uri().path().rsplit('/').next() {
            Some("Session") => &mut self.session,
            Some("GiveBack") => &mut self.give_back,
            _ => &mut self.fetch,
        };
        server.call(request)
    }
}

impl<T> NamedService for Limited<T> {
    const NAME: &'static str = <LinkServer<T> as NamedService>::NAME;
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use podless_link::v1::{
        Chunk, FetchRequest, FromShim, Given, Hello, Taken, ToShim, from_shim::Body::Hello as Says,
        link_client::LinkClient,
    };
    use tonic::{Code, Status, Streaming};

    use super::*;

    /// Reads what it is told, and says no.
    #[derive(Clone)]
    struct Reader;

    type Nothing<T> = stream::Pending<Result<T, Status>>;

    #[tonic::async_trait]
    impl Link for Reader {
        type SessionStream = Nothing<ToShim>;
        type FetchStream = Nothing<Chunk>;

        async fn session(
            &self,
            request: tonic::Request<Streaming<FromShim>>,
        ) -> Result<tonic::Response<Nothing<ToShim>>, Status> {
            request.into_inner().message().await?;
            Err(Status::not_found("it was read"))
        }

        async fn fetch(&self, _: tonic::Request<FetchRequest>) -> Result<tonic::Response<Nothing<Chunk>>, Status> {
            Err(Status::not_found("it was read"))
        }

        async fn give_back(&self, request: tonic::Request<Streaming<Given>>) -> Result<tonic::Response<Taken>, Status> {
            request.into_inner().message().await?;
            Err(Status::not_found("it was read"))
        }
    }

    #[tokio::test]
    async fn each_call_has_its_limit() {
        let mut client = LinkClient::new(Limited::new(&Reader));
        for (bytes, fetch, give_back) in [
            (1000, Code::NotFound, Code::NotFound),
            (1 << 20, Code::OutOfRange, Code::NotFound),
            (8 << 20, Code::OutOfRange, Code::OutOfRange),
        ] {
            let request = FetchRequest { sha256: "x".repeat(bytes) };
            assert_eq!(client.fetch(request).await.err().map(|status| status.code()), Some(fetch), "{bytes}");
            let given = Given { note: vec![0; bytes], ..Given::default() };
            let answer = client.give_back(stream::iter([given])).await;
            assert_eq!(answer.err().map(|status| status.code()), Some(give_back), "{bytes}");
            let hello = Hello { version: "x".repeat(bytes), ..Hello::default() };
            let answer = client.session(stream::iter([FromShim { body: Some(Says(hello)) }])).await;
            assert_eq!(answer.err().map(|status| status.code()), Some(Code::NotFound), "{bytes}");
        }
    }
}
