//! The way in by WASI 0.2.

use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let (head, mut body) = request.into_parts();
    let body = body.contents().await?;
    Ok(crud::answer(&head.method, head.uri.path(), body).map(Body::from))
}
