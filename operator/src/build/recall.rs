//! Machine code that was lost here, from the shims that run it. In: a component and what is made of it; out: whether
//! the cache has its code now. IO; nothing is compiled, and no registry is asked.
//!
//! A shim is not believed. What it gives back are bytes that this operator, or one before it, has made: it shows the
//! assignment that it was given, which a trusted key has signed and which names the note by its hash; and the note names
//! component, engine and code.

use std::{sync::Arc, time::Duration};

use podless_artifact::{
    Pipeline, ReceiveError,
    seal::{SealError, TrustedKeys},
};
use podless_engine::Recipe;
use podless_link::{ASSIGNMENT_CONTEXT, v1};
use prost::Message as _;
use sha2::{Digest, Sha256};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};

use crate::{link::Hub, wake::ServiceRef};

/// How long a new leader waits for a shim that has it to connect.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest wait for the first word of an answer, and then for the next bytes: an older shim never answers.
const STALL: Duration = Duration::from_secs(10);
/// What each byte adds to the time that all of them may take: 1 MB/s, or others wait in vain for their turn.
const PER_BYTE: Duration = Duration::from_micros(1);

/// Why what a shim gave back was not taken.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("it says nothing")]
    Silent,
    #[error("it does not have it any more")]
    Nothing,
    #[error("the assignment that it shows: {0}")]
    Signature(#[from] SealError),
    #[error("what it shows is no assignment")]
    Malformed,
    #[error("its note is not that of the assignment")]
    Note,
    #[error(transparent)]
    Code(#[from] ReceiveError),
    #[error("{0}")]
    CutOff(#[from] tokio::task::JoinError),
}

/// Asks the shims that serve this service, one after another, for the code of this component.
pub(super) async fn recall(
    hub: &Hub,
    pipeline: &Arc<Pipeline>,
    keys: &TrustedKeys,
    service: &ServiceRef,
    component: &str,
    recipe: Recipe,
) -> bool {
    let engine = recipe.fingerprint();
    let mut members = hub.members();
    let mut asked = vec![];
    loop {
        members.borrow_and_update();
        let next = hub.sessions().holders(&service.uid, &engine).into_iter().find(|pod| !asked.contains(pod));
        if let Some(pod) = next {
            match ask(hub, pipeline, keys, &pod, component, recipe).await {
                Ok(()) => {
                    tracing::info!(component, pod, "a shim has given back machine code that was lost here");
                    return true;
                }
                Err(refused) => tracing::info!(component, pod, "a shim has not given back machine code: {refused}"),
            }
            asked.push(pod);
            continue;
        }
        // Shims connect to a new leader one after another. When one that serves it is there and runs the engine of another
        // version, there is no such code yet; one of another target says nothing.
        let left = CONNECT.saturating_sub(hub.since.elapsed());
        let known = !asked.is_empty() || hub.sessions().is_served_by_another_engine(&service.uid);
        if known || left.is_zero() || timeout(left, members.changed()).await.is_err() {
            return false;
        }
    }
}

async fn ask(
    hub: &Hub,
    pipeline: &Arc<Pipeline>,
    keys: &TrustedKeys,
    pod: &str,
    component: &str,
    recipe: Recipe,
) -> Result<(), Refused> {
    let (id, mut pieces) = hub.recalls.ask(pod);
    let question = v1::Recall { id, component: component.to_owned() };
    if !hub.sessions().recall(pod, question) {
        return Err(Refused::Nothing);
    }
    let first = timeout(STALL, pieces.recv()).await.ok().flatten().ok_or(Refused::Silent)?;
    vouched(&first, keys)?;
    let (to_disk, written) = mpsc::channel::<Vec<u8>>(1);
    let receiving = {
        let (pipeline, component) = (pipeline.clone(), component.to_owned());
        tokio::task::spawn_blocking(move || take(&pipeline, &first, &component, recipe, written))
    };
    pass_on(pieces, to_disk).await;
    receiving.await??;
    Ok(())
}

/// Passes on pieces until they end, or come too slowly. What does not come whole is noticed by its hash; who stops
/// receiving says why.
async fn pass_on(mut pieces: mpsc::Receiver<v1::Given>, to_disk: mpsc::Sender<Vec<u8>>) {
    let mut until = Instant::now() + STALL;
    while let Ok(Some(piece)) = timeout_at(until.min(Instant::now() + STALL), pieces.recv()).await {
        until += PER_BYTE * u32::try_from(piece.data.len()).unwrap_or(u32::MAX);
        if to_disk.send(piece.data).await.is_err() {
            break;
        }
    }
}

/// Whether a note is one of ours: a signed assignment names it.
fn vouched(given: &v1::Given, keys: &TrustedKeys) -> Result<(), Refused> {
    let v1::Assign { assignment, signature } = given.assign.as_ref().ok_or(Refused::Nothing)?;
    keys.verify(ASSIGNMENT_CONTEXT, assignment, signature)?;
    let assignment = v1::Assignment::decode(assignment.as_slice()).map_err(|_| Refused::Malformed)?;
    let is_it = assignment.note_sha256 == hex::encode(Sha256::digest(&given.note));
    is_it.then_some(()).ok_or(Refused::Note)
}

/// Takes all pieces; blocks.
fn take(
    pipeline: &Pipeline,
    first: &v1::Given,
    component: &str,
    recipe: Recipe,
    mut pieces: mpsc::Receiver<Vec<u8>>,
) -> Result<(), ReceiveError> {
    let mut receiving = pipeline.receive(&first.note, component, recipe)?;
    receiving.write(&first.data)?;
    while let Some(piece) = pieces.blocking_recv() {
        receiving.write(&piece)?;
    }
    receiving.finish()
}

#[cfg(test)]
mod tests {
    use podless_artifact::seal::SealKey;

    use super::*;

    fn given(key: &SealKey, note: &[u8]) -> v1::Given {
        let note_sha256 = hex::encode(Sha256::digest(note));
        let assignment = v1::Assignment { note_sha256, ..Default::default() }.encode_to_vec();
        let signature = key.sign(ASSIGNMENT_CONTEXT, &assignment).to_vec();
        let assign = Some(v1::Assign { assignment, signature });
        v1::Given { id: 1, assign, note: note.to_vec(), data: vec![] }
    }

    /// How much comes through of pieces of this size, one a second, for ever, and how many seconds that takes.
    async fn passed_on(size: usize) -> (usize, u64) {
        let ((give, given), (to_disk, mut written)) = (mpsc::channel(1), mpsc::channel::<Vec<u8>>(1));
        let giving = tokio::spawn(async move {
            while give.send(v1::Given { data: vec![0; size], ..v1::Given::default() }).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let begun = Instant::now();
        let passing = tokio::spawn(pass_on(given, to_disk));
        let mut bytes = 0;
        while let Some(piece) = written.recv().await {
            bytes += piece.len();
            // All that there is to give.
            if bytes >= 100_000_000 {
                break;
            }
        }
        drop(written);
        passing.await.expect("no panic");
        giving.await.expect("no panic");
        (bytes, begun.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_back_nothing_or_little_for_ever_is_given_up() {
        let (bytes, seconds) = passed_on(0).await;
        assert!(bytes == 0 && (10..15).contains(&seconds), "{bytes} bytes in {seconds} s");
        let (bytes, seconds) = passed_on(100_000).await;
        assert!(bytes < 2_000_000 && (10..15).contains(&seconds), "{bytes} bytes in {seconds} s");
        let (bytes, _) = passed_on(1_000_000).await;
        assert_eq!(bytes, 100_000_000, "as quickly as it has to");
    }

    #[test]
    fn only_a_note_that_a_trusted_key_has_signed_is_one_of_ours() {
        let (key, stranger) = (SealKey::from_random([1; 32]), SealKey::from_random([2; 32]));
        let keys = TrustedKeys::from_pem(&key.public_pem().expect("PEM")).expect("keys");
        assert!(vouched(&given(&key, b"note"), &keys).is_ok());
        assert!(matches!(vouched(&given(&stranger, b"note"), &keys), Err(Refused::Signature(_))));
        let other = v1::Given { note: b"another".to_vec(), ..given(&key, b"note") };
        assert!(matches!(vouched(&other, &keys), Err(Refused::Note)));
        let nothing = v1::Given { assign: None, ..given(&key, b"note") };
        assert!(matches!(vouched(&nothing, &keys), Err(Refused::Nothing)));
        let mut changed = given(&key, b"note");
        changed.assign.as_mut().expect("one").assignment.push(0);
        assert!(matches!(vouched(&changed, &keys), Err(Refused::Signature(_))));
        // An older assignment names no note.
        let assignment = v1::Assignment::default().encode_to_vec();
        let signature = key.sign(ASSIGNMENT_CONTEXT, &assignment).to_vec();
        let old = v1::Given { assign: Some(v1::Assign { assignment, signature }), ..given(&key, b"") };
        assert!(matches!(vouched(&old, &keys), Err(Refused::Note)));
    }
}
