//! Streams machine code to a shim that was assigned it. In: an artifact's file; out: chunks. IO.

use std::{os::unix::fs::FileExt, sync::Arc};

use podless_link::{NOTE_BYTES, v1::Chunk};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::build::Code;

/// Bytes in one chunk.
const CHUNK: usize = 256 << 10;
/// Chunks that are read ahead of what the shim has taken.
const AHEAD: usize = 4;

/// The chunks of an artifact, in order. A file that cannot be read ends the stream with an error; the shim hashes what
/// it got and asks again.
pub(crate) fn stream(code: Arc<Code>) -> ReceiverStream<Result<Chunk, Status>> {
    let (tx, rx) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        // Longer ones are of components with absurdly many imports, which are compiled again.
        let mut note = (code.note.len() <= NOTE_BYTES).then_some(code.note.as_bytes());
        let mut offset = 0;
        while offset < code.size {
            let mut data = vec![0; CHUNK.min((code.size - offset) as usize)];
            let chunk = code.file.read_exact_at(&mut data, offset).map_err(|error| {
                tracing::error!(%error, sha256 = code.sha256, "an artifact in the cache cannot be read");
                Status::internal("the artifact cannot be read from the operator's cache")
            });
            offset += data.len() as u64;
            let failed = chunk.is_err();
            if tx.blocking_send(chunk.map(|()| Chunk { data, note: note.take().unwrap_or_default().to_vec() })).is_err()
                || failed
            {
                return;
            }
        }
    });
    ReceiverStream::new(rx)
}
