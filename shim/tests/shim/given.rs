//! An operator that has lost an artifact gets it back from the shim that runs it.

use podless_link::v1::{Given, Recall, to_shim};

use crate::{
    client::get,
    operator::{HELLO, NOTE, Operator},
    process::{Shim, free_port},
};

/// Asks for a component, and waits for the answer.
async fn recall(operator: &Operator, id: u64, component: &str) -> Given {
    operator.send(to_shim::Body::Recall(Recall { id, component: component.to_owned() }));
    operator.until("what it has", |said| said.given.iter().find(|given| given.id == id).cloned()).await
}

#[tokio::test]
async fn what_it_serves_it_gives_back_with_the_proof_of_where_it_came_from() {
    let (operator, port) = (Operator::start().await, free_port());
    let shim = Shim::start(&operator, &[]);
    let assignment = operator.assignment(HELLO, "a", port);
    operator.serve(&assignment).await;
    let component = operator.component_of(&assignment);

    let given = recall(&operator, 7, &component).await;
    assert_eq!(given.assign, Some(operator.sign(&assignment)), "as it was received");
    assert_eq!(given.note, NOTE);
    assert!(given.data == HELLO.code(), "other code");
    assert_eq!(recall(&operator, 8, "sha256:none").await, Given { id: 8, ..Given::default() });

    // Who serves is another process now, with what lies on the volume.
    shim.kill_serving().await;
    operator.until("hello again", |said| (said.hellos.len() > 1).then_some(())).await;
    let again = recall(&operator, 9, &component).await;
    assert_eq!((again.assign, again.note), (given.assign, given.note));
    assert!(again.data == given.data, "other code");
    assert_eq!(get(port, "/").await.status, 200);
}

#[tokio::test]
async fn a_note_that_was_made_again_takes_the_place_of_the_old_one() {
    let operator = Operator::start().await;
    let _shim = Shim::start(&operator, &[]);
    let old = operator.assignment(HELLO, "a", free_port());
    operator.serve(&old).await;
    // The same code, made by an operator with nothing in its cache, for another service.
    let note = b"what an operator without a cache knows of it";
    operator.knows(note);
    let new = operator.assignment(HELLO, "b", free_port());
    operator.serve(&new).await;
    let mut given = Given::default();
    for id in 1.. {
        given = recall(&operator, id, &operator.component_of(&new)).await;
        if given.note == note {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(given.assign, Some(operator.sign(&new)), "the assignment that names this note");
}
