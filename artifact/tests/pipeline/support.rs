//! A registry of the test's own, guests, and a pipeline. IO.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol, Config, ImageLayer},
    secrets::RegistryAuth,
};
use podless_artifact::{
    ChildProgram, Grants, Options, Pipeline, Rejection, SealedArtifact, Wanted,
    seal::{SealKey, TrustedKeys},
};
use podless_engine::{Compiler, Flavour, Recipe};

fn variable(name: &str) -> PathBuf {
    std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set: run this test by `make test-unit`")).into()
}

/// A built guest.
pub(crate) fn guest(name: &str) -> Vec<u8> {
    let path = variable("PODLESS_TEST_ARTIFACTS").join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}: run `make guests`", path.display()))
}

/// A real registry on a port of its own; it ends with the test.
pub(crate) struct Registry {
    pub(crate) host: String,
    process: Child,
    _folder: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Registry {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let address = free_address();
        let process = Command::new(variable("PODLESS_TEST_REGISTRY_BIN"))
            .args(["registry", "-address", &address.to_string(), "-dir"])
            .arg(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the registry starts");
        // A large program, that may have to come from the disk first: it is not kept from the CPU meanwhile.
        let until = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < until, "the registry does not listen on {address}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
        Self { host: address.to_string(), process, _folder: folder }
    }

    pub(crate) fn image(&self, name_and_tag: &str) -> String {
        format!("{}/{name_and_tag}", self.host)
    }

    /// Pushes layers of any type; answers the reference.
    pub(crate) async fn push(&self, layers: &[(&[u8], &str)], name_and_tag: &str) -> String {
        let image = self.image(name_and_tag);
        let reference: Reference = image.parse().expect("a reference");
        let layers: Vec<_> =
            layers.iter().map(|(bytes, kind)| ImageLayer::new(bytes.to_vec(), (*kind).to_owned(), None)).collect();
        let config = Config::new(&b"{}"[..], "application/vnd.wasm.config.v0+json".to_owned(), None);
        let client = Client::new(ClientConfig { protocol: ClientProtocol::Http, ..Default::default() });
        client.push(&reference, &layers, config, &RegistryAuth::Anonymous, None).await.expect("pushed");
        image
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address")
}

/// A pipeline with a cache of its own.
pub(crate) struct Fixture {
    pub(crate) pipeline: Pipeline,
    pub(crate) trusted: TrustedKeys,
    pub(crate) cache: tempfile::TempDir,
}

pub(crate) fn child() -> ChildProgram {
    ChildProgram { path: env!("CARGO_BIN_EXE_podless-compile").into(), arguments: vec![] }
}

/// What the child makes of a component.
pub(crate) fn machine_code(component: &[u8], recipe: Recipe) -> Vec<u8> {
    let compiler = Compiler::new(recipe.target, recipe.options).expect("a compiler");
    let code = Flavour::ALL.into_iter().find_map(|flavour| compiler.precompile(component, flavour).ok());
    code.expect("machine code")
}

pub(crate) fn options(cache: &Path, host: &str) -> Options {
    let mut options = Options::new(cache, child());
    options.registry.plain_http = vec![host.to_owned()];
    options
}

impl Fixture {
    pub(crate) fn new(host: &str) -> Self {
        Self::with(host, |_| ())
    }

    pub(crate) fn with(host: &str, change: impl FnOnce(&mut Options)) -> Self {
        let cache = tempfile::tempdir().expect("a folder");
        let key = Arc::new(SealKey::from_random([5; 32]));
        let trusted = TrustedKeys::from_pem(&key.public_pem().expect("PEM")).expect("a key");
        let mut options = options(cache.path(), host);
        change(&mut options);
        Self { pipeline: Pipeline::new(options, key).expect("a pipeline"), trusted, cache }
    }

    pub(crate) async fn build(&self, image: &str) -> Result<SealedArtifact, Rejection> {
        self.build_with(image, Grants::default()).await
    }

    pub(crate) async fn build_with(&self, image: &str, grants: Grants) -> Result<SealedArtifact, Rejection> {
        self.pipeline.build(wanted(image, grants), |_| ()).await
    }

    /// The reason and the sentence of a refusal, which must leave nothing unfinished behind.
    pub(crate) async fn refusal(&self, image: &str) -> (&'static str, String) {
        let rejection = self.build(image).await.err().unwrap_or_else(|| panic!("{image} was taken"));
        let unfinished = std::fs::read_dir(self.cache.path().join("unfinished")).expect("a folder").count();
        assert_eq!(unfinished, 0, "{image} left files behind");
        (rejection.reason(), rejection.to_string())
    }
}

pub(crate) fn wanted(image: &str, grants: Grants) -> Wanted<'_> {
    Wanted {
        tenant: "",
        image,
        pinned: None,
        grants,
        recipe: Recipe::default(),
        logins: &[],
        default_logins: &[],
        signatures: &[],
        revoked: &[],
    }
}

/// Numbers that are the same in each run.
pub(crate) fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    // SplitMix64.
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
