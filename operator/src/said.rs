//! What went wrong with a request to the API server, in its own sentence: for logs and messages. Pure.

use std::error::Error;

use kube::runtime::watcher;

/// The API server's sentence, without the rest of its answer; else the error with its causes.
pub(crate) fn api(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => chain(other),
    }
}

/// The same of a watch.
pub(crate) fn watch(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => api(error),
        watcher::Error::WatchError(status) => status.message.clone(),
        watcher::Error::NoResourceVersion => error.to_string(),
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        // Some errors repeat their cause in their own text.
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_servers_sentence_alone() {
        let status = kube::core::Status::failure("secrets \"x\" is forbidden", "Forbidden").with_code(403).boxed();
        assert_eq!(api(&kube::Error::Api(status.clone())), "secrets \"x\" is forbidden");
        assert_eq!(watch(&watcher::Error::WatchStartFailed(kube::Error::Api(status))), "secrets \"x\" is forbidden");
    }
}
