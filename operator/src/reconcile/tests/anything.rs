//! Whatever happens, in whatever order: what serves is never taken off line, and no generation goes back.

use proptest::prelude::*;

use super::*;

/// Things that happen.
#[derive(Clone, Debug)]
enum Happening {
    Connect(usize),
    Disconnect(usize, u64),
    Pod(usize, bool),
    Slow(usize, bool),
    Load(usize),
    Scale(i32),
    Taint(bool),
    Secret(bool),
    Build(u8),
    TakeOver,
}

fn happening() -> impl Strategy<Value = Happening> {
    let shim = 0..3usize;
    prop_oneof![
        shim.clone().prop_map(Happening::Connect),
        (shim.clone(), 0..30u64).prop_map(|(s, t)| Happening::Disconnect(s, t)),
        (shim.clone(), any::<bool>()).prop_map(|(s, r)| Happening::Pod(s, r)),
        (shim.clone(), any::<bool>()).prop_map(|(s, slow)| Happening::Slow(s, slow)),
        shim.prop_map(Happening::Load),
        (0..6i32).prop_map(Happening::Scale),
        any::<bool>().prop_map(Happening::Taint),
        any::<bool>().prop_map(Happening::Secret),
        (0..4u8).prop_map(Happening::Build),
        Just(Happening::TakeOver),
    ]
}

proptest! {
    #[test]
    fn whatever_happens(happenings in proptest::collection::vec(happening(), 1..60)) {
        let mut world = World::new(&["a", "b", "c"], 2);
        world.service.spec.revision.env = from_secret(true);
        // What each shim really has: an operator that takes over learns it from Hello.
        let mut has: [Option<u64>; 3] = [None; 3];
        let mut highest = 0;
        for happening in happenings {
            match happening {
                Happening::Connect(i) => {
                    let shim = &mut world.shims[i];
                    (shim.connected, shim.matches, shim.silent, shim.serves) = (true, true, Duration::ZERO, has[i]);
                }
                Happening::Disconnect(i, seconds) => {
                    let shim = &mut world.shims[i];
                    (shim.connected, shim.silent) = (false, Duration::from_secs(seconds));
                }
                Happening::Pod(i, ready) => world.shims[i].pod_ready = ready,
                Happening::Slow(i, slow) => world.shims[i].slow = slow,
                Happening::Load(i) => {
                    let shim = &mut world.shims[i];
                    let told = world.assigned.as_ref().filter(|a| a.budgets.contains_key(&shim.pod_uid));
                    if let Some(told) = told.filter(|_| shim.connected) {
                        prop_assert!(Some(told.generation) >= has[i], "an older generation would be refused");
                        has[i] = Some(told.generation);
                        shim.serves = has[i];
                    }
                }
                Happening::Scale(replicas) => world.change(|s| s.spec.replicas = Some(replicas)),
                Happening::Build(0) => world.build = rejected(Reason::ImportDenied, false),
                Happening::Build(1) => world.build = BuildState::Pending(Phase::Compiling { seconds: None }),
                Happening::Build(n) => world.build = built(&n.to_string()),
                Happening::TakeOver => world.take_over(),
                Happening::Taint(tainted) => {
                    let taint = Taint { key: "k".into(), value: String::new(), effect: "NoSchedule".into() };
                    world.nodes.entry("a".into()).or_default().taints = if tainted { vec![taint] } else { vec![] };
                }
                Happening::Secret(there) => {
                    world.found = secret(there.then_some("v"));
                }
            }
            let served = world.slices.contains_key(SLICE) && world.endpoints().iter().any(|e| e.ends_with('+'));
            world.turn().expect("planned");
            if let Some(record) = recorded(world.slice()) {
                prop_assert!(record.generation >= highest);
                highest = record.generation;
                let total: u32 = record.nodes.values().map(|n| n.replicas).sum();
                prop_assert!(!record.nodes.is_empty());
                let asked = world.service.spec.fixed_replicas().expect("replicas");
                // Where nobody can be told, the record stays as it was.
                let told = Some(record.service_generation) == world.service.metadata.generation;
                prop_assert!(!told || total == 0 || asked > 0, "{total} of {asked}");
                prop_assert!(record.nodes.values().all(|n| n.budget == n.replicas * 100));
            }
            for (shim, has) in world.shims.iter().zip(has) {
                let sign = world.endpoints().iter().find_map(|e| e.strip_prefix(&shim.node).map(str::to_owned));
                prop_assert!(sign.as_deref() != Some("+") || has.is_some(), "{shim:?} has nothing to serve");
            }
            // Fail static: no pod has gone in this world, so what serves is never taken off line.
            prop_assert!(!served || world.endpoints().iter().any(|e| e.ends_with('+')), "{:?}", world.endpoints());
        }
    }
}
