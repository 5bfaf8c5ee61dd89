//! Machine code that shims give back. In: a question to a shim, and what it answers on a call of its own; out: its pieces,
//! to who has asked. What they say is not looked at here, but how much of it.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{Stream, TryStreamExt};
use podless_link::{NOTE_BYTES, v1::Given};
use tokio::{sync::mpsc, time::timeout};
use tonic::Status;

/// Pieces that wait for who has asked.
const AHEAD: usize = 4;
/// Longest piece: a shim sends a quarter of it.
const PIECE_BYTES: usize = 1 << 20;
/// How long a shim that calls may take to say which question it answers.
const FIRST: Duration = Duration::from_secs(10);

/// The questions that wait for an answer.
#[derive(Default)]
pub struct Recalls(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    last: u64,
    /// Whom was asked, and who waits, by the number of the question.
    asked: HashMap<u64, (String, mpsc::Sender<Given>)>,
}

impl Recalls {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a question to this shim, and where its answer comes. Who does not listen any more has done with it.
    pub fn ask(&self, pod_uid: &str) -> (u64, mpsc::Receiver<Given>) {
        let mut waiting = self.waiting();
        waiting.asked.retain(|_, (_, to)| !to.is_closed());
        waiting.last += 1;
        let (id, (to, from)) = (waiting.last, mpsc::channel(AHEAD));
        waiting.asked.insert(id, (pod_uid.to_owned(), to));
        (id, from)
    }

    /// Whether somebody waits for an answer of this shim.
    fn is_asked(&self, pod_uid: &str) -> bool {
        self.waiting().asked.values().any(|(asked, to)| asked == pod_uid && !to.is_closed())
    }

    /// The sender of an answer, once: if this shim was asked.
    fn answered(&self, pod_uid: &str, id: u64) -> Option<mpsc::Sender<Given>> {
        let mut waiting = self.waiting();
        let is_theirs = waiting.asked.get(&id).is_some_and(|(asked, _)| asked == pod_uid);
        is_theirs.then(|| waiting.asked.remove(&id))?.map(|(_, to)| to)
    }

    /// Passes on what a shim gives back, until it ends or nobody listens. Nothing is read of who was not asked.
    pub(super) async fn take(
        &self,
        pod_uid: &str,
        mut given: impl Stream<Item = Result<Given, Status>> + Unpin,
    ) -> Result<(), Status> {
        let not_asked = || Status::not_found("nobody has asked this shim for it");
        if !self.is_asked(pod_uid) {
            return Err(not_asked());
        }
        let late = |_| Status::deadline_exceeded("no answer came: say first which question it is to");
        let Some(first) = timeout(FIRST, given.try_next()).await.map_err(late)?? else { return Ok(()) };
        let to = self.answered(pod_uid, first.id).ok_or_else(not_asked)?;
        let mut next = Some(first);
        while let Some(piece) = next {
            if piece.data.len() > PIECE_BYTES || piece.note.len() > NOTE_BYTES {
                return Err(Status::out_of_range("such long pieces are not taken"));
            }
            let unneeded = || Status::cancelled("it is not needed any more");
            to.send(piece).await.map_err(|_| unneeded())?;
            next = tokio::select! {
                next = given.try_next() => next?,
                () = to.closed() => return Err(unneeded()),
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};
    use tonic::Code;

    use super::*;

    /// What becomes of a shim that was asked and says this, and then nothing more; and how many pieces come through.
    async fn taken(first: Given, then: Vec<Given>) -> (Code, usize) {
        let recalls = Recalls::default();
        let (id, mut pieces) = recalls.ask("a");
        let said = stream::iter([Given { id, ..first }].into_iter().chain(then)).map(Ok);
        let hearing = tokio::spawn(async move {
            let mut heard = 0;
            while timeout(Duration::from_secs(60), pieces.recv()).await.is_ok_and(|piece| piece.is_some()) {
                heard += 1;
            }
            heard
        });
        let ended = recalls.take("a", said.chain(stream::pending())).await;
        (ended.map_or_else(|status| status.code(), |()| Code::Ok), hearing.await.expect("no panic"))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_long_is_not_passed_on() {
        let data = |bytes| Given { data: vec![0; bytes], ..Given::default() };
        let note = |bytes| Given { note: vec![0; bytes], ..Given::default() };
        assert_eq!(taken(note(NOTE_BYTES + 1), vec![]).await, (Code::OutOfRange, 0));
        assert_eq!(taken(data(PIECE_BYTES + 1), vec![]).await, (Code::OutOfRange, 0));
        assert_eq!(taken(note(1), vec![data(1), data(PIECE_BYTES + 1)]).await, (Code::OutOfRange, 2));
        assert_eq!(taken(note(1), vec![note(NOTE_BYTES + 1)]).await, (Code::OutOfRange, 1));
        let most = taken(note(NOTE_BYTES), vec![data(PIECE_BYTES), data(1)]).await;
        assert_eq!(most, (Code::Cancelled, 3), "and it ends when nobody listens any more");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_who_was_not_asked_is_listened_to_and_who_was_asked_not_for_ever() {
        let recalls = Recalls::default();
        let (_, listens) = recalls.ask("a");
        let silent = || stream::pending::<Result<Given, Status>>();
        let begun = tokio::time::Instant::now();
        let code = async |pod| recalls.take(pod, silent()).await.map_err(|status| status.code());
        assert_eq!(code("b").await, Err(Code::NotFound));
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(code("a").await, Err(Code::DeadlineExceeded));
        assert!((FIRST..FIRST * 2).contains(&begun.elapsed()));
        drop(listens);
        assert_eq!(code("a").await, Err(Code::NotFound));
    }

    #[test]
    fn only_who_was_asked_answers_and_once() {
        let recalls = Recalls::default();
        let (first, _listens) = recalls.ask("a");
        let (second, _listens_too) = recalls.ask("b");
        assert!(recalls.answered("b", first).is_none(), "another shim");
        assert!(recalls.answered("a", first).is_some());
        assert!(recalls.answered("a", first).is_none(), "twice");
        assert!(recalls.answered("b", second).is_some());
        let (third, gone) = recalls.ask("a");
        drop(gone);
        let _other = recalls.ask("a");
        assert!(recalls.answered("a", third).is_none(), "nobody waits for it");
    }
}
