//! For how long a slow shim gets no new connections, and how many may be without at once. In: who is slower than the
//! others, round by round; out: the shims that are slow. Pure.
//!
//! Each time in a row it lasts longer, and what has gone well for a while is forgotten. Whatever is said of them, two thirds
//! of the nodes that serve stay, and half of all with those that are not connected.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    time::{Duration, Instant},
};

use super::{outlier::Compared, verdict::Member};

/// How many times slower than the others is too slow.
const TOO_SLOW: f64 = 5.0;
/// Rounds in a row in which it was.
const STRIKES: u32 = 3;
/// How long it lasts the first time.
const BASE: Duration = Duration::from_secs(30);
/// How long it lasts at most.
const LONGEST: Duration = Duration::from_secs(300);
/// How long all must go well until it counts as one time less.
const FORGIVEN: Duration = Duration::from_secs(60);

/// Why a shim gets no new connections for a while.
#[derive(Clone, Debug, PartialEq)]
pub struct Slow {
    /// How it compares with others.
    pub compared: Compared,
    /// For how long.
    pub lasts: Duration,
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; no new connections for {} s", self.compared, self.lasts.as_secs())
    }
}

/// What is known of all shims, by the uids of their pods.
#[derive(Debug, Default)]
pub(super) struct Terms {
    shims: HashMap<String, Term>,
}

#[derive(Debug, Default)]
struct Term {
    strikes: u32,
    /// How often in a row it was slow, and when the last time was over.
    times: u32,
    back: Option<Instant>,
    /// Why it is, and until when.
    slow: Option<(Slow, Instant)>,
}

impl Terms {
    /// Whether a shim is slow.
    pub(super) fn is_slow(&self, pod_uid: &str) -> bool {
        self.shims.get(pod_uid).is_some_and(|term| term.slow.is_some())
    }

    /// One round: the shims that are slow from now on. `serving` are the pods that have services.
    pub(super) fn judge(
        &mut self,
        all: &[Member],
        serving: &HashSet<String>,
        compared: &HashMap<&str, Compared>,
        now: Instant,
    ) -> HashMap<String, Slow> {
        self.shims.retain(|uid, _| all.iter().any(|m| m.pod_uid == *uid));
        self.shims.values_mut().for_each(|term| term.end(now));
        for (uid, compared) in compared {
            self.shims.entry((*uid).to_owned()).or_default().strike(compared);
        }
        let serving: Vec<_> = all.iter().filter(|m| serving.contains(&m.pod_uid)).collect();
        let mut left = most(&serving);
        let mut accused: Vec<_> = serving
            .into_iter()
            .filter(|m| m.connected)
            .filter_map(|m| {
                let term = self.shims.get(&m.pod_uid)?;
                let new = compared.get(m.pod_uid.as_str()).filter(|_| term.strikes >= STRIKES);
                let why = term.slow.as_ref().map(|(slow, _)| &slow.compared).or(new)?;
                Some((term.slow.is_none(), why.clone(), m))
            })
            .collect();
        // Who is slow already stays so, and then the slowest come first.
        accused.sort_by(|a, b| {
            a.0.cmp(&b.0).then(b.1.ratio.total_cmp(&a.1.ratio)).then_with(|| a.2.pod_uid.cmp(&b.2.pod_uid))
        });
        let (mut slow, mut nodes) = (HashMap::new(), BTreeSet::new());
        for (_, why, member) in accused {
            let Some(term) = self.shims.get_mut(&member.pod_uid) else { continue };
            if !nodes.contains(&member.node) {
                if left == 0 {
                    term.pardon(now);
                    continue;
                }
                left -= 1;
                nodes.insert(&member.node);
            }
            slow.insert(member.pod_uid.clone(), term.sentence(why, now));
        }
        slow
    }
}

/// On how many nodes shims may be slow: a third of those that serve, and no more than half together with those that are
/// not connected.
fn most(serving: &[&Member]) -> usize {
    let nodes: BTreeSet<_> = serving.iter().map(|m| &m.node).collect();
    let there: BTreeSet<_> = serving.iter().filter(|m| m.connected).map(|m| &m.node).collect();
    let away = nodes.len() - there.len();
    (nodes.len() / 3).min((nodes.len() / 2).saturating_sub(away))
}

impl Term {
    /// Its time may be over.
    fn end(&mut self, now: Instant) {
        if self.slow.as_ref().is_some_and(|(_, until)| *until <= now) {
            self.pardon(now);
        }
    }

    /// It gets connections again, if it did not.
    fn pardon(&mut self, now: Instant) {
        if self.slow.take().is_some() {
            (self.strikes, self.back) = (0, Some(now));
        }
    }

    /// It was compared. What it did while it got nothing new does not count.
    fn strike(&mut self, compared: &Compared) {
        if self.slow.is_some() || self.back.is_some_and(|back| compared.from < back) {
            return;
        }
        self.strikes = if compared.ratio >= TOO_SLOW { self.strikes.saturating_add(1) } else { 0 };
    }

    /// It is slow, for as long as it was said before, or from now on.
    fn sentence(&mut self, compared: Compared, now: Instant) -> Slow {
        if let Some((slow, _)) = &self.slow {
            return slow.clone();
        }
        let well = self.back.map_or(Duration::ZERO, |back| now.saturating_duration_since(back));
        let forgiven = u32::try_from(well.as_secs() / FORGIVEN.as_secs()).unwrap_or(u32::MAX);
        self.times = self.times.saturating_sub(forgiven).saturating_add(1);
        let slow = Slow { compared, lasts: BASE.saturating_mul(self.times).min(LONGEST) };
        self.slow = Some((slow.clone(), now + slow.lasts));
        slow
    }
}

#[cfg(test)]
impl Slow {
    /// One that is eleven times slower.
    pub(crate) fn example() -> Self {
        let (ratio, micros, theirs) = (11.23, 42_000.0, 3740.0);
        Self { compared: Compared { ratio, micros, theirs, others: 2, from: Instant::now() }, lasts: BASE }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn member(pod: usize, node: usize, connected: bool, start: Instant) -> Member {
        Member {
            pod_uid: format!("p{pod}"),
            node: format!("n{node}"),
            ip: "10.0.0.1".into(),
            connected,
            met: true,
            silent_since: start,
            ejected: false,
        }
    }

    fn compared(ratio: f64, from: Instant) -> Compared {
        Compared { ratio, micros: ratio * 4000.0, theirs: 4000.0, others: 2, from }
    }

    /// Rounds of three seconds with nodes of one shim each.
    struct World {
        terms: Terms,
        all: Vec<Member>,
        now: Instant,
    }

    impl World {
        fn new(nodes: usize) -> Self {
            let now = Instant::now();
            Self { terms: Terms::default(), all: (0..nodes).map(|i| member(i, i, true, now)).collect(), now }
        }

        /// Some rounds with these ratios; the slow ones after them.
        fn rounds(&mut self, count: usize, ratios: &[f64]) -> Vec<String> {
            let mut slow = vec![];
            for _ in 0..count {
                let from = self.now;
                self.now += Duration::from_secs(3);
                let uids: Vec<_> = (0..ratios.len()).map(|i| format!("p{i}")).collect();
                let said = uids.iter().zip(ratios).map(|(uid, ratio)| (uid.as_str(), compared(*ratio, from))).collect();
                let serving = self.all.iter().map(|m| m.pod_uid.clone()).collect();
                slow = self.terms.judge(&self.all, &serving, &said, self.now).into_keys().collect();
                slow.sort();
            }
            slow
        }

        /// Rounds until nobody is slow any more; those are too slow still that are when they may.
        fn waits(&mut self, ratios: &[f64]) -> usize {
            (1..).find(|_| self.rounds(1, ratios).is_empty()).expect("it ends")
        }
    }

    #[test]
    fn three_rounds_in_a_row_for_longer_each_time_and_then_forgiven() {
        let (slow, fast) = ([10.0, 1.0, 1.0], [1.0; 3]);
        let mut world = World::new(3);
        assert!(
            world.rounds(2, &slow).is_empty() && world.rounds(1, &fast).is_empty() && world.rounds(2, &slow).is_empty()
        );
        assert!(world.rounds(5, &[]).is_empty(), "nothing was said");
        assert_eq!(world.rounds(1, &slow), ["p0"]);
        assert!(world.terms.is_slow("p0") && !world.terms.is_slow("p1"));
        assert_eq!(world.waits(&slow), 10, "half a minute");
        assert_eq!(world.rounds(3, &slow), ["p0"]);
        assert_eq!(world.waits(&slow), 20, "a minute");
        for _ in 0..10 {
            world.rounds(3, &slow);
            world.waits(&slow);
        }
        assert_eq!(world.rounds(3, &slow), ["p0"]);
        assert_eq!(world.waits(&fast), 100, "five at most");
        assert!(world.rounds(20 * 14, &fast).is_empty());
        assert_eq!(world.rounds(3, &slow), ["p0"]);
        assert_eq!(world.waits(&slow), 10, "what was is forgotten");
    }

    #[test]
    fn what_it_did_before_it_was_back_does_not_count() {
        let mut world = World::new(3);
        world.rounds(3, &[10.0, 1.0, 1.0]);
        let early = world.now;
        world.waits(&[]);
        let serving: HashSet<_> = world.all.iter().map(|m| m.pod_uid.clone()).collect();
        let said = HashMap::from([("p0", compared(10.0, early))]);
        for _ in 0..10 {
            assert!(world.terms.judge(&world.all, &serving, &said, world.now).is_empty());
        }
    }

    #[test]
    fn a_third_at_most_the_slowest_first_and_fewer_when_others_are_lost() {
        let mut world = World::new(2);
        assert!(world.rounds(5, &[10.0, 1.0]).is_empty());
        let mut world = World::new(7);
        assert_eq!(world.rounds(3, &[10.0, 30.0, 20.0, 1.0, 1.0, 1.0, 1.0]), ["p1", "p2"]);
        world.all[6].connected = false;
        assert_eq!(world.rounds(1, &[]), ["p1", "p2"]);
        world.all[5].connected = false;
        assert_eq!(world.rounds(1, &[]), ["p1"], "the slowest stays away");
        world.all[1].connected = false;
        assert!(world.rounds(1, &[]).is_empty(), "it is lost itself");
        world.all.truncate(2);
        assert!(world.rounds(1, &[]).is_empty());
        assert_eq!(world.terms.shims.len(), 2, "who is gone is forgotten");
    }

    #[test]
    fn it_is_said_in_figures() {
        let said = "11 times slower than 2 others: 42.0 ms for what takes them 3.7 ms; no new connections for 30 s";
        assert_eq!(Slow::example().to_string(), said);
    }

    proptest! {
        #[test]
        fn never_more_than_the_floor_allows(
            pods in vec((0..8usize, any::<bool>(), any::<bool>()), 1..12),
            rounds in vec((vec(0.5..100.0f64, 12), 0..12usize, 1..40u64), 1..40),
        ) {
            let start = Instant::now();
            let (mut terms, mut now) = (Terms::default(), start);
            let mut all: Vec<_> =
                pods.iter().enumerate().map(|(i, (node, connected, _))| member(i, *node, *connected, start)).collect();
            let serving: HashSet<_> =
                pods.iter().enumerate().filter(|(_, (.., serves))| *serves).map(|(i, _)| format!("p{i}")).collect();
            for (ratios, flips, seconds) in rounds {
                let from = now;
                now += Duration::from_secs(seconds);
                if let Some(member) = all.get_mut(flips) {
                    member.connected = !member.connected;
                }
                let said = all.iter().zip(&ratios).map(|(m, ratio)| (m.pod_uid.as_str(), compared(*ratio, from))).collect();
                let slow = terms.judge(&all, &serving, &said, now);
                let of = |holds: &dyn Fn(&&Member) -> bool| -> BTreeSet<_> {
                    all.iter().filter(|m| serving.contains(&m.pod_uid)).filter(holds).map(|m| m.node.clone()).collect()
                };
                let (nodes, there, away) =
                    (of(&|_| true), of(&|m| m.connected), of(&|m| slow.contains_key(&m.pod_uid)));
                prop_assert!(away.len() * 3 <= nodes.len(), "{away:?} of {nodes:?}");
                if !away.is_empty() {
                    prop_assert!((away.len() + nodes.len() - there.len()) * 2 <= nodes.len(), "{away:?}, {there:?}");
                }
                for uid in slow.keys() {
                    prop_assert!(serving.contains(uid) && terms.is_slow(uid));
                    prop_assert!(all.iter().any(|m| m.pod_uid == *uid && m.connected));
                }
            }
        }
    }
}
