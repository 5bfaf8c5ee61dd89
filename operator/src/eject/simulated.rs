//! Clusters under load that nobody serves: shims that count as real ones would, the rounds that look at them, and who is
//! slow at the end.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use podless_link::{pace::weight, v1};
use proptest::prelude::*;

use super::{
    outlier::{Measured, compare},
    pace::{Look, Pace},
    slow::ROUND,
    term::Terms,
    verdict::Member,
};

/// How often a shim says what it has counted.
const CADENCE: Duration = Duration::from_millis(200);

/// A generator of numbers that look random: splitmix64.
struct Dice(u64);

impl Dice {
    /// Between 0 and 1, neither included.
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64 + f64::EPSILON
    }

    /// A time with a heavy tail, of this many milliseconds at least: one in a hundred is 22 times that, one in ten thousand
    /// 460 times.
    fn time(&mut self, least: f64) -> Duration {
        Duration::from_secs_f64(least / 1e3 * self.roll().powf(-1.0 / 1.5))
    }
}

/// A shim, and what it has counted by service.
#[derive(Clone)]
struct Counts {
    /// How many times slower it is.
    slower: f64,
    /// Its part of the requests: 1 is all of what the service has on each node.
    part: f64,
    /// Requests that have begun, and how they were answered.
    services: Vec<(u64, v1::Pace)>,
}

/// A shim of each node, and services that are on all of them.
struct Cluster {
    dice: Dice,
    members: Vec<Member>,
    counts: Vec<Counts>,
    paces: Vec<Pace>,
    terms: Terms,
    /// Requests a second to each node, and the least milliseconds that they take, by service.
    services: Vec<(f64, f64)>,
    start: Instant,
    now: Instant,
    round: Instant,
}

impl Cluster {
    fn new(nodes: usize, services: &[(f64, f64)], seed: u64) -> Self {
        let start = Instant::now();
        let member = |i: usize| Member {
            pod_uid: format!("p{i}"),
            node: format!("n{i}"),
            ip: "10.0.0.1".into(),
            connected: true,
            met: true,
            silent_since: start,
            ejected: false,
        };
        Self {
            dice: Dice(seed),
            members: (0..nodes).map(member).collect(),
            counts: vec![
                Counts { slower: 1.0, part: 1.0, services: vec![(0, v1::Pace::default()); services.len()] };
                nodes
            ],
            paces: (0..nodes).map(|_| Pace::default()).collect(),
            terms: Terms::default(),
            services: services.to_vec(),
            start,
            now: start,
            round: start,
        }
    }

    /// The parts of the nodes.
    fn parts(mut self, parts: &[f64]) -> Self {
        self.counts.iter_mut().zip(parts).for_each(|(counts, part)| counts.part = *part);
        self
    }

    /// Every node becomes so many times slower than at first.
    fn all_are(&mut self, slower: f64) {
        self.counts.iter_mut().for_each(|counts| counts.slower = slower);
    }

    /// So many clients more wait for news, on each node.
    fn wait(&mut self, clients: &[u32]) {
        for (counts, clients) in self.counts.iter_mut().zip(clients) {
            for (begun, said) in &mut counts.services {
                *begun += u64::from(*clients);
                said.waiting += *clients;
            }
        }
    }

    fn seconds(&self) -> f64 {
        (self.now - self.start).as_secs_f64()
    }

    /// A fifth of a second: requests, what the shims say, and perhaps a round; then who is slow.
    fn step(&mut self) -> Option<BTreeSet<String>> {
        self.now += CADENCE;
        for (node, (pace, counts)) in self.paces.iter_mut().zip(&mut self.counts).enumerate() {
            let Counts { slower, part, services } = counts;
            for (index, ((begun, said), (rate, least))) in services.iter_mut().zip(&self.services).enumerate() {
                let mean = rate * *part * CADENCE.as_secs_f64();
                let requests = mean as u64 + u64::from(self.dice.roll() < mean.fract());
                *begun += requests;
                if slower.is_infinite() {
                    said.waiting += requests as u32;
                } else {
                    said.answered += requests;
                    said.weights += (0..requests).map(|_| weight(self.dice.time(least * *slower))).sum::<u64>();
                }
                // Their windows do not begin at the same time.
                if self.now - self.start > CADENCE * 3 * node as u32 {
                    pace.told(&index.to_string(), 1, Look { begun: *begun, said: *said, at: self.now });
                }
            }
        }
        if self.now - self.round < ROUND {
            return None;
        }
        let windows = self.members.iter().zip(&mut self.paces);
        let mut measured: Vec<_> =
            windows.map(|(m, pace)| Measured { pod_uid: m.pod_uid.clone(), windows: pace.windows(self.now) }).collect();
        measured.retain(|shim| !self.terms.is_slow(&shim.pod_uid));
        let serving: HashSet<_> = self.members.iter().map(|m| m.pod_uid.clone()).collect();
        let compared: HashMap<_, _> = compare(&measured, self.round);
        self.round = self.now;
        Some(self.terms.judge(&self.members, &serving, &compared, self.now).into_keys().collect())
    }

    /// Seconds until a round finds just these shims slow; within two minutes.
    fn until(&mut self, slow: &[&str]) -> f64 {
        let (begin, wanted) = (self.seconds(), slow.iter().map(|s| (*s).to_owned()).collect::<BTreeSet<_>>());
        while self.seconds() - begin < 120.0 {
            if let Some(found) = self.step()
                && found == wanted
            {
                return self.seconds() - begin;
            }
        }
        panic!("never {slow:?}");
    }

    /// Nobody is slow for so many seconds.
    fn is_quiet(&mut self, seconds: f64) {
        let begin = self.seconds();
        while self.seconds() - begin < seconds {
            let slow = self.step().unwrap_or_default();
            assert!(slow.is_empty(), "{slow:?} after {:.0} s", self.seconds());
        }
    }
}

#[test]
fn a_node_that_is_ten_times_slower_is_found_within_fifteen_seconds_and_is_back_when_it_is_not() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(3, &[(20.0, 4.0), (7.0, 20.0)], seed);
        cluster.is_quiet(20.0 + seed as f64 / 3.0);
        cluster.counts[1].slower = 10.0;
        let took = cluster.until(&["p1"]);
        assert!(took <= 15.0, "{took} s");
        let out = cluster.until(&[]);
        assert!((29.0..34.0).contains(&out), "{out} s");
        // It still is: longer.
        assert!(cluster.until(&["p1"]) <= 15.0);
        cluster.counts[1].slower = 1.0;
        let out = cluster.until(&[]);
        assert!((59.0..64.0).contains(&out), "{out} s");
        cluster.is_quiet(120.0);
    }
}

#[test]
fn a_cluster_that_is_slow_everywhere_loses_nobody() {
    for seed in 0..5 {
        let mut cluster = Cluster::new(4, &[(30.0, 5.0)], seed);
        cluster.is_quiet(20.0);
        cluster.all_are(20.0);
        cluster.is_quiet(120.0);
        cluster.all_are(1.0);
        cluster.is_quiet(60.0);
    }
}

#[test]
fn what_slows_all_of_them_down_for_a_while_condemns_none_however_the_load_is_spread() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(3, &[(40.0, 5.0)], seed).parts(&[1.0, 0.03, 0.03]);
        cluster.is_quiet(20.0 + seed as f64);
        for _ in 0..20 {
            cluster.all_are(20.0);
            cluster.is_quiet(15.0);
            cluster.all_are(1.0);
            cluster.is_quiet(10.0 + seed as f64 / 3.0);
        }
    }
}

#[test]
fn a_shim_that_answers_nothing_any_more_is_slow() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(3, &[(20.0, 4.0)], seed);
        cluster.is_quiet(20.0 + seed as f64 / 7.0);
        cluster.counts[2].slower = f64::INFINITY;
        let took = cluster.until(&["p2"]);
        assert!(took <= 15.0, "{took} s");
    }
}

#[test]
fn when_nothing_is_answered_anywhere_nobody_is_slow_however_many_come_to_whom() {
    for seed in 0..5 {
        let mut cluster = Cluster::new(4, &[(20.0, 4.0)], seed).parts(&[3.0, 1.0, 0.5, 0.2]);
        cluster.is_quiet(20.0);
        cluster.all_are(f64::INFINITY);
        cluster.is_quiet(120.0);
    }
}

#[test]
fn clients_that_wait_for_news_make_nobody_slow() {
    for seed in 0..5 {
        // All of them on a node that is asked for little else.
        let mut cluster = Cluster::new(3, &[(20.0, 4.0)], seed).parts(&[0.02, 1.0, 1.0]);
        cluster.wait(&[60, 0, 0]);
        cluster.is_quiet(300.0);
        // Everywhere; one node gets nothing else, but clients that come again before there is news.
        let mut cluster = Cluster::new(3, &[(20.0, 4.0)], seed).parts(&[0.0, 1.0, 1.0]);
        cluster.wait(&[20, 20, 20]);
        for _ in 0..100 {
            cluster.is_quiet(3.0);
            cluster.counts[0].services[0].0 += 20;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn nodes_that_are_alike_are_never_slow_whatever_the_load(
        nodes in 3..7usize,
        services in prop::collection::vec((1.0..40.0f64, 0.1..50.0f64), 1..4),
        parts in prop::collection::vec(0.1..2.0f64, 7),
        waiting in prop::collection::vec(0..30u32, 7),
        seed: u64,
    ) {
        let mut cluster = Cluster::new(nodes, &services, seed).parts(&parts);
        cluster.wait(&waiting);
        cluster.is_quiet(1000.0);
    }
}
