//! Turns for those who have computed for long: jobs of namespaces and the time that each took in, whose job is next out:
//! of the namespace that has had least. One that comes back after a pause has saved nothing up. Pure.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::Duration,
};

/// Jobs that wait, by the key of their namespace.
pub(crate) struct FairQueue<K, T> {
    lines: HashMap<K, Line<T>>,
    /// What the one had had whose job was taken last: who comes begins there.
    floor: Duration,
}

struct Line<T> {
    jobs: VecDeque<T>,
    /// Time that it has had, as far as it counts.
    had: Duration,
}

impl<K, T> Default for FairQueue<K, T> {
    fn default() -> Self {
        Self { lines: HashMap::new(), floor: Duration::ZERO }
    }
}

impl<K: Clone + Eq + Hash, T> FairQueue<K, T> {
    /// A job waits.
    pub(crate) fn push(&mut self, key: &K, job: T) {
        let floor = self.floor;
        let line = self.line(key);
        if line.jobs.is_empty() {
            line.had = line.had.max(floor);
        }
        line.jobs.push_back(job);
    }

    /// The job whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let next = self.lines.values_mut().filter(|line| !line.jobs.is_empty()).min_by_key(|line| line.had)?;
        self.floor = self.floor.max(next.had);
        next.jobs.pop_front()
    }

    /// A job took this long.
    pub(crate) fn charge(&mut self, key: &K, time: Duration) {
        let floor = self.floor;
        self.line(key).had += time;
        // Who has nothing to wait for, and owes nothing, is as one that never came; and when nobody waits, nobody owes.
        let waits = self.lines.values().any(|line| !line.jobs.is_empty());
        self.lines.retain(|_, line| !line.jobs.is_empty() || waits && line.had > floor);
    }

    fn line(&mut self, key: &K) -> &mut Line<T> {
        let floor = self.floor;
        self.lines.entry(key.clone()).or_insert_with(|| Line { jobs: VecDeque::new(), had: floor })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SLICE: Duration = Duration::from_millis(10);

    #[test]
    fn each_namespace_has_an_equal_part_however_many_jobs_it_has() {
        let mut queue = FairQueue::default();
        (0..100).for_each(|n| queue.push(&"loud", ("loud", n)));
        queue.push(&"quiet", ("quiet", 0));
        let mut quiet = 0;
        for _ in 0..100 {
            let job = queue.pop().expect("one waits");
            queue.charge(&job.0, SLICE);
            quiet += u32::from(job.0 == "quiet");
            queue.push(&job.0, job);
        }
        assert_eq!(quiet, 50);
    }

    #[test]
    fn a_pause_saves_nothing_up() {
        let mut queue = FairQueue::default();
        let run = |queue: &mut FairQueue<_, _>| {
            let key = queue.pop().expect("one waits");
            queue.charge(&key, SLICE);
            queue.push(&key, key);
            key
        };
        queue.push(&"busy", "busy");
        (0..1000).for_each(|_| assert_eq!(run(&mut queue), "busy"));
        queue.push(&"late", "late");
        let late = (0..100).filter(|_| run(&mut queue) == "late").count();
        assert!((50..=51).contains(&late), "{late}");
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let mut queue = FairQueue::default();
        for key in 0..1000 {
            queue.push(&key, key);
            let job = queue.pop().expect("it");
            queue.charge(&job, SLICE);
        }
        assert!(queue.lines.len() <= 2, "{}", queue.lines.len());
    }

    proptest! {
        /// Of those that always have a job, none has had more than a slice of the longest above another.
        #[test]
        fn parts_differ_by_no_more_than_a_slice(slices in prop::collection::vec(1..50u64, 2..300), keys in 2..6usize) {
            let mut queue = FairQueue::default();
            (0..keys).for_each(|key| queue.push(&key, key));
            let mut had = vec![0; keys];
            for slice in slices {
                let key = queue.pop().expect("one waits");
                queue.charge(&key, Duration::from_millis(slice));
                had[key] += slice;
                queue.push(&key, key);
                let (least, most) = (had.iter().min().expect("some"), had.iter().max().expect("some"));
                prop_assert!(most - least <= 50, "{had:?}");
            }
        }
    }
}
