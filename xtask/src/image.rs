//! A container image without a daemon. In: a binary, and others beside it; out: an OCI image in a tar, and in a
//! registry if told to. The same files make the same bytes. IO.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::HeaderValue;
use oci_client::{
    Client, Reference, RegistryOperation,
    client::{ClientConfig, ClientProtocol},
    secrets::RegistryAuth,
};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{libraries::libraries, progress, push::Registry};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Where Linux systems keep the certificate authorities that they trust.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Makes the container image of a binary: it, the libraries that it needs, and a user without rights.
#[derive(Debug, clap::Args)]
pub(crate) struct Image {
    /// The binary, which becomes the entry point.
    binary: PathBuf,
    /// Name and tag of the image, as in registry.example.com/podless/shim:0.1.0
    name: String,
    /// A further binary, in the same folder of the image. May be given again.
    #[arg(long, value_name = "BINARY")]
    beside: Vec<PathBuf>,
    /// The tar to write, in the layout of OCI.
    #[arg(long)]
    output: PathBuf,
    /// Takes along the certificate authorities that this machine trusts, if it has such a file.
    #[arg(long)]
    certificates: bool,
    /// Pushes the image to the registry in its name too.
    #[arg(long)]
    push: bool,
    #[command(flatten)]
    registry: Registry,
}

/// A blob and its digest.
struct Blob {
    digest: String,
    bytes: Bytes,
}

impl Blob {
    fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { digest: format!("sha256:{}", hex::encode(Sha256::digest(&bytes))), bytes }
    }

    fn descriptor(&self, media_type: &str) -> serde_json::Value {
        json!({"mediaType": media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

impl Image {
    pub(crate) async fn run(self) -> Result<()> {
        let name = self.binary.file_name().and_then(|name| name.to_str()).context("the binary has no name")?;
        let reference: Reference = self.name.parse().with_context(|| format!("{:?} is no image name", self.name))?;
        let bar = progress::start(if self.push { 6 } else { 3 }, format!("image of {name}"));

        let layer = Blob::new(layer(&self.files()?)?);
        bar.inc(1);
        let config = Blob::new(
            json!({
                "architecture": "amd64",
                "os": "linux",
                "config": {"Entrypoint": [format!("/usr/bin/{name}")], "User": "65532:65532", "WorkingDir": "/"},
                "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
            })
            .to_string(),
        );
        let manifest = Blob::new(
            json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": config.descriptor(CONFIG),
                "layers": [layer.descriptor(LAYER)],
            })
            .to_string(),
        );
        bar.inc(1);
        self.write(&[&layer, &config, &manifest], &manifest)
            .with_context(|| format!("writing {}", self.output.display()))?;
        bar.inc(1);
        if self.push {
            let login = self.registry.login(&self.name)?;
            let auth = login.map_or(RegistryAuth::Anonymous, |l| RegistryAuth::Basic(l.username, l.password));
            let protocol = if self.registry.plain_http { ClientProtocol::Http } else { ClientProtocol::Https };
            let client = Client::try_from(ClientConfig { protocol, ..Default::default() })?;
            client.auth(&reference, &auth, RegistryOperation::Push).await?;
            for blob in [layer, config] {
                client.push_blob(&reference, blob.bytes, &blob.digest).await?;
                bar.inc(1);
            }
            client.push_manifest_raw(&reference, manifest.bytes, HeaderValue::from_static(MANIFEST)).await?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        crate::say(&format!("{} {}", self.name, manifest.digest));
        Ok(())
    }

    /// Every file of the image: path, content, whether it is executable.
    fn files(&self) -> Result<BTreeMap<PathBuf, (Vec<u8>, bool)>> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
        let text = |text: &str| (text.as_bytes().to_vec(), false);
        let mut files = BTreeMap::from([
            ("etc/passwd".into(), text("root:x:0:0::/:/\nnonroot:x:65532:65532::/:/\n")),
            ("etc/group".into(), text("root:x:0:\nnonroot:x:65532:\n")),
            ("etc/nsswitch.conf".into(), text("hosts: files dns\n")),
        ]);
        for binary in [&self.binary].into_iter().chain(&self.beside) {
            let name = binary.file_name().with_context(|| format!("{} has no name", binary.display()))?;
            files.insert(Path::new("usr/bin").join(name), (read(binary)?, true));
            for library in libraries(binary)? {
                files.insert(library.strip_prefix("/")?.to_owned(), (read(&library)?, true));
            }
        }
        if self.certificates && Path::new(CERTIFICATES).exists() {
            files.insert(CERTIFICATES.trim_start_matches('/').into(), (read(Path::new(CERTIFICATES))?, false));
        }
        Ok(files)
    }

    fn write(&self, blobs: &[&Blob], manifest: &Blob) -> Result<()> {
        if let Some(folder) = self.output.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut descriptor = manifest.descriptor(MANIFEST);
        descriptor["platform"] = json!({"architecture": "amd64", "os": "linux"});
        let tag = self.name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        descriptor["annotations"] =
            json!({"io.containerd.image.name": self.name, "org.opencontainers.image.ref.name": tag});
        let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [descriptor]});

        // Whoever reads the old image goes on reading it.
        let unfinished = self.output.with_extension("unfinished");
        let mut tar = tar::Builder::new(BufWriter::new(File::create(&unfinished)?));
        append(&mut tar, Path::new("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#, false)?;
        append(&mut tar, Path::new("index.json"), index.to_string().as_bytes(), false)?;
        for blob in blobs {
            append(&mut tar, &Path::new("blobs").join(blob.digest.replace(':', "/")), &blob.bytes, false)?;
        }
        tar.into_inner()?.flush()?;
        Ok(fs::rename(unfinished, &self.output)?)
    }
}

/// The one layer, a tar.
fn layer(files: &BTreeMap<PathBuf, (Vec<u8>, bool)>) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(vec![]);
    let mut folders: Vec<&Path> =
        files.keys().flat_map(|path| path.ancestors().skip(1)).filter(|path| !path.as_os_str().is_empty()).collect();
    folders.sort();
    folders.dedup();
    for folder in folders {
        let mut header = header(0, 0o755);
        header.set_entry_type(tar::EntryType::Directory);
        tar.append_data(&mut header, folder, &[][..])?;
    }
    for (path, (content, executable)) in files {
        append(&mut tar, path, content, *executable)?;
    }
    Ok(tar.into_inner()?)
}

fn append(tar: &mut tar::Builder<impl Write>, path: &Path, content: &[u8], executable: bool) -> Result<()> {
    let mut header = header(content.len() as u64, if executable { 0o755 } else { 0o644 });
    Ok(tar.append_data(&mut header, path, content)?)
}

/// Owner root, time zero.
fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        image: Image,
    }

    async fn image(folder: &Path, name: &str) -> Result<Vec<u8>> {
        let output = folder.join(name);
        let binary = std::env::current_exe()?;
        let arguments = [Path::new("xtask"), &binary, Path::new("r.local/a:1"), Path::new("--output"), &output];
        Command::try_parse_from(arguments)?.image.run().await?;
        Ok(fs::read(output)?)
    }

    #[tokio::test]
    async fn the_same_files_make_the_same_image_and_it_holds_together() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let bytes = image(folder.path(), "one.tar").await?;
        assert!(bytes == image(folder.path(), "two.tar").await?, "two images of one binary differ");

        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(&bytes[..]).entries()? {
            let mut entry = entry?;
            assert_eq!((entry.header().mtime()?, entry.header().uid()?), (0, 0));
            let mut content = vec![];
            entry.read_to_end(&mut content)?;
            files.insert(entry.path()?.to_string_lossy().into_owned(), content);
        }
        let blob = |value: &serde_json::Value| {
            let digest = value["digest"].as_str().unwrap_or_default();
            let content = &files[&format!("blobs/{}", digest.replace(':', "/"))];
            assert_eq!(format!("sha256:{}", hex::encode(Sha256::digest(content))), digest);
            assert_eq!(value["size"], content.len());
            content.clone()
        };
        let index: serde_json::Value = serde_json::from_slice(&files["index.json"])?;
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "r.local/a:1");
        let manifest: serde_json::Value = serde_json::from_slice(&blob(&index["manifests"][0]))?;
        let config: serde_json::Value = serde_json::from_slice(&blob(&manifest["config"]))?;
        assert_eq!(config["config"]["User"], "65532:65532");
        let layer = blob(&manifest["layers"][0]);
        let mut paths = vec![];
        for entry in tar::Archive::new(&layer[..]).entries()? {
            paths.push(entry?.path()?.to_string_lossy().into_owned());
        }
        assert!(paths.iter().any(|path| path.ends_with("ld-linux-x86-64.so.2")), "{paths:?}");
        let entry = config["config"]["Entrypoint"][0].as_str().unwrap_or_default().trim_start_matches('/').to_owned();
        assert!(paths.contains(&entry), "{entry} in {paths:?}");
        Ok(())
    }
}
