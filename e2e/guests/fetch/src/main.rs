//! Asks another server and passes on what it answers, or why it did not: `/fetch?http://…`, and with a limit for the
//! first byte `/fetch?ms=500&http://…`.

use wstd::{
    http::{Body, Client, Error, Request, Response},
    time::Duration,
};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let query = request.uri().query().unwrap_or_default();
    let mut client = Client::new();
    let url = match query.strip_prefix("ms=").and_then(|rest| rest.split_once('&')) {
        Some((limit, url)) => {
            client.set_first_byte_timeout(Duration::from_millis(limit.parse()?));
            url
        }
        None => query,
    };
    match ask(&client, url).await {
        Ok(response) => Ok(response),
        Err(error) => Ok(Response::builder().status(502).body(format!("{error:?}\n").into())?),
    }
}

async fn ask(client: &Client, url: &str) -> Result<Response<Body>, Error> {
    let mut answer = client.send(Request::get(url).body(())?).await?;
    let status = answer.status();
    // Read here, so that a body that stops is an error of this request and not of the answer.
    let body = answer.body_mut().contents().await?.to_vec();
    Ok(Response::builder().status(status).body(body.into())?)
}
