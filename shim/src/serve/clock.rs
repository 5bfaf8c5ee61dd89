//! When bytes came and went on one connection: what a client sees of a cold start, and which connections to end.
//! In: reads, writes, requests, what was drawn at random for it; out: durations and a verdict. Pure but for the clock's
//! type.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    task::Waker,
    time::{Duration, Instant},
};

use futures::task::AtomicWaker;

use super::{spread::fraction, stats::Stats};

/// A request's head must be there this long after its first byte.
pub(crate) const HEAD: Duration = Duration::from_secs(20);
/// A connection without a request is closed after this long. Longer than the pools of usual proxies keep one.
pub(crate) const IDLE: Duration = Duration::from_secs(90);
/// A client that takes no byte of its answer for this long is gone; and what it has not taken of an answer this long
/// after its request's deadline, it does not get: its component has ended long since, and only the shim still holds it.
pub(crate) const STALL: Duration = Duration::from_secs(30);
/// A connection that has been idle for this long waits without the buffers of its protocol.
const REST: Duration = Duration::from_secs(1);
/// How often a connection is looked at that is not at rest: what its time limits are exact to.
const LOOK: Duration = Duration::from_secs(2);
/// A connection that is older is asked to come again, however busy it is: what was not spread, because who should have
/// said so was away, evens out in this time. It costs a client one handshake in ten minutes. Proxies and load balancers
/// call it the longest life of a connection; theirs are between minutes and an hour.
const AGE: Duration = Duration::from_secs(600);
/// Ages differ by this share of it up and down: a herd that came at once does not come again at once.
const JITTER: f64 = 0.1;

/// An HTTP/1 client that has closed its side may want its answer, or may have left: it has this long to be answered.
/// One that left by a reset is gone at once.
const HALF_CLOSED: Duration = Duration::from_secs(5);

/// The times of one connection, in microseconds since it was accepted, plus one; zero is "not".
pub(crate) struct ConnectionClock {
    accepted: Instant,
    /// From this age on it is to come again.
    age: Duration,
    /// It has been asked to, before that.
    asked: AtomicBool,
    /// First byte of the request that is being received.
    receiving: AtomicU64,
    /// The last request ended.
    idle: AtomicU64,
    /// Writing has been waiting for the client.
    stalled: AtomicU64,
    /// Bytes went out last.
    written: AtomicU64,
    http2: AtomicBool,
    active: AtomicU32,
    /// Bodies of requests that somebody holds.
    held: AtomicU32,
    /// Until when the answers that are due must have been taken, one for each active request.
    due: Mutex<Vec<u64>>,
    /// A cold start's answer is about to be written.
    armed: AtomicBool,
    cold: Mutex<Option<(Arc<Stats>, Instant)>>,
    /// Who is to know when a request ends.
    ended: AtomicWaker,
}

/// What to do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is in order.
    Keep,
    /// It is to come again when that loses nothing: HTTP/1 with its next answer, HTTP/2 now.
    Renew,
    /// It has nothing to do, or by HTTP/2 an answer that is not taken in time: end it politely.
    Close,
    /// It takes part in nothing: drop it.
    Abort,
    /// It is in order, and idle: it needs nothing until it says something.
    Rest,
}

impl ConnectionClock {
    /// A connection that was accepted now, and its draw.
    pub(crate) fn new(now: Instant, draw: u64) -> Self {
        Self {
            accepted: now,
            age: AGE.mul_f64(1.0 - JITTER + 2.0 * JITTER * fraction(draw)),
            asked: AtomicBool::new(false),
            receiving: AtomicU64::new(0),
            idle: AtomicU64::new(1),
            stalled: AtomicU64::new(0),
            written: AtomicU64::new(0),
            http2: AtomicBool::new(false),
            active: AtomicU32::new(0),
            held: AtomicU32::new(0),
            due: Mutex::default(),
            armed: AtomicBool::new(false),
            cold: Mutex::new(None),
            ended: AtomicWaker::new(),
        }
    }

    fn micros(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.accepted).as_micros()).unwrap_or(u64::MAX - 1) + 1
    }

    fn since(&self, then: u64, now: Instant) -> Option<Duration> {
        (then > 0).then(|| Duration::from_micros(self.micros(now).saturating_sub(then)))
    }

    /// Bytes came. While no request is active, and none has a body that more of may come, they are the next one's.
    pub(crate) fn read(&self, now: Instant) {
        let none = |count: &AtomicU32| count.load(Relaxed) == 0;
        if self.receiving.load(Relaxed) == 0 && none(&self.active) && none(&self.held) {
            self.receiving.store(self.micros(now), Relaxed);
        }
    }

    /// A request's head is complete: the time of its first byte, as far as it is known. Of requests that are pipelined
    /// only the first byte of the first is, and with HTTP/2 what came before the head may have been a ping: these count
    /// from now. It must be answered at `deadline`.
    pub(crate) fn begin(&self, now: Instant, deadline: Instant) -> Instant {
        self.active.fetch_add(1, Relaxed);
        self.due().push(self.micros(deadline + STALL));
        match self.receiving.swap(0, Relaxed) {
            then if then > 0 && !self.speaks_http2() => self.accepted + Duration::from_micros(then - 1),
            _ => now,
        }
    }

    /// The head of a cold start's answer is about to be written: the next byte out ends its time.
    pub(crate) fn arm(&self, stats: Arc<Stats>, first_byte_in: Instant) {
        *self.cold.lock().unwrap_or_else(PoisonError::into_inner) = Some((stats, first_byte_in));
        self.armed.store(true, Relaxed);
    }

    /// The client closed its side then, or all of the connection, which looks the same: how much longer it is taken to
    /// be there. `None` when it is gone, or there is nothing left for it.
    pub(crate) fn patience(&self, closed: Instant, now: Instant) -> Option<Duration> {
        if self.speaks_http2() || self.active.load(Relaxed) == 0 {
            return None;
        }
        // While bytes go out and no reset comes back, somebody takes them.
        let written = self.since(self.written.load(Relaxed), now).unwrap_or(Duration::MAX);
        let silent = written.min(now.saturating_duration_since(closed));
        HALF_CLOSED.checked_sub(silent).filter(|left| !left.is_zero())
    }

    /// The client has chosen HTTP/2.
    pub(crate) fn chose_http2(&self) {
        self.http2.store(true, Relaxed);
    }

    /// Whether it is HTTP/2.
    pub(crate) fn speaks_http2(&self) -> bool {
        self.http2.load(Relaxed)
    }

    /// Bytes went out.
    pub(crate) fn wrote(&self, now: Instant) {
        self.written.store(self.micros(now), Relaxed);
        if self.stalled.load(Relaxed) != 0 {
            self.stalled.store(0, Relaxed);
        }
        if self.armed.load(Relaxed) {
            self.armed.store(false, Relaxed);
            if let Some((stats, start)) = self.cold.lock().unwrap_or_else(PoisonError::into_inner).take() {
                stats.first_byte.record(now.saturating_duration_since(start));
            }
        }
    }

    /// The client takes no more bytes for now.
    pub(crate) fn write_blocked(&self, now: Instant) {
        if self.stalled.load(Relaxed) == 0 {
            self.stalled.store(self.micros(now), Relaxed);
        }
    }

    /// The answer to a request with this deadline was handed over to the last byte, or the request is gone.
    pub(crate) fn end(&self, now: Instant, deadline: Instant) {
        let (due, mut all) = (self.micros(deadline + STALL), self.due());
        if let Some(at) = all.iter().position(|other| *other == due) {
            all.swap_remove(at);
        }
        drop(all);
        self.idle.store(self.micros(now), Relaxed);
        self.active.fetch_sub(1, Release);
        self.ended.wake();
    }

    /// Somebody holds the body of a request, answered or not: what comes next may be more of it.
    pub(crate) fn hold(&self) {
        self.held.fetch_add(1, Relaxed);
    }

    /// Nobody holds it any more.
    pub(crate) fn release(&self, now: Instant) {
        self.idle.store(self.micros(now), Relaxed);
        self.held.fetch_sub(1, Release);
    }

    fn due(&self) -> MutexGuard<'_, Vec<u64>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes this task, and no other any more, when a request ends.
    pub(crate) fn wake_at_end(&self, waker: &Waker) {
        self.ended.register(waker);
    }

    /// It is to come again.
    pub(crate) fn ask_to_renew(&self) {
        self.asked.store(true, Relaxed);
    }

    /// Whether it is to come again: it was asked to, or is old.
    pub(crate) fn renews(&self, now: Instant) -> bool {
        self.asked.load(Relaxed) || now.saturating_duration_since(self.accepted) >= self.age
    }

    /// What to do with the connection.
    pub(crate) fn verdict(&self, now: Instant) -> Verdict {
        let past = |then: &AtomicU64, limit| self.since(then.load(Relaxed), now).is_some_and(|time| time > limit);
        if past(&self.stalled, STALL) {
            return Verdict::Abort;
        }
        let kept = if self.renews(now) { Verdict::Renew } else { Verdict::Keep };
        if self.active.load(Acquire) > 0 {
            let due = self.due().iter().min().copied();
            let late = Duration::from_micros(due.map_or(0, |due| self.micros(now).saturating_sub(due)));
            // By HTTP/2 others' answers are on their way too: they have a while, and what is asked next comes elsewhere.
            let grace = if self.speaks_http2() { STALL } else { Duration::ZERO };
            return if late.is_zero() {
                kept
            } else if late > grace {
                Verdict::Abort
            } else {
                Verdict::Close
            };
        }
        // Between requests an HTTP/2 connection carries pings: bytes there are no sign of a request.
        if !self.speaks_http2() && past(&self.receiving, HEAD) {
            return Verdict::Abort;
        }
        if past(&self.idle, IDLE * 2) {
            Verdict::Abort
        } else if past(&self.idle, IDLE) {
            Verdict::Close
        } else if self.is_at_rest(now) {
            Verdict::Rest
        } else {
            kept
        }
    }

    /// By HTTP/1 nothing has been asked for a while, all that was answered has been taken, and nothing has begun to come.
    fn is_at_rest(&self, now: Instant) -> bool {
        let none = |then: &AtomicU64| then.load(Relaxed) == 0;
        // Before the time: who lets a body go sets that first.
        let held = self.held.load(Acquire) > 0;
        let idle = self.since(self.idle.load(Relaxed), now).is_some_and(|time| time > REST);
        idle && !held && !self.speaks_http2() && none(&self.receiving) && none(&self.stalled)
    }

    /// When to look at it next: what is at rest only when it has been idle for too long.
    pub(crate) fn next_look(&self, now: Instant) -> Instant {
        match self.verdict(now) {
            Verdict::Rest => self.accepted + Duration::from_micros(self.idle.load(Relaxed)) + IDLE,
            _ => now + LOOK,
        }
    }
}

#[cfg(test)]
mod tests {
    use podless_link::histogram::quantile;

    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// A deadline that no test here comes to, for a request at this time.
    fn far(now: Instant) -> Instant {
        now + seconds(3600)
    }

    fn begin(clock: &ConnectionClock, now: Instant) -> Instant {
        clock.begin(now, far(now))
    }

    #[test]
    fn the_first_byte_is_what_the_client_sees() {
        let t = Instant::now();
        let (clock, stats) = (ConnectionClock::new(t, 0), Arc::new(Stats::default()));
        for round in [1, 20] {
            let start = t + seconds(round);
            clock.read(start);
            clock.read(start + Duration::from_millis(5));
            let first = begin(&clock, start + Duration::from_millis(6));
            clock.wrote(start + Duration::from_millis(7)); // 100 Continue
            clock.arm(stats.clone(), first);
            clock.wrote(start + Duration::from_millis(10));
            clock.wrote(start + Duration::from_millis(500)); // the rest of the body
            clock.end(start + Duration::from_millis(600), far(start + Duration::from_millis(6)));
        }
        let counts = stats.first_byte.counts();
        assert_eq!(counts.values().sum::<u64>(), 2);
        for q in [0.0, 1.0] {
            let micros = quantile(&counts, q).expect("counted");
            assert!((micros - 10_000.0).abs() < 600.0, "{micros}");
        }
    }

    #[test]
    fn verdicts() {
        let t = Instant::now();
        let clock = ConnectionClock::new(t, 0);
        assert_eq!(clock.verdict(t + seconds(1)), Verdict::Keep);
        assert_eq!(clock.next_look(t + seconds(1)), t + seconds(3));
        assert_eq!(clock.verdict(t + seconds(3)), Verdict::Rest);
        assert_eq!(clock.verdict(clock.next_look(t + seconds(3)) + seconds(1)), Verdict::Close, "one look is enough");
        assert_eq!(clock.verdict(t + seconds(91)), Verdict::Close);
        assert_eq!(clock.verdict(t + seconds(181)), Verdict::Abort);
        clock.read(t + seconds(10));
        assert_eq!(clock.verdict(t + seconds(29)), Verdict::Keep);
        assert_eq!(clock.verdict(t + seconds(31)), Verdict::Abort, "a head that does not come");
        begin(&clock, t + seconds(11));
        assert_eq!(clock.verdict(t + seconds(500)), Verdict::Keep, "the request has its own deadline");
        clock.write_blocked(t + seconds(20));
        assert_eq!(clock.verdict(t + seconds(51)), Verdict::Abort, "a client that takes nothing");
        clock.wrote(t + seconds(21));
        clock.end(t + seconds(22), far(t + seconds(11)));
        assert_eq!(clock.verdict(t + seconds(23)), Verdict::Keep);
        assert_eq!(clock.verdict(t + seconds(51)), Verdict::Rest);
        clock.write_blocked(t + seconds(23));
        assert_eq!(clock.verdict(t + seconds(51)), Verdict::Keep, "the last answer has not been taken");
    }

    #[test]
    fn nothing_rests_while_more_of_a_body_may_come() {
        let t = Instant::now();
        let clock = ConnectionClock::new(t, 0);
        begin(&clock, t);
        clock.hold();
        clock.end(t, far(t));
        assert_eq!(clock.verdict(t + seconds(9)), Verdict::Keep);
        clock.release(t + seconds(9));
        assert_eq!(
            clock.verdict(t + seconds(10)),
            Verdict::Keep,
            "who reads the rest, or ends for want of it, has time"
        );
        assert_eq!(clock.verdict(t + seconds(12)), Verdict::Rest);
    }

    #[test]
    fn the_rest_of_a_body_is_no_slow_head() {
        let t = Instant::now();
        let clock = ConnectionClock::new(t, 0);
        begin(&clock, t);
        clock.hold();
        clock.end(t, far(t));
        clock.read(t + seconds(1));
        assert_eq!(clock.verdict(t + seconds(30)), Verdict::Keep);
        clock.release(t + seconds(30));
        clock.read(t + seconds(31));
        assert_eq!(clock.verdict(t + seconds(50)), Verdict::Keep);
        assert_eq!(clock.verdict(t + seconds(52)), Verdict::Abort, "what comes after it is");
    }

    #[test]
    fn what_is_not_taken_long_after_its_deadline_ends_the_connection() {
        for http2 in [false, true] {
            let t = Instant::now();
            let clock = ConnectionClock::new(t, 0);
            if http2 {
                clock.chose_http2();
            }
            let (first, second) = (t + seconds(10), t + seconds(100));
            clock.begin(t, first);
            clock.begin(t + seconds(90), second);
            // Bytes go out, but not those of the first.
            clock.wrote(t + seconds(39));
            assert_eq!(clock.verdict(t + seconds(40)), Verdict::Keep);
            let late = if http2 { Verdict::Close } else { Verdict::Abort };
            assert_eq!(clock.verdict(t + seconds(41)), late);
            assert_eq!(clock.verdict(t + seconds(70)), late, "by HTTP/2 the others have a while");
            assert_eq!(clock.verdict(t + seconds(71)), Verdict::Abort);
            clock.end(t + seconds(41), first);
            assert_eq!(clock.verdict(t + seconds(41)), Verdict::Keep, "the others have their own");
            assert_eq!(clock.verdict(t + seconds(131)), late);
            assert_eq!(clock.verdict(t + seconds(161)), Verdict::Abort);
        }
    }

    #[test]
    fn what_comes_between_requests_by_http_2_is_none() {
        let t = Instant::now();
        let clock = ConnectionClock::new(t, 0);
        clock.read(t); // the preface
        clock.chose_http2();
        assert_eq!(clock.verdict(t + seconds(89)), Verdict::Keep, "it has asked nothing yet");
        assert_eq!(clock.verdict(t + seconds(91)), Verdict::Close);
        assert_eq!(begin(&clock, t + seconds(50)), t + seconds(50));
        clock.end(t + seconds(51), far(t + seconds(50)));
        clock.read(t + seconds(52)); // a ping
        assert_eq!(clock.verdict(t + seconds(90)), Verdict::Keep);
        assert_eq!(begin(&clock, t + seconds(100)), t + seconds(100), "the pause is not its own");
    }

    #[test]
    fn who_is_old_or_asked_comes_again_and_who_is_idle_ends() {
        let t = Instant::now();
        for (draw, age) in [(0, 540), (u64::MAX / 2, 600), (u64::MAX, 660)] {
            let clock = ConnectionClock::new(t, draw);
            begin(&clock, t + seconds(age - 20));
            assert_eq!(clock.verdict(t + seconds(age - 1)), Verdict::Keep);
            assert_eq!(clock.verdict(t + seconds(age + 1)), Verdict::Renew, "while it is answered too");
            clock.end(t + seconds(age + 2), far(t + seconds(age - 20)));
            assert_eq!(clock.verdict(t + seconds(age + 3)), Verdict::Renew);
            assert_eq!(clock.verdict(t + seconds(age + 100)), Verdict::Close);
        }
        let clock = ConnectionClock::new(t, 0);
        assert!(!clock.renews(t + seconds(1)));
        clock.ask_to_renew();
        assert!(clock.renews(t + seconds(1)));
        assert_eq!(clock.verdict(t + seconds(1)), Verdict::Renew);
        clock.read(t + seconds(2));
        assert_eq!(clock.verdict(t + seconds(30)), Verdict::Abort, "a head that does not come");
    }

    #[test]
    fn who_has_closed_its_side_has_a_while_to_be_answered() {
        let t = Instant::now();
        let clock = ConnectionClock::new(t, 0);
        assert_eq!(clock.patience(t, t), None, "it has asked nothing");
        begin(&clock, t);
        assert_eq!(clock.patience(t, t), Some(seconds(5)));
        assert_eq!(clock.patience(t, t + seconds(2)), Some(seconds(3)));
        assert_eq!(clock.patience(t, t + seconds(5)), None);
        clock.wrote(t + seconds(4));
        assert_eq!(clock.patience(t, t + seconds(6)), Some(seconds(3)), "it takes what comes");
        clock.chose_http2();
        assert_eq!(clock.patience(t, t + seconds(6)), None);
    }
}
