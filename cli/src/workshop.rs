//! What every command that compiles needs: the folder of this user's cache in, a pipeline out. IO.
//!
//! The cache's key is this user's own: it signs what the cache keeps, and what this user's shims take. One process uses
//! the cache at a time; the lock goes with the workshop.

use std::{
    env,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use podless_artifact::{
    ChildProgram, Grants, ImageReference, Inspection, Options, Pipeline, Proxies, RegistryOptions, SealedArtifact,
    Wanted, seal::SealKey,
};
use podless_engine::{CompilerOptions, Recipe, Target};
use tempfile::NamedTempFile;

use crate::{
    docker::{self, Logins},
    failure::Failure,
    output::say,
    progress::Bar,
    target::Source,
};

/// The pipeline, and who it logs in as.
pub(crate) struct Workshop {
    pipeline: Pipeline,
    logins: Logins,
    key: Arc<SealKey>,
    folder: PathBuf,
    _lock: File,
}

impl Workshop {
    /// Opens the cache; waits while another process has it.
    pub(crate) fn open(plain_http: &[String]) -> Result<Self, Failure> {
        let logins = docker::read()?;
        let folder = folder()?;
        let unusable =
            |error: io::Error| Failure::environment(format!("the cache {} cannot be used: {error}", folder.display()));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(unusable)?;
        let lock = lock(&folder).map_err(unusable)?;
        let key = Arc::new(key(&folder.join("seal.key"))?);
        let mut options = Options::new(folder.join("artifacts"), ChildProgram::subcommand("compile-child"));
        options.registry = RegistryOptions {
            plain_http: plain_http.to_vec(),
            // Who names images here is this machine's own user.
            any_host: true,
            proxies: Proxies::from_variables(|name| env::var(name).ok()),
            ..RegistryOptions::default()
        };
        let pipeline = Pipeline::new(options, key.clone()).map_err(Failure::environment)?;
        Ok(Self { pipeline, logins, key, folder, _lock: lock })
    }

    /// The key that seals.
    pub(crate) fn key(&self) -> Arc<SealKey> {
        self.key.clone()
    }

    /// The cache's folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The pipeline.
    pub(crate) fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// From a source to a sealed artifact.
    pub(crate) async fn build(
        &self,
        source: &Source,
        grants: Grants,
        options: CompilerOptions,
    ) -> Result<SealedArtifact, Failure> {
        let recipe = here(options);
        let bar = Bar::new(&source.to_string());
        let show = |progress| bar.show(progress);
        let built = match source {
            Source::File(path) => self.pipeline.build_file(path, grants, recipe, show).await,
            Source::Image(image) => self.pipeline.build(self.wanted(image, grants, recipe), show).await,
        };
        built.map_err(|rejection| Failure::rejected(&rejection, self.hint(source).as_deref()))
    }

    /// Looks at a source, compiled by these options.
    pub(crate) async fn inspect(&self, source: &Source, options: CompilerOptions) -> Result<Inspection, Failure> {
        let recipe = here(options);
        let bar = Bar::new(&source.to_string());
        let show = |progress| bar.show(progress);
        let found = match source {
            Source::File(path) => self.pipeline.inspect_file(path, recipe, show).await,
            Source::Image(image) => self.pipeline.inspect(self.wanted(image, Grants::default(), recipe), show).await,
        };
        found.map_err(|rejection| Failure::rejected(&rejection, self.hint(source).as_deref()))
    }

    fn wanted<'a>(&'a self, image: &'a str, grants: Grants, recipe: Recipe) -> Wanted<'a> {
        Wanted {
            tenant: "",
            image,
            pinned: None,
            grants,
            recipe,
            logins: &self.logins.known,
            default_logins: &[],
            signatures: &[],
            revoked: &[],
        }
    }

    fn hint(&self, source: &Source) -> Option<String> {
        match source {
            Source::File(_) => None,
            Source::Image(image) => self.logins.hint(image),
        }
    }
}

/// What is made for this machine. One that can run none of it is told so by the shim.
pub(crate) fn here(options: CompilerOptions) -> Recipe {
    Recipe { target: Target::best().unwrap_or_default(), options }
}

/// `$XDG_CACHE_HOME/podless-cli`, or `~/.cache/podless-cli`.
fn folder() -> Result<PathBuf, Failure> {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = cache.or_else(|| env::home_dir().map(|home| home.join(".cache")));
    let cache = cache.ok_or_else(|| Failure::environment("there is no home folder: set XDG_CACHE_HOME"))?;
    Ok(cache.join("podless-cli"))
}

fn lock(folder: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(folder.join("lock"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            say(&format!("waiting for another podless that is using {}", folder.display()));
            file.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    Ok(file)
}

/// Reads this user's key; makes it the first time.
fn key(path: &Path) -> Result<SealKey, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::environment(format!("the key {} cannot be used: {error}", path.display()))
    };
    match fs::read_to_string(path) {
        Ok(pem) => return SealKey::from_pem(&pem).map_err(|error| failed(&error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(&error)),
    }
    let mut seed = [0; 32];
    let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    random.fill(&mut seed).map_err(|_| failed(&"no random bytes from the system"))?;
    let key = SealKey::from_random(seed);
    let pem = key.to_pem().map_err(|error| failed(&error))?;
    // Whole or not at all, and for nobody else to read.
    let written = NamedTempFile::new_in(path.parent().unwrap_or(path)).and_then(|mut file| {
        file.write_all(pem.as_bytes())?;
        Ok(file.persist_noclobber(path)?)
    });
    written.map_err(|error| failed(&error))?;
    Ok(key)
}

/// The reference of an image, or why it is none.
pub(crate) fn reference(image: &str) -> Result<ImageReference, Failure> {
    ImageReference::parse(image, None).map_err(|error| Failure::mistake("InvalidReference", error))
}
