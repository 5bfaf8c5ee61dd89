//! Requests of guests to other servers, on real sockets: what is granted works, and nothing else is reached.

use std::{
    collections::BTreeMap,
    net::{IpAddr, UdpSocket},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use podless_link::v1::{Assignment, Grants, OutboundHttp, ack::Outcome};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    client::{Answer, get},
    operator::{FETCH, FETCH_P3, Guest, Operator},
    process::{Setup, Shim, free_port, may_mount},
};

/// Another server, at an address of this machine that is not loopback.
struct Upstream {
    address: IpAddr,
    plain: u16,
    tls: u16,
    /// The authority of its certificate, PEM; it is for upstream.test.
    ca: String,
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Upstream {
    async fn start() -> Self {
        // Nothing is sent: connecting a UDP socket only chooses the address.
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.connect("198.51.100.1:9").expect("this machine has an address besides loopback");
        let address = socket.local_addr().expect("an address").ip();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().expect("a key")).expect("a CA");
        let key = KeyPair::generate().expect("a key");
        let certificate =
            CertificateParams::new(["upstream.test".to_owned()]).and_then(|params| params.signed_by(&key, &ca));
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.expect("a certificate").der().clone()], key)
            .expect("TLS");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listen = async || TcpListener::bind((address, 0)).await.expect("a port");
        let (plain, tls) = (listen().await, listen().await);
        let port = |listener: &TcpListener| listener.local_addr().expect("an address").port();
        let asked = Arc::<Mutex<BTreeMap<_, _>>>::default();
        let this = Self { address, plain: port(&plain), tls: port(&tls), ca: ca.pem(), asked: asked.clone() };
        let by_tls = asked.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = plain.accept().await {
                tokio::spawn(answer(stream, asked.clone()));
            }
        });
        tokio::spawn(async move {
            while let Ok((stream, _)) = tls.accept().await {
                let (acceptor, asked) = (acceptor.clone(), by_tls.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        answer(stream, asked).await;
                    }
                });
            }
        });
        this
    }

    fn asked(&self, path: &str) -> usize {
        self.asked.lock().expect("a lock").get(path).copied().unwrap_or(0)
    }

    /// Names for the shim, in place of the machine's `/etc/hosts`.
    fn hosts(&self) -> String {
        let address = self.address;
        let lines = [
            "127.0.0.1 localhost".to_owned(),
            format!("{address} upstream.test sub.upstream.test other.test denied.test"),
            "10.1.2.3 private.test".to_owned(),
            "169.254.169.254 metadata.test".to_owned(),
            "127.0.0.1 both.test".to_owned(),
            format!("{address} both.test"),
        ];
        let lines = lines.map(|line| format!("'{line}'")).join(" ");
        format!("printf '%s\\n' {lines} > \"$0\"/hosts; mount --bind \"$0\"/hosts /etc/hosts")
    }
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, asked: Arc<Mutex<BTreeMap<String, usize>>>) {
    let mut stream = BufReader::new(stream);
    let (mut line, mut path, mut host) = (String::new(), String::new(), String::new());
    while stream.read_line(&mut line).await.is_ok_and(|length| length > 2) {
        if let Some(rest) = line.strip_prefix("GET ") {
            path = rest.split(' ').next().unwrap_or_default().to_owned();
        }
        if let Some(rest) = line.to_lowercase().strip_prefix("host:") {
            host = rest.trim().to_owned();
        }
        line.clear();
    }
    *asked.lock().expect("a lock").entry(path.clone()).or_default() += 1;
    let head = |status: &str, more: &str, length: usize| {
        format!("HTTP/1.1 {status}\r\n{more}content-length: {length}\r\nconnection: close\r\n\r\n")
    };
    let text = match path.as_str() {
        "/slow" => return std::future::pending().await,
        "/redirect" => head("302 Found", "location: http://denied.test/there\r\n", 0),
        "/cut" => format!("{}half", head("200 OK", "", 8)),
        "/long" => head("200 OK", &format!("long: {}\r\n", "x".repeat(100 << 10)), 0),
        "/many" => head("200 OK", &(0..200).map(|n| format!("h{n}: x\r\n")).collect::<String>(), 0),
        _ => format!("{}{host}\n", head("200 OK", "", host.len() + 1)),
    };
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn granted(operator: &Operator, guest: Guest, uid: &str, port: u16, hosts: &[String], ranges: &[String]) -> Assignment {
    let outbound = OutboundHttp { allowed_hosts: hosts.to_vec(), allowed_cidrs: ranges.to_vec() };
    let grants = Grants { outbound_http: Some(outbound), ..Grants::default() };
    Assignment { grants: Some(grants), timeout_millis: 4_000, ..operator.assignment(guest, uid, port) }
}

fn refused(answer: &Answer, error: &str) {
    assert!(answer.status == 502 && answer.body.contains(error), "{error}: {answer:?}");
}

#[tokio::test]
async fn what_is_not_granted_is_not_linked_and_an_empty_grant_reaches_nobody() {
    let (operator, port) = (Operator::start().await, free_port());
    let _shim = Shim::start(&operator, &[]);
    for (uid, guest) in [("p2", FETCH), ("p3", FETCH_P3)] {
        operator.assign(&operator.assignment(guest, uid, free_port()));
        let Outcome::Failed(failed) = operator.acked(uid, 1).await else { panic!("{uid} was loaded") };
        assert_eq!(failed.reason, "link-failed");
    }
    operator.serve(&granted(&operator, FETCH, "empty", port, &[], &["0.0.0.0/0".to_owned()])).await;
    refused(&get(port, "/fetch?http://192.0.2.1/").await, "HttpRequestDenied");
    refused(&get(port, "/fetch?https://example.com/").await, "HttpRequestDenied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn allowed_servers_are_reached_and_no_others() {
    if !may_mount("names of outbound requests") {
        return;
    }
    let (operator, upstream) = (Operator::start().await, Upstream::start().await);
    let shim = Shim::start_with(&operator, Setup { mounts: Some(upstream.hosts()), ..Setup::default() });
    let Upstream { address, plain, .. } = upstream;
    let hosts = [
        format!("http://upstream.test:{plain}"),
        format!("http://*.upstream.test:{plain}"),
        format!("http://both.test:{plain}"),
        format!("http://{address}:{plain}"),
        "http://private.test".to_owned(),
        "http://metadata.test".to_owned(),
        "http://169.254.169.254".to_owned(),
        format!("http://localhost:{}", shim.admin),
        format!("http://127.0.0.1:{}", shim.admin),
        "http://nowhere.test".to_owned(),
        format!("http://upstream.test:{}", free_port()),
    ];
    // What is granted is the one address, and loopback in vain.
    let ranges = [format!("{address}/32"), "127.0.0.0/8".to_owned()];
    for (uid, guest) in [("p2", FETCH), ("p3", FETCH_P3)] {
        let port = free_port();
        operator.serve(&granted(&operator, guest, uid, port, &hosts, &ranges)).await;
        let fetch = async |url: String| get(port, &format!("/fetch?{url}")).await;
        for name in ["upstream.test", "UPSTREAM.test.", "sub.upstream.test", "both.test", &address.to_string()] {
            let answer = fetch(format!("http://{name}:{plain}/hello")).await;
            let host = format!("{}:{plain}\n", name.trim_end_matches('.').to_lowercase());
            assert_eq!((answer.status, answer.body), (200, host), "{uid} {name}");
        }
        refused(&fetch(format!("http://denied.test:{plain}/there")).await, "HttpRequestDenied");
        refused(&fetch(format!("http://upstream.test.evil.test:{plain}/there")).await, "HttpRequestDenied");
        refused(&fetch("http://upstream.test/there".to_owned()).await, "HttpRequestDenied");
        refused(&fetch("http://private.test/there".to_owned()).await, "DestinationIpProhibited");
        refused(&fetch("http://metadata.test/latest".to_owned()).await, "DestinationIpProhibited");
        refused(&fetch("http://169.254.169.254/latest".to_owned()).await, "DestinationIpProhibited");
        refused(&fetch(format!("http://localhost:{}/metrics", shim.admin)).await, "DestinationIpProhibited");
        refused(&fetch(format!("http://127.0.0.1:{}/metrics", shim.admin)).await, "DestinationIpProhibited");
        refused(&fetch("http://nowhere.test/".to_owned()).await, "DnsError");
        refused(&fetch(hosts[10].clone()).await, "ConnectionRefused");
        // A redirect is an answer like any other.
        assert_eq!(fetch(format!("http://upstream.test:{plain}/redirect")).await.status, 302);
        refused(&fetch(format!("http://upstream.test:{plain}/long")).await, "HttpResponseHeaderSectionSize");
        refused(&fetch(format!("http://upstream.test:{plain}/many")).await, "HttpResponseHeaderSectionSize");
    }
    assert_eq!(upstream.asked("/there"), 0, "nothing that was denied arrived");
    let why = |line: &serde_json::Value| {
        line["message"].as_str().filter(|text| text.contains("was denied")).map(str::to_owned)
    };
    let line = shim.printed(why).await;
    assert!(line.contains("allowedHosts"), "{line}");
    let counted = r#"podless_shim_outbound_requests_total{namespace="tests",service="service-p2",result="denied"} 8"#;
    shim.until_admin("/metrics", |_, text| text.contains(counted)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_server_is_given_up_in_time() {
    let (operator, upstream) = (Operator::start().await, Upstream::start().await);
    let (_shim, port) = (Shim::start(&operator, &[]), free_port());
    let at = format!("http://{}:{}", upstream.address, upstream.plain);
    let grants = granted(&operator, FETCH, "a", port, std::slice::from_ref(&at), &[format!("{}/32", upstream.address)]);
    operator.serve(&grants).await;
    let started = Instant::now();
    refused(&get(port, &format!("/fetch?ms=300&{at}/slow")).await, "ConnectionReadTimeout");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    // Without a limit of the guest's own the request's is the limit.
    let status = get(port, &format!("/fetch?{at}/slow")).await.status;
    assert!([502, 504].contains(&status), "{status}");
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    let cut = get(port, &format!("/fetch?{at}/cut")).await;
    assert!(cut.status == 502, "{cut:?}");
    assert_eq!(get(port, &format!("/fetch?{at}/hello")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_proves_the_name() {
    if !may_mount("names of outbound requests by TLS") {
        return;
    }
    let (operator, upstream) = (Operator::start().await, Upstream::start().await);
    let ca = operator.dir.path().join("upstream-ca.pem");
    std::fs::write(&ca, &upstream.ca).expect("written");
    let env = vec![("SSL_CERT_FILE", ca.display().to_string())];
    let _shim = Shim::start_with(&operator, Setup { mounts: Some(upstream.hosts()), env, ..Setup::default() });
    let (tls, port) = (upstream.tls, free_port());
    let hosts = [format!("https://*:{tls}"), format!("https://*:{}", upstream.plain)];
    operator.serve(&granted(&operator, FETCH, "a", port, &hosts, &[format!("{}/32", upstream.address)])).await;
    let fetch = async |url: String| get(port, &format!("/fetch?{url}")).await;
    let answer = fetch(format!("https://upstream.test:{tls}/hello")).await;
    assert_eq!((answer.status, answer.body), (200, format!("upstream.test:{tls}\n")));
    refused(&fetch(format!("https://other.test:{tls}/there")).await, "TlsCertificateError");
    refused(&fetch(format!("https://{}:{tls}/there", upstream.address)).await, "TlsCertificateError");
    let plain = fetch(format!("https://upstream.test:{}/there", upstream.plain)).await;
    assert!(plain.status == 502, "{plain:?}");
    refused(&fetch(format!("http://upstream.test:{tls}/there")).await, "HttpRequestDenied");
    assert_eq!(upstream.asked("/there"), 0);
}
