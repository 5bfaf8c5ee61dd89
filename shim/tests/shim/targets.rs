//! Machine code for other machines: refused by its seal, and by the engine when the seal lies.

use podless_artifact::seal::HttpWorld;
use podless_engine::{Target, fingerprint};
use podless_link::v1::{Failed, ack::Outcome};

use crate::{
    client::get,
    operator::{HELLO, Operator},
    process::{Shim, free_port},
};

#[tokio::test]
async fn code_for_other_machines_never_runs() {
    let operator = Operator::start().await;
    let shim = Shim::start(&operator, &[]);
    shim.ready().await;
    let (arm, ours) = (Target::Aarch64, Target::default());
    let refused = async |uid: &str, sealed_for: Target, code_for: Target| {
        let code = HELLO.code_for(code_for);
        operator.assign(&operator.assignment_for(sealed_for, code, HttpWorld::P2, uid, free_port()));
        match operator.acked(uid, 1).await {
            Outcome::Failed(Failed { reason, message }) => (reason, message),
            other => panic!("{other:?}"),
        }
    };
    let (reason, message) = refused("sealed-for-arm", arm, arm).await;
    assert_eq!(reason, "target-mismatch");
    assert!(message.contains("is for aarch64, and this shim runs x86-64-v3"), "{message}");
    let (reason, message) = refused("lies", ours, arm).await;
    assert_eq!(reason, "load-failed", "{message}");
    // Nor code that would run here, but that another engine is meant to have.
    assert_eq!(refused("sealed-for-v2", Target::X86_64V2, Target::X86_64V2).await.0, "target-mismatch");
}

#[tokio::test]
async fn a_shim_that_is_asked_to_runs_what_older_machines_run() {
    let (operator, port) = (Operator::start().await, free_port());
    let shim = Shim::start(&operator, &["--target", "x86-64-v2"]);
    shim.ready().await;
    let old = Target::X86_64V2;
    let hello = operator.until("its first word", |said| said.hellos.first().cloned()).await;
    assert_eq!((hello.target.as_str(), hello.fingerprint), ("x86-64-v2", fingerprint(old)));
    operator.serve(&operator.assignment_for(old, HELLO.code_for(old), HttpWorld::P2, "a", port)).await;
    assert_eq!(get(port, "/").await.status, 200);
    operator.assign(&operator.assignment(HELLO, "newer", free_port()));
    let Outcome::Failed(Failed { reason, .. }) = operator.acked("newer", 1).await else { panic!("it was taken") };
    assert_eq!(reason, "target-mismatch");
}
