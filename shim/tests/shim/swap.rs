//! Files that are exchanged on the shim's volume after they were verified: what runs is what was verified.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

use podless_link::v1::Assignment;

use crate::{
    client::{get, try_get},
    operator::{HELLO, Operator, PATIENCE, PROBE},
    process::{Shim, free_port},
};

const GREETING: &str = "Hello from Podless\n";

fn artifact(shim: &Shim, hash: &str) -> PathBuf {
    shim.data_dir.join("artifacts").join(format!("{hash}.cwasm"))
}

/// Puts another's code in the place of a file, as a whole: a new inode under the old name, closed to others as it was.
fn exchange(path: &Path, code: &[u8]) {
    // Not beside it: the shim removes what does not belong there.
    let other = path.ancestors().nth(2).expect("the volume").join("other");
    fs::write(&other, code).expect("written");
    fs::set_permissions(&other, Permissions::from_mode(0o400)).expect("closed");
    fs::rename(other, path).expect("exchanged");
}

/// Waits until a service answers, and looks at what.
async fn greets(port: u16) {
    let answered = async {
        loop {
            if let Ok(answer) = try_get(port, "/").await
                && answer.status == 200
            {
                return answer.body;
            }
            tokio::task::yield_now().await;
        }
    };
    let body = tokio::time::timeout(PATIENCE, answered).await.expect("it answers");
    assert_eq!(body, GREETING);
}

#[tokio::test]
async fn what_runs_is_what_was_verified() {
    let (operator, port, second, parked) = (Operator::start().await, free_port(), free_port(), free_port());
    let shim = Shim::start(&operator, &[]);
    let assignment = operator.assignment(HELLO, "a", port);
    operator.serve(&assignment).await;
    // It has code of its own: nothing of it is mapped when it is asked for.
    let sleeps = Assignment { parked: true, ..operator.variant(HELLO, 1, "parked", parked) };
    operator.serve(&sleeps).await;
    let evil = PROBE.code();
    for assignment in [&assignment, &sleeps] {
        exchange(&artifact(&shim, &operator.artifact_of(assignment)), &evil);
    }
    assert_eq!(get(port, "/").await.body, GREETING, "what is mapped stays");
    assert_eq!(get(parked, "/").await.body, GREETING, "what is mapped now is looked at");
    operator.serve(&operator.assignment(HELLO, "b", second)).await;
    assert_eq!(get(second, "/").await.body, GREETING, "another service of the same code");
    shim.kill_serving().await;
    for port in [port, second, parked] {
        greets(port).await;
    }
}

/// Somebody exchanges the file all the time, also between the look at it and its mapping.
#[tokio::test]
async fn an_exchange_at_any_moment_changes_nothing_that_runs() {
    const STARTS: usize = 12;
    let (operator, port) = (Operator::start().await, free_port());
    let shim = Shim::start(&operator, &[]);
    let assignment = operator.assignment(HELLO, "a", port);
    operator.serve(&assignment).await;
    let path = artifact(&shim, &operator.artifact_of(&assignment));
    let (good, evil) = (HELLO.code(), PROBE.code());
    let over = Arc::new(AtomicBool::new(false));
    let exchanging = thread::spawn({
        let over = over.clone();
        move || {
            while !over.load(Relaxed) {
                exchange(&path, &evil);
                exchange(&path, &good);
            }
        }
    });
    for _ in 0..STARTS {
        shim.kill_serving().await;
        greets(port).await;
    }
    over.store(true, Relaxed);
    exchanging.join().expect("it went on");
}
