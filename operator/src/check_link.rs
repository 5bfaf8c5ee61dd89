//! Whether a leader answers at the link, as shims would see it: what `helm test` runs. IO.

use anyhow::{Context, Result, bail};
use podless_link::v1::{FetchRequest, link_client::LinkClient};
use tonic::{
    Code,
    transport::{Certificate, ClientTlsConfig, Endpoint},
};

use crate::cli::CheckLinkArgs;

/// Succeeds when the certificate is good and a caller without a token is turned away.
pub async fn check(args: CheckLinkArgs) -> Result<()> {
    let ca = std::fs::read(&args.ca_file).with_context(|| format!("cannot read {}", args.ca_file.display()))?;
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
    let endpoint = Endpoint::from_shared(args.link.clone())?.tls_config(tls)?;
    let channel = endpoint.connect().await.with_context(|| format!("no leader answers at {}", args.link))?;
    let sha256 = String::new();
    match LinkClient::new(channel).fetch(FetchRequest { sha256 }).await {
        Err(status) if status.code() == Code::Unauthenticated => {
            tracing::info!("a leader answers at {} and turns strangers away", args.link);
            Ok(())
        }
        Err(status) => bail!("the leader should have asked for a token, and said: {status}"),
        Ok(_) => bail!("the leader has answered a caller without a token"),
    }
}
