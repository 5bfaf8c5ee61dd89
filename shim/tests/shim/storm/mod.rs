//! Guests that misbehave in every way that a component can, against the real shim, beside a neighbour that does nothing
//! wrong and is asked all the time. Each case says itself what the guest gets; here it is said what everybody else does:
//! nobody is lost, hardly anybody waits, and when it is over the same process serves, with the memory and the descriptors
//! that it had. docs/adversarial.md has the table.

mod answers;
mod calls;
pub(crate) mod neighbour;
mod resources;
mod soak;
mod stage;
mod upstream;
mod work;

use self::stage::{Holding, Stage};

/// Requests by which the neighbour is measured before and after.
const CALM: usize = 250;
/// What may be more afterwards: slots of instances stay warm, allocators keep pages. That it does not grow is what the
/// soak is for.
const KEPT: Holding = Holding { resident: 128 << 20, descriptors: 16 };

/// Plays one case.
async fn play(name: &str, case: impl AsyncFnOnce(&Stage)) {
    let stage = Stage::open().await;
    let (before, held) = (stage.neighbour.stretch_of(CALM).await, stage.holds().await);
    case(&stage).await;
    stage.still().await;
    let during = stage.neighbour.stretch();
    let after = stage.neighbour.stretch_of(CALM).await;
    let most = Holding { resident: held.resident + KEPT.resident, descriptors: held.descriptors + KEPT.descriptors };
    let holds = stage.holds_within(most).await;
    eprintln!("{name}: the shim held {held}; afterwards {holds}");
    eprintln!("  the neighbour before: {before}\n  during: {during}\n  after: {after}");
    for now in [during, after] {
        now.assert_undisturbed(&before);
    }
    assert!(holds.is_within(most), "it held {held}; afterwards {holds}");
}

macro_rules! cases {
    ($($name:ident: $case:path;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                play(stringify!($name), $case).await;
            }
        )*

        /// Plays all of them on one stage.
        async fn play_all(stage: &Stage) {
            $(
                $case(stage).await;
                stage.still().await;
            )*
        }
    };
}

cases! {
    a_hundred_loops_without_end: work::loops;
    the_longest_instructions_there_are: work::bulk;
    everything_grown_to_its_limit: resources::growth;
    all_the_parts_of_the_pool: resources::parts;
    ten_million_lines: calls::lines;
    ten_thousand_connections: calls::connections;
    ten_thousand_traps: calls::traps;
    floods_of_calls: calls::floods;
    answers_without_end: answers::endless;
    no_answer_at_all: answers::silence;
    heads_that_are_too_large: answers::heads;
}
