//! The session with the operator: connects, and connects again for ever; what comes goes to the control loop, what the
//! loop says goes out. IO. Traffic never depends on it.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBuilder};
use podless_link::v1::{FromShim, ToShim, link_client::LinkClient, to_shim::Body};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use super::trust;

/// Messages that may wait on the way to the operator.
const OUTBOX: usize = 4096;
const CONNECT: Duration = Duration::from_secs(5);
/// A leader that is gone without a word is noticed after twice this time.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// A session that lasted this long was a good one: the next attempt is made at once.
const GOOD: Duration = Duration::from_secs(10);

/// Calls to the operator, with this shim's token.
pub(crate) type Client = LinkClient<InterceptedService<Channel, Token>>;

/// Where the operator is and how the shim proves who it is.
#[derive(Clone, Debug)]
pub(crate) struct LinkConfig {
    /// `https://podless-link.<namespace>.svc:9443`.
    pub(crate) operator: String,
    /// The projected, audience-bound token; read for each connection, since the kubelet renews it.
    pub(crate) token_file: PathBuf,
    /// The mounted `podless-trust`.
    pub(crate) trust_dir: PathBuf,
}

/// What the link tells the control loop.
pub(crate) enum LinkEvent {
    /// A session begins: the loop says Hello on it first. Who has no client brings artifacts before assigning them.
    Opened(Option<Client>, mpsc::Sender<FromShim>),
    /// The operator said something.
    Said(Body),
    /// A report is wanted now, not at its next turn.
    Report,
    /// The session ended.
    Closed,
}

/// Puts the token on each call.
#[derive(Clone)]
pub(crate) struct Token(MetadataValue<Ascii>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Trust(#[from] trust::TrustError),
    #[error("the token {0} cannot be read: {1}")]
    Token(String, std::io::Error),
    #[error("the token is none")]
    TokenText,
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("the operator ended the session: {0}")]
    Session(String),
}

impl From<tonic::transport::Error> for LinkError {
    fn from(error: tonic::transport::Error) -> Self {
        // Its own text says "transport error"; the causes say which.
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        Self::Connect(text)
    }
}

/// Keeps a session until the control loop is gone.
pub(crate) async fn run(config: LinkConfig, events: mpsc::Sender<LinkEvent>) {
    let pauses = ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(5))
        .without_max_times()
        .with_jitter();
    let mut pause = pauses.build();
    while !events.is_closed() {
        let started = Instant::now();
        match session(&config, &events).await {
            Ok(()) => tracing::info!("the operator ended the session"),
            Err(error) => tracing::warn!("no link to the operator, serving on: {error}"),
        }
        if events.send(LinkEvent::Closed).await.is_err() {
            return;
        }
        if started.elapsed() > GOOD {
            pause = pauses.build();
        }
        tokio::time::sleep(pause.next().unwrap_or(KEEP_ALIVE)).await;
    }
}

async fn session(config: &LinkConfig, events: &mpsc::Sender<LinkEvent>) -> Result<(), LinkError> {
    // A leader that is frozen takes connections, and never says a word on them: the handshake needs an end of its own.
    let connected = tokio::time::timeout(CONNECT, connect(config)).await;
    let mut client =
        connected.map_err(|_| LinkError::Connect(format!("no word from the operator within {CONNECT:?}")))??;
    let (outbox, messages) = mpsc::channel(OUTBOX);
    if events.send(LinkEvent::Opened(Some(client.clone()), outbox)).await.is_err() {
        return Ok(());
    }
    let said = |status: Status| LinkError::Session(format!("{}: {}", status.code(), status.message()));
    let mut incoming = client.session(ReceiverStream::new(messages)).await.map_err(said)?.into_inner();
    tracing::info!(operator = config.operator, "linked");
    while let Some(ToShim { body }) = incoming.message().await.map_err(said)? {
        // A message of a newer operator that this shim does not know has no body.
        if let Some(body) = body
            && events.send(LinkEvent::Said(body)).await.is_err()
        {
            break;
        }
    }
    Ok(())
}

async fn connect(config: &LinkConfig) -> Result<Client, LinkError> {
    let trust = trust::read(&config.trust_dir)?;
    let token = std::fs::read_to_string(&config.token_file)
        .map_err(|error| LinkError::Token(config.token_file.display().to_string(), error))?;
    let mut token: MetadataValue<Ascii> =
        format!("Bearer {}", token.trim()).parse().map_err(|_| LinkError::TokenText)?;
    token.set_sensitive(true);
    let channel = Endpoint::from_shared(config.operator.clone())?
        .tls_config(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(trust.ca)))?
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .connect()
        .await?;
    Ok(LinkClient::with_interceptor(channel, Token(token)))
}
