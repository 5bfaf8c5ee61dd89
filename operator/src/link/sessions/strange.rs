//! Shims that say anything: whatever one of them says, the others are told what they would have been told, and nobody
//! gets code that is not assigned to it.

use podless_link::v1;
use proptest::{collection::vec, prelude::*};

use super::tests::{assigned, drain, hello, open, sessions};
use super::*;

/// What a shim may say once it has said Hello.
#[derive(Clone, Debug)]
enum Said {
    Ack(v1::Ack),
    Report(v1::Report),
    Load(v1::Load),
    Answer(v1::ProbeResult),
}

/// Services that are its own, others' or nobody's.
fn service() -> impl Strategy<Value = String> {
    prop_oneof![Just("its own".to_owned()), Just("another's".to_owned()), Just("dead".to_owned()), any::<String>()]
}

fn said() -> impl Strategy<Value = Said> {
    let ack = (service(), any::<u64>(), 0..4).prop_map(|(service_uid, generation, which)| {
        let outcome = match which {
            0 => Some(v1::ack::Outcome::Loaded(v1::Loaded {})),
            1 => Some(v1::ack::Outcome::Withdrawn(v1::Withdrawn {})),
            2 => Some(v1::ack::Outcome::Failed(v1::Failed { reason: service_uid.clone(), message: "x".repeat(5000) })),
            _ => None,
        };
        Said::Ack(v1::Ack { service_uid, generation, outcome })
    });
    let report = (service(), any::<u64>(), any::<u32>(), vec((any::<u32>(), any::<u64>()), 0..4)).prop_map(
        |(service_uid, number, small, counts)| {
            let histogram = Some(v1::Histogram { counts: counts.into_iter().collect() });
            let phases = Some(v1::Phases { fetch: histogram.clone(), first_byte: histogram, ..Default::default() });
            let service = v1::ServiceReport {
                service_uid,
                generation: number,
                resident_bytes: number,
                live_instances: small,
                requests: number,
                phases,
                ..Default::default()
            };
            Said::Report(v1::Report { services: vec![service.clone(), service], ..Default::default() })
        },
    );
    let load = (service(), any::<u64>(), any::<u32>()).prop_map(|(service_uid, number, small)| {
        let pace = Some(v1::Pace { waiting: small, answered: number, weights: number });
        let service = v1::ServiceLoad {
            service_uid,
            in_flight: small,
            requests: number,
            busy_micros: number,
            at_micros: number,
            cpu_micros: number,
            pace,
        };
        Said::Load(v1::Load { services: vec![service.clone(), service] })
    });
    let answer = (any::<u64>(), any::<bool>());
    let answer = answer.prop_map(|(id, reachable)| Said::Answer(v1::ProbeResult { id, reachable }));
    prop_oneof![3 => ack, 1 => report, 1 => load, 1 => answer]
}

/// What the honest shim is told while the other one says all this; it says that it has loaded what it is told.
fn told(fingerprint: &str, known: &[(String, u64)], says: &[Said]) -> Vec<String> {
    let mut sessions = sessions();
    sessions.assign(assigned("its own", 1, &["strange"]));
    sessions.assign(assigned("another's", 1, &["honest"]));
    let known: Vec<_> = known.iter().map(|(service, generation)| (service.as_str(), *generation)).collect();
    let all = ["its own", "another's"];
    let strange = open(&mut sessions, "strange", hello(fingerprint, &known), &all);
    let honest = open(&mut sessions, "honest", hello("f", &[]), &all);
    let mut told = drain(&mut sessions, &honest);
    for (at, said) in says.iter().cloned().enumerate() {
        match said {
            Said::Ack(ack) => drop(sessions.ack(&strange, ack, Instant::now())),
            Said::Report(report) => sessions.report(&strange, report),
            Said::Load(mut load) => {
                sessions.believe(&strange, &mut load);
                sessions.paced(&strange, &load, Instant::now());
            }
            Said::Answer(answer) => sessions.answered(&strange, answer),
        }
        if at == says.len() / 2 {
            sessions.assign(assigned("another's", 2, &["honest"]));
        }
        drain(&mut sessions, &strange);
        told.extend(drain(&mut sessions, &honest));
        assert!(sessions.code_for("strange", "code of another's").is_none());
        assert!(sessions.code_for("honest", "code of another's").is_some());
    }
    told
}

proptest! {
    #[test]
    fn fuzz_of_what_a_shim_says(
        fingerprint in prop_oneof![Just("f".to_owned()), any::<String>()],
        known in vec((service(), any::<u64>()), 0..4),
        says in vec(said(), 1..12),
    ) {
        let silent = vec![Said::Answer(v1::ProbeResult::default()); says.len()];
        prop_assert_eq!(told(&fingerprint, &known, &says), told("f", &[], &silent));
    }
}
