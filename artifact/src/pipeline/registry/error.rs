//! Why a registry gave nothing that can be used. Pure.

use std::{error::Error, time::Duration};

use reqwest::StatusCode;

use super::reach::NotAsked;

/// Longest text of a library that is passed on.
const MESSAGE_CHARS: usize = 300;

/// Which credentials a registry was shown that refused access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// There were none.
    None,
    /// There were some, for other registries than this one.
    ForOthers {
        /// This one: its host, with its port if there is one.
        registry: String,
    },
    /// There were some, and it refused them.
    Refused,
    /// There were none but the operator's own, and it refused these.
    DefaultsRefused,
}

/// Why a registry gave no answer that can be used. No variant holds what it sent, nor credentials.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Nothing has that name.
    #[error("it has nothing of that name")]
    NotFound,
    /// The login was refused, or there was none.
    #[error("it refused access")]
    Unauthorized(Credentials),
    /// An answer that is neither yes nor no.
    #[error("it answered {0}")]
    Status(StatusCode),
    /// It asks to be left alone for a while.
    #[error("it answered {status} and asks to come again later")]
    Busy {
        /// What it answered.
        status: StatusCode,
        /// For how long.
        wait: Duration,
    },
    /// No answer.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// It is where nobody is asked, or sends there.
    #[error("{0}")]
    NotAsked(#[from] NotAsked),
    /// More bytes than an answer of that kind may have.
    #[error("its answer is longer than {0} bytes")]
    TooLong(usize),
    /// Other bytes than those of the digest that was asked for.
    #[error("it sends other bytes than have the digest that it was asked for")]
    OtherBytes,
    /// It asks for something that is not done.
    #[error("{0}")]
    Protocol(&'static str),
}

impl From<reqwest::Error> for RegistryError {
    fn from(error: reqwest::Error) -> Self {
        // The innermost cause is the one that tells something; the URL may hold a token that a redirect brought.
        let error = error.without_url();
        let mut cause: &dyn Error = &error;
        loop {
            if let Some(not_asked) = cause.downcast_ref::<NotAsked>() {
                return Self::NotAsked(not_asked.clone());
            }
            match cause.source() {
                Some(inner) => cause = inner,
                None => return Self::Unreachable(cause.to_string().chars().take(MESSAGE_CHARS).collect()),
            }
        }
    }
}
