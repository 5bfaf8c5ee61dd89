//! `wasi:logging`: linked only where it was granted. A call of the guest in, a line of the service's log out.

use wasmtime::{
    StoreContextMut,
    component::{ComponentType, Lift, Linker},
};

use super::{
    Guest,
    lines::MAX_LINE,
    log::{Message, Stream},
};

/// The names under which components import it: the draft's version, and none.
const NAMES: [&str; 2] = ["wasi:logging/logging@0.1.0-draft", "wasi:logging/logging"];

#[derive(Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "Wasmtime makes them from the guest's values")]
enum Level {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
    #[component(name = "critical")]
    Critical,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }
}

/// Links it.
pub(crate) fn add(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    for name in NAMES {
        linker.instance(name)?.func_wrap(
            "log",
            |store: StoreContextMut<'_, Guest>, (level, context, message): (Level, String, String)| {
                let (message, cut) = capped(&message);
                let (context, _) = capped(&context);
                store.data().log.write(Message {
                    level: Some(level.as_str()),
                    context: Some(context),
                    truncated: cut,
                    ..Message::new(Stream::Logging, message)
                });
                Ok(())
            },
        )?;
    }
    Ok(())
}

fn capped(text: &str) -> (&str, bool) {
    let end = text.floor_char_boundary(MAX_LINE);
    (&text[..end], end < text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_capped_between_characters() {
        assert_eq!(capped("short"), ("short", false));
        let (text, cut) = (format!("x{}", "é".repeat(MAX_LINE)), true);
        assert_eq!(capped(&text).0.len(), MAX_LINE - 1);
        assert_eq!(capped(&text).1, cut);
    }
}
