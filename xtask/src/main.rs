//! What the Makefile calls besides Cargo: generated files, images without a daemon, pushing, a bounded load, the recording
//! of a terminal.

mod generate;
mod image;
mod libraries;
mod load;
mod progress;
mod push;
mod recording;

use anyhow::{Result, ensure};
use clap::Parser;

#[derive(Debug, Parser)]
#[command(about)]
enum Task {
    /// Writes the files that are made from code.
    Generate(generate::Generate),
    /// Makes the container image of one binary, and pushes it if told to.
    Image(image::Image),
    /// Pushes a component as `wkg oci push` does, and prints the digest of its manifest.
    Push(push::Push),
    /// Sends GET requests, and stops at a count or a time, whichever comes first.
    Load(load::Load),
    /// Draws what comes from stdin as an SVG that shows each line when it came.
    Recording(recording::Recording),
}

#[tokio::main]
async fn main() -> Result<()> {
    match Task::parse() {
        Task::Generate(generate) => generate.run(),
        Task::Image(image) => image.run().await,
        Task::Push(push) => push.run().await,
        Task::Recording(recording) => recording.run(),
        Task::Load(load) => {
            let seen = load.run().await?;
            say(&seen.to_string());
            ensure!(seen.is_good(), "not every request was answered with 200");
            Ok(())
        }
    }
}

/// What a task found, for people and for scripts.
#[expect(clippy::print_stdout, reason = "a program's answer")]
fn say(line: &str) {
    println!("{line}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Task::command().debug_assert();
    }
}
