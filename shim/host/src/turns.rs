//! Places that all namespaces of a node share, and the queue for them: who asks gets a place, or waits a bounded time in
//! a bounded queue. Whoever has the fewest places goes first, so that one namespace cannot keep out the others, and has
//! all there are while they are idle. No IO but the clock.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use crate::share::{Share, Shares};

/// Places of a node.
pub struct Turns {
    places: Shares,
    waiting: AtomicU64,
    queues: Mutex<Vec<Queue>>,
}

/// Those of one namespace that wait.
struct Queue {
    way: Arc<Way>,
    waiting: VecDeque<(u64, oneshot::Sender<Place>)>,
}

/// One namespace's way to the places.
pub struct Way {
    turns: Arc<Turns>,
    share: Arc<Share>,
}

/// As many places as were asked for, given back when dropped.
pub struct Place {
    way: Arc<Way>,
    number: u64,
}

/// There was no place in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// The namespace has its share, and others have the rest.
    #[error("the namespace has its share of the node's places")]
    Share,
    /// All are taken.
    #[error("the node has no free place")]
    Node,
}

impl Turns {
    /// So many places.
    pub fn new(places: usize) -> Arc<Self> {
        Arc::new(Self { places: Shares::new(places as u64), waiting: AtomicU64::new(0), queues: Mutex::default() })
    }

    /// The way of a namespace to them.
    pub fn of(self: &Arc<Self>, namespace: &str) -> Arc<Way> {
        Arc::new(Way { turns: self.clone(), share: self.places.of(namespace) })
    }

    /// A place has come back, or somebody waits who did not: whoever has the fewest of those that wait gets one.
    fn hand_out(&self) {
        while self.waiting.load(SeqCst) > 0
            && let Some(refused) = self.hand_out_one()
        {
            // Whoever it was for has left. Here, where nothing is locked: this calls us again.
            drop(refused);
        }
    }

    /// Gives a place that nobody took; none when there is nothing to hand out.
    fn hand_out_one(&self) -> Option<Option<Place>> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queues.iter_mut().min_by_key(|queue| queue.way.share.held())?;
        while queue.waiting.pop_front_if(|(_, waits)| waits.is_closed()).is_some() {
            self.waiting.fetch_sub(1, SeqCst);
        }
        let Some((number, _)) = queue.waiting.front() else {
            queues.retain(|queue| !queue.waiting.is_empty());
            return Some(None);
        };
        let place = queue.way.place(*number)?;
        let (_, next) = queue.waiting.pop_front()?;
        self.waiting.fetch_sub(1, SeqCst);
        let left = next.send(place).err();
        queues.retain(|queue| !queue.waiting.is_empty());
        Some(left)
    }

    fn enqueue(&self, way: &Arc<Way>, number: u64) -> Option<oneshot::Receiver<Place>> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let known = queues.iter().position(|queue| Arc::ptr_eq(&queue.way.share, &way.share));
        let at = known.unwrap_or_else(|| {
            queues.push(Queue { way: way.clone(), waiting: VecDeque::new() });
            queues.len() - 1
        });
        let longest = self.places.limit() as usize;
        let waiting = &mut queues.get_mut(at)?.waiting;
        if waiting.len() >= longest {
            let before = waiting.len();
            waiting.retain(|(_, one)| !one.is_closed());
            self.waiting.fetch_sub((before - waiting.len()) as u64, SeqCst);
        }
        (waiting.len() < longest).then(|| {
            let (turn, waits) = oneshot::channel();
            waiting.push_back((number, turn));
            self.waiting.fetch_add(1, SeqCst);
            waits
        })
    }
}

impl Way {
    /// Waits for a place until `until`, and not at all when as many of the namespace wait already as there are places.
    pub async fn take(self: &Arc<Self>, until: Instant) -> Result<Place, NoPlace> {
        self.take_many(1, until).await
    }

    /// The same for so many at once.
    pub async fn take_many(self: &Arc<Self>, number: u64, until: Instant) -> Result<Place, NoPlace> {
        if self.turns.waiting.load(SeqCst) == 0
            && let Some(place) = self.place(number)
        {
            return Ok(place);
        }
        let waits = self.turns.enqueue(self, number).ok_or_else(|| self.full())?;
        // What came back before we waited told nobody.
        self.turns.hand_out();
        match timeout_at(until, waits).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(self.full()),
        }
    }

    fn place(self: &Arc<Self>, number: u64) -> Option<Place> {
        self.share.take(number).then(|| Place { way: self.clone(), number })
    }

    fn full(&self) -> NoPlace {
        if self.share.is_below_its_share() { NoPlace::Node } else { NoPlace::Share }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.way.share.give_back(self.number);
        self.way.turns.hand_out();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt as _;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(100)
    }

    async fn taken(way: &Arc<Way>, number: usize) -> Vec<Place> {
        let mut places = vec![];
        for _ in 0..number {
            places.push(way.take(soon()).await.expect("a place"));
        }
        places
    }

    #[tokio::test]
    async fn who_has_the_fewest_places_goes_first() {
        let turns = Turns::new(16);
        let (loud, quiet) = (turns.of("loud"), turns.of("quiet"));
        let mut places = taken(&loud, 14).await;
        let all = taken(&quiet, 2).await;
        let mut waiting: Vec<_> = (0..4).map(|_| Box::pin(loud.take(soon()))).collect();
        assert!(waiting.iter_mut().all(|one| one.now_or_never().is_none()), "they wait");
        let mut one = Box::pin(quiet.take(soon()));
        assert!((&mut one).now_or_never().is_none());
        places.truncate(13);
        assert!((&mut one).now_or_never().is_some_and(|one| one.is_ok()), "it came last and has fewer");
        assert!(waiting.iter_mut().all(|one| one.now_or_never().is_none()));
        drop((places, all));
        assert!(waiting.iter_mut().all(|one| one.now_or_never().is_some_and(|one| one.is_ok())), "now there is room");
    }

    #[tokio::test]
    async fn who_needs_several_waits_until_there_are_as_many() {
        let turns = Turns::new(4);
        let way = turns.of("a");
        let mut held = taken(&way, 3).await;
        let mut several = Box::pin(way.take_many(3, soon()));
        assert!((&mut several).now_or_never().is_none());
        held.pop();
        assert!((&mut several).now_or_never().is_none(), "two are free");
        held.pop();
        let several = (&mut several).now_or_never().expect("three are").expect("its places");
        assert_eq!(turns.places.held(), 4);
        drop((several, held));
        assert_eq!(turns.places.held(), 0);
    }

    #[tokio::test]
    async fn who_leaves_the_queue_takes_nothing() {
        let turns = Turns::new(1);
        let way = turns.of("a");
        let held = taken(&way, 1).await;
        {
            let mut leaves = Box::pin(way.take(soon()));
            assert!((&mut leaves).now_or_never().is_none());
        }
        let mut stays = Box::pin(way.take(soon()));
        // The queue is as long as there are places: who has left makes room in it.
        assert!((&mut stays).now_or_never().is_none());
        assert_eq!(way.take(soon()).now_or_never().and_then(Result::err), Some(NoPlace::Node), "at once");
        drop(held);
        assert!(stays.await.is_ok());
        assert_eq!(turns.places.held(), 0);
    }

    #[tokio::test]
    async fn the_wait_is_bounded_and_says_who_has_too_many() {
        let turns = Turns::new(16);
        let (loud, quiet) = (turns.of("loud"), turns.of("quiet"));
        let places = taken(&loud, 14).await;
        assert_eq!(loud.take(soon()).await.err(), Some(NoPlace::Share));
        let rest = taken(&quiet, 2).await;
        assert_eq!(quiet.take(soon()).await.err(), Some(NoPlace::Node));
        drop((places, rest));
        assert_eq!((turns.places.held(), taken(&quiet, 14).await.len()), (0, 14));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn no_place_is_lost_however_they_come_and_go() {
        let turns = Turns::new(8);
        let ways: Vec<_> = (0..3).map(|n| turns.of(&n.to_string())).collect();
        let tasks: Vec<_> = (0..24)
            .map(|n| {
                let way = ways[n % 3].clone();
                tokio::spawn(async move {
                    for round in 0..200 {
                        let place = way.take(Instant::now() + Duration::from_secs(20)).await;
                        assert!(place.is_ok() || round > 0, "everybody has a turn");
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("done");
        }
        assert_eq!((turns.places.held(), turns.waiting.load(SeqCst)), (0, 0));
    }
}
