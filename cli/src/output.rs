//! Printing: results to stdout, everything else to stderr. IO. Who does not read any more is no error.

use std::io::{self, Write};

use serde::Serialize;

use crate::{args::Output, failure::Failure};

/// Prints a line of a result.
pub(crate) fn line(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Prints a result as one line of JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    line(&serde_json::to_string(value).map_err(Failure::environment)?);
    Ok(())
}

/// Says something on the way.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Says why there is no result; as JSON it is a result too.
pub(crate) fn failure(output: Output, failure: &Failure) {
    say(&format!("error: {failure}"));
    if output == Output::Json {
        line(&serde_json::json!({"reason": failure.reason(), "message": failure.to_string()}).to_string());
    }
}
