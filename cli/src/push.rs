//! `podless push`: a component and a reference in, the digest of what was pushed out. IO.

use std::{fs, process::ExitCode};

use podless_artifact::push as push_component;
use serde::Serialize;

use crate::{
    args::{Output, PushArgs},
    docker,
    failure::Failure,
    output,
    progress::Bar,
    workshop::reference,
};

#[derive(Serialize)]
struct Pushed<'a> {
    image: &'a str,
    digest: &'a str,
    /// Bytes of the component.
    size: usize,
}

/// Pushes a component.
pub(crate) async fn push(args: PushArgs, output: Output) -> Result<ExitCode, Failure> {
    let PushArgs { file, image, registries } = args;
    let parsed = reference(&image)?;
    let logins = docker::read()?;
    let component = fs::read(&file)
        .map_err(|error| Failure::mistake("FileNotRead", format!("cannot read {}: {error}", file.display())))?;
    let plain_http = registries.plain_http.iter().any(|host| host == parsed.registry());
    let (size, login) = (component.len(), logins.of(&parsed).cloned());
    let digest = {
        let bar = Bar::new(&image);
        bar.spin("pushing");
        push_component(component, &image, login, plain_http).await
    };
    let digest = digest.map_err(|error| Failure::not_pushed(&error, logins.hint(&image).as_deref()))?;
    match output {
        Output::Text => output::line(&digest),
        Output::Json => output::json(&Pushed { image: &image, digest: &digest, size })?,
    }
    Ok(ExitCode::SUCCESS)
}
