//! The move that is being made to even out what nodes are given, and who is left out because theirs came to nothing. In:
//! moves, and how far they are; out: whether there may be another, and whose. Pure, but for [`NextMove`], where
//! reconciles find it.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::schedule::Move;

/// A move is made and served within this, or it is given up.
const MOST: Duration = Duration::from_secs(60);
/// Whose move was given up is left out for this long: it must not stand in the way of the others.
const LEFT_OUT: Duration = Duration::from_secs(600);

/// The move that is to be made next.
#[derive(Debug, Default)]
pub struct NextMove(Mutex<Option<Move>>);

impl NextMove {
    /// What was offered before was decided by what is no more.
    pub fn offer(&self, moved: Option<Move>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = moved;
    }

    /// The move, if it is this service's. Whoever makes it twice changes nothing any more.
    pub fn of(&self, service: &str) -> Option<Move> {
        let next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        next.as_ref().filter(|moved| moved.service == service).cloned()
    }
}

/// How far a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The service is where it was.
    Offered,
    /// It is assigned to its new node, and not served there yet.
    Made,
    /// It serves as it is assigned; also when it is gone.
    Served,
}

/// One move at a time.
#[derive(Debug, Default)]
pub struct Moves {
    last: Option<Last>,
    left_out: HashMap<String, Instant>,
}

#[derive(Debug)]
struct Last {
    moved: Move,
    since: Instant,
    made: bool,
}

impl Moves {
    /// This one is to be made.
    pub fn begin(&mut self, moved: Move, now: Instant) {
        self.last = Some(Last { moved, since: now, made: false });
    }

    /// Looks how far the last one is, and answers it when it has just been made.
    pub fn look(&mut self, stage: impl FnOnce(&Move) -> Stage, now: Instant) -> Option<Move> {
        self.left_out.retain(|_, since| now.duration_since(*since) < LEFT_OUT);
        let last = self.last.as_mut()?;
        let stage = stage(&last.moved);
        let news = (stage != Stage::Offered && !last.made).then(|| last.moved.clone());
        last.made |= stage != Stage::Offered;
        let late = now.duration_since(last.since) >= MOST;
        if let Some(Last { moved, .. }) = self.last.take_if(|_| late || stage == Stage::Served)
            && stage != Stage::Served
        {
            self.left_out.insert(moved.service, now);
        }
        news
    }

    /// Things have changed: what is not made yet is not to be made.
    pub fn withdraw(&mut self) {
        self.last.take_if(|last| !last.made);
    }

    /// The move that is to be made.
    pub fn offered(&self) -> Option<&Move> {
        self.last.as_ref().filter(|last| !last.made).map(|last| &last.moved)
    }

    /// None is under way.
    pub fn is_idle(&self) -> bool {
        self.last.is_none()
    }

    /// Whether this service may move.
    pub fn may_move(&self, service: &str) -> bool {
        !self.left_out.contains_key(service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(service: &str) -> Move {
        Move { service: service.into(), from: "a".into(), to: "b".into() }
    }

    #[test]
    fn a_move_is_for_its_service_until_there_is_another() {
        let next = NextMove::default();
        next.offer(Some(moved("s")));
        assert_eq!((next.of("t"), next.of("s"), next.of("s")), (None, Some(moved("s")), Some(moved("s"))));
        next.offer(None);
        assert_eq!(next.of("s"), None);
    }

    #[test]
    fn who_cannot_be_moved_is_left_out_and_holds_up_nobody() {
        let start = Instant::now();
        for stage in [Stage::Offered, Stage::Made] {
            let mut moves = Moves::default();
            moves.begin(moved("s"), start);
            let made = (stage == Stage::Made).then(|| moved("s"));
            assert_eq!(moves.look(|_| stage, start), made);
            assert_eq!(moves.look(|_| stage, start + MOST / 2), None, "told once");
            assert_eq!((moves.is_idle(), moves.may_move("s")), (false, true));
            assert_eq!(moves.offered().is_some(), stage == Stage::Offered);
            let late = start + MOST;
            moves.look(|_| stage, late);
            assert_eq!((moves.is_idle(), moves.may_move("s"), moves.may_move("t")), (true, false, true), "{stage:?}");
            moves.look(|_| stage, late + LEFT_OUT / 2);
            assert!(!moves.may_move("s"));
            moves.look(|_| stage, late + LEFT_OUT);
            assert!(moves.may_move("s"));
        }
    }

    #[test]
    fn what_serves_is_done_and_may_move_again() {
        let start = Instant::now();
        let mut moves = Moves::default();
        moves.begin(moved("s"), start);
        assert_eq!(moves.look(|_| Stage::Served, start + MOST), Some(moved("s")));
        assert_eq!((moves.is_idle(), moves.may_move("s")), (true, true));
    }

    #[test]
    fn what_is_made_is_not_withdrawn() {
        let start = Instant::now();
        let mut moves = Moves::default();
        moves.begin(moved("s"), start);
        moves.withdraw();
        assert_eq!((moves.is_idle(), moves.may_move("s")), (true, true));
        moves.begin(moved("s"), start);
        moves.look(|_| Stage::Made, start);
        moves.withdraw();
        assert!(!moves.is_idle());
    }
}
