//! Guests' lines for people: the shim's JSON lines in, text out. What a guest writes cannot steer the terminal.

use std::io::{self, Write};

use serde::Deserialize;

/// Writes each line of JSON as text. The shim hands over one line in one call.
pub(super) struct TextLog<W>(pub(super) W);

#[derive(Deserialize)]
struct Line {
    stream: String,
    #[serde(default)]
    level: String,
    #[serde(default)]
    context: String,
    service: String,
    message: String,
    #[serde(default)]
    truncated: bool,
    #[serde(default)]
    dropped: u64,
}

impl<W: Write> Write for TextLog<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Ok(line) = serde_json::from_slice(line) {
            self.0.write_all(text(&line).as_bytes())?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn text(line: &Line) -> String {
    let Line { stream, level, context, service, message, truncated, dropped } = line;
    let from = match stream.as_str() {
        "stdout" | "stderr" => String::new(),
        "logging" if context.is_empty() => format!("{level}: "),
        "logging" => format!("{level}: {context}: "),
        _ => "podless: ".to_owned(),
    };
    let mut text = String::new();
    if *dropped > 0 {
        text = format!("[{service}] podless: {dropped} lines were too many and are lost\n");
    }
    let cut = if *truncated { " […]" } else { "" };
    for part in message.split('\n') {
        text.extend([format!("[{service}] {}{}{cut}\n", plain(&from), plain(part))]);
    }
    text
}

fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_for_people() {
        for (line, want) in [
            (json!({"stream": "stdout", "service": "cart", "message": "hi", "time": "t"}), "[cart] hi\n"),
            (json!({"stream": "stderr", "service": "cart", "message": "a\tb\u{1b}[31m"}), "[cart] a\tb\u{fffd}[31m\n"),
            (
                json!({"stream": "logging", "level": "warn", "context": "boot", "service": "c", "message": "a\nb"}),
                "[c] warn: boot: a\n[c] warn: boot: b\n",
            ),
            (json!({"stream": "logging", "level": "info", "service": "c", "message": ""}), "[c] info: \n"),
            (json!({"stream": "shim", "level": "error", "service": "c", "message": "500"}), "[c] podless: 500\n"),
            (
                json!({"stream": "stdout", "service": "c", "message": "x", "truncated": true, "dropped": 2}),
                "[c] podless: 2 lines were too many and are lost\n[c] x […]\n",
            ),
        ] {
            let mut out = vec![];
            TextLog(&mut out).write_all(format!("{line}\n").as_bytes()).expect("written");
            assert_eq!(String::from_utf8(out).expect("text"), want, "{line}");
        }
    }
}
