//! Volumes that are full, read-only, gone or damaged: noticed, mended or said, and nothing of it is ever run.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    time::Duration,
};

use podless_link::v1::{Failed, ack::Outcome};

use crate::{
    client::{get, try_get},
    operator::{HELLO, HELLO_P3, Operator, PATIENCE, PROBE},
    process::{Setup, Shim, free_port, may_mount},
};

/// Waits until a service answers.
async fn answers(port: u16) {
    let answered = async {
        while !try_get(port, "/").await.is_ok_and(|answer| answer.status == 200) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.unwrap_or_else(|_| panic!("port {port} never answered"));
}

async fn failed(operator: &Operator, uid: &str) -> Failed {
    match operator.acked(uid, 1).await {
        Outcome::Failed(failed) => failed,
        other => panic!("{other:?}"),
    }
}

fn tmpfs(volume: &str, size: &str) -> Option<String> {
    Some(format!("mount -t tmpfs -o size={size} tmpfs \"$0\"/{volume}"))
}

#[tokio::test]
async fn a_full_disk_is_said_and_serves_when_there_is_room() {
    if !may_mount("a full disk") {
        return;
    }
    let (operator, port) = (Operator::start().await, free_port());
    let shim = Shim::start_with(&operator, Setup { mounts: tmpfs("data", "64k"), ..Setup::default() });
    shim.ready().await;
    operator.assign(&operator.assignment(HELLO, "a", port));
    let Failed { reason, message } = failed(&operator, "a").await;
    assert_eq!(reason, "storage-failed");
    assert!(message.contains("shim.data.sizeLimit") && message.contains("No space left"), "{message}");
    assert!(try_get(port, "/").await.is_err());
    shim.mount("mount -o remount,size=64m \"$0\"/data");
    answers(port).await;
}

#[tokio::test]
async fn a_disk_that_cannot_be_written_serves_what_it_has() {
    if !may_mount("a read-only disk") {
        return;
    }
    let (operator, old, new) = (Operator::start().await, free_port(), free_port());
    let shim = Shim::start_with(&operator, Setup { mounts: tmpfs("data", "64m"), ..Setup::default() });
    operator.serve(&operator.assignment(HELLO, "old", old)).await;
    shim.mount("mount -o remount,ro \"$0\"/data");
    operator.assign(&operator.assignment(PROBE, "new", new));
    let Failed { reason, message } = failed(&operator, "new").await;
    assert_eq!(reason, "storage-failed");
    assert!(message.contains("Read-only"), "{message}");
    assert_eq!(get(old, "/").await.status, 200);
    shim.kill_serving().await;
    assert_eq!(get(old, "/").await.status, 200, "a restart serves it from there");
    shim.mount("mount -o remount,rw \"$0\"/data");
    answers(new).await;
}

#[tokio::test]
async fn an_assignment_that_cannot_be_kept_serves_and_is_kept_later() {
    if !may_mount("a full volume of assignments") {
        return;
    }
    let (mut operator, port) = (Operator::start().await, free_port());
    let shim = Shim::start_with(&operator, Setup { mounts: tmpfs("state", "64k"), ..Setup::default() });
    shim.ready().await;
    shim.mount("head -c 60k /dev/zero > \"$0\"/state/filler || true; cat /dev/zero >> \"$0\"/state/filler || true");
    operator.serve(&operator.assignment(HELLO, "a", port)).await;
    assert_eq!(get(port, "/").await.status, 200);
    shim.until_admin("/metrics", |_, text| text.contains("podless_shim_services_unkept 1")).await;
    shim.mount("rm \"$0\"/state/filler; mount -o remount,ro \"$0\"/state");
    let still = free_port();
    operator.serve(&operator.assignment(PROBE, "b", still)).await;
    shim.until_admin("/metrics", |_, text| text.contains("podless_shim_services_unkept 2")).await;
    shim.mount("mount -o remount,rw \"$0\"/state");
    shim.until_admin("/metrics", |_, text| text.contains("podless_shim_services_unkept 0")).await;
    operator.stop().await;
    shim.kill_serving().await;
    assert_eq!((get(port, "/").await.status, get(still, "/").await.status), (200, 200));
}

#[tokio::test]
async fn every_kind_of_damage_is_fetched_again() {
    let operator = Operator::start().await;
    let mut shim = Shim::start(&operator, &[]);
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("opened");
    type Damage<'a> = (&'a str, &'a dyn Fn(&Path));
    let damages: [Damage<'_>; 8] = [
        ("whole", &|_| {}),
        ("open to all", &|path| fs::set_permissions(path, fs::Permissions::from_mode(0o666)).expect("opened")),
        ("empty", &|path| {
            open(path);
            fs::write(path, b"").expect("written");
        }),
        ("torn", &|path| {
            open(path);
            let length = fs::metadata(path).expect("there").len();
            fs::File::options().write(true).open(path).and_then(|file| file.set_len(length / 2)).expect("cut");
        }),
        ("longer", &|path| {
            open(path);
            let mut bytes = fs::read(path).expect("read");
            bytes.push(0);
            fs::write(path, bytes).expect("written");
        }),
        ("flipped", &|path| {
            open(path);
            let mut bytes = fs::read(path).expect("read");
            let last = bytes.len() - 1;
            bytes[last] ^= 0x80;
            fs::write(path, bytes).expect("written");
        }),
        ("removed", &|path| fs::remove_file(path).expect("removed")),
        ("another's", &|path| {
            // Who is not root cannot give it away: removed is as good.
            if chown(path, Some(12_345), None).is_err() {
                fs::remove_file(path).expect("removed");
            }
        }),
    ];
    let mut services = vec![];
    for (n, (name, damage)) in damages.iter().enumerate() {
        let port = free_port();
        let assignment = operator.variant(HELLO, n, &format!("uid-{n}"), port);
        operator.serve(&assignment).await;
        services.push((name, damage, port, operator.artifact_of(&assignment)));
    }
    let before = operator.until("fetches", |said| Some(said.fetches)).await;
    shim.kill();
    for (_, damage, _, hash) in &services {
        damage(&shim.data_dir.join("artifacts").join(format!("{hash}.cwasm")));
    }
    shim.restart();
    for (name, _, port, hash) in &services {
        answers(*port).await;
        let path = shim.data_dir.join("artifacts").join(format!("{hash}.cwasm"));
        assert_eq!(fs::metadata(path).expect("there").permissions().mode() & 0o777, 0o400, "{name}");
    }
    let fetched = operator.until("fetches", |said| Some(said.fetches)).await - before;
    assert_eq!(fetched, damages.len() - 2, "what was whole was not fetched");
}

#[tokio::test]
async fn what_was_deleted_while_it_could_not_be_served_again_stays_gone() {
    let mut operator = Operator::start().await;
    let shim = Shim::start(&operator, &[]);
    let (gone, stays, next) = (free_port(), free_port(), free_port());
    let deleted = operator.assignment(HELLO, "gone", gone);
    operator.serve(&deleted).await;
    operator.serve(&operator.assignment(PROBE, "stays", stays)).await;
    operator.stop().await;
    operator.withdraw("gone", 1, Duration::ZERO);
    let artifact = format!("{}.cwasm", operator.artifact_of(&deleted));
    fs::remove_file(shim.data_dir.join("artifacts").join(artifact)).expect("it lay there");
    shim.kill_serving().await;
    answers(stays).await;
    shim.ready().await;
    // Linked, it can be fetched again: that takes until the operator has said everything.
    let held = operator.hold_artifacts().await;
    operator.listen().await;
    operator.until("a second hello", |said| (said.hellos.len() >= 2).then_some(())).await;
    operator.serve(&operator.assignment(PROBE, "next", next)).await;
    drop(held);
    let kept = |uid: &str| shim.state_dir.join(format!("{uid}.assignment")).exists();
    shim.until_admin("/healthz", |_, _| !kept("gone")).await;
    assert!(try_get(gone, "/").await.is_err(), "nobody is to answer for it");
    assert!(kept("stays"));
    assert_eq!((get(stays, "/").await.status, get(next, "/").await.status), (200, 200));
}

#[tokio::test]
async fn what_is_cut_short_under_it_ends_the_process_and_not_the_service() {
    let (operator, port, other) = (Operator::start().await, free_port(), free_port());
    let shim = Shim::start(&operator, &[]);
    let assignment = operator.assignment(HELLO, "a", port);
    operator.serve(&assignment).await;
    operator.serve(&operator.assignment(HELLO_P3, "b", other)).await;
    let serving = shim.serving().await;
    let path = shim.data_dir.join("artifacts").join(format!("{}.cwasm", operator.artifact_of(&assignment)));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("opened");
    fs::File::options().write(true).open(&path).and_then(|file| file.set_len(0)).expect("cut");
    answers(port).await;
    answers(other).await;
    assert_ne!(shim.serving().await, serving, "the process that had mapped it cannot have answered");
}

#[tokio::test]
async fn the_folder_of_artifacts_may_go_under_it() {
    let (operator, port, other) = (Operator::start().await, free_port(), free_port());
    let shim = Shim::start(&operator, &[]);
    operator.serve(&operator.assignment(HELLO, "a", port)).await;
    fs::remove_dir_all(shim.data_dir.join("artifacts")).expect("removed");
    fs::remove_dir_all(&shim.state_dir).expect("removed");
    assert_eq!(get(port, "/").await.status, 200, "what is mapped stays");
    operator.serve(&operator.assignment(PROBE, "b", other)).await;
    shim.kill_serving().await;
    answers(other).await;
    answers(port).await;
}

#[tokio::test]
async fn damaged_assignments_are_sent_again() {
    let mut operator = Operator::start().await;
    let shim = Shim::start(&operator, &[]);
    let mut ports = vec![];
    for n in 0..4 {
        let port = free_port();
        operator.serve(&operator.assignment(HELLO, &format!("uid-{n}"), port)).await;
        ports.push(port);
    }
    operator.stop().await;
    let file = |n: usize| shim.state_dir.join(format!("uid-{n}.assignment"));
    let whole = fs::read(file(1)).expect("kept");
    fs::write(file(1), &whole[..whole.len() / 2]).expect("torn");
    fs::write(file(2), b"").expect("emptied");
    // The right assignment of another service under this one's name.
    fs::copy(file(0), file(3)).expect("copied");
    shim.kill_serving().await;
    answers(ports[0]).await;
    shim.ready().await;
    for port in &ports[1..] {
        assert!(try_get(*port, "/").await.is_err(), "without an operator there is nothing to serve");
    }
    operator.listen().await;
    for port in ports {
        answers(port).await;
    }
}
