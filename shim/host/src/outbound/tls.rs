//! TLS towards other servers. IO: reads the certificate authorities of the image once, when the first request needs them.
//!
//! They come from where Linux keeps them, or from SSL_CERT_FILE and SSL_CERT_DIR: an administrator can add one without
//! building anything.

use std::{io, sync::Arc};

use rustls::{AlertDescription, ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};
use tokio::{net::TcpStream, sync::OnceCell, task::spawn_blocking};
use tokio_rustls::{TlsConnector, client::TlsStream};
use wasmtime_wasi_http::Error;

use super::allow::Host;

/// Speaks TLS for every service of the node.
#[derive(Default)]
pub(crate) struct Tls(OnceCell<Option<TlsConnector>>);

impl Tls {
    /// Makes the connection one of TLS with the server of this name, which must prove that it has it.
    pub(crate) async fn connect(&self, host: &Host, stream: TcpStream) -> Result<TlsStream<TcpStream>, Error> {
        let name = match host {
            Host::Name(name) => ServerName::try_from(name.clone()).map_err(|_| Error::HttpRequestUriInvalid)?,
            Host::Address(address) => ServerName::from(*address),
        };
        let made = async || {
            let made = spawn_blocking(connector).await.map_err(io::Error::other).flatten();
            made.inspect_err(|error| tracing::error!(%error, "no request can be sent by TLS")).ok()
        };
        let connector = self.0.get_or_init(made).await.as_ref().ok_or(Error::ConfigurationError)?;
        connector.connect(name, stream).await.map_err(|error| of_tls(&error))
    }
}

fn connector() -> io::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (taken, refused) = roots.add_parsable_certificates(found.certs);
    if taken == 0 {
        return Err(io::Error::other(format!(
            "no certificate authorities: SSL_CERT_FILE names a file of them ({refused} refused, {:?})",
            found.errors
        )));
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// What a failed handshake means to the guest.
fn of_tls(error: &io::Error) -> Error {
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            Error::TlsCertificateError
        }
        Some(rustls::Error::AlertReceived(alert)) => Error::TlsAlertReceived {
            alert_id: Some(u8::from(*alert)),
            alert_message: (*alert != AlertDescription::Unknown(u8::from(*alert))).then(|| format!("{alert:?}")),
        },
        Some(_) => Error::TlsProtocolError,
        None => Error::ConnectionTerminated,
    }
}
