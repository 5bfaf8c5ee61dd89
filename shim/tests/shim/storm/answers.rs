//! Cases of answers: none, too large a head, no end.

use std::{net::Ipv4Addr, time::Duration};

use futures::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::stage::Stage;
use crate::operator::PATIENCE;

/// Memory that answers under way may take: those who do not read hold up who writes.
const UNDER_WAY: u64 = 64 << 20;

/// Answers without end, to clients that read all of it and to clients that read nothing: they are cut off, and no client
/// takes one for whole.
pub(crate) async fn endless(stage: &Stage) {
    let before = stage.holds().await.resident;
    let silent = join_all((0..32).map(|_| ask(stage.storm, "/endless"))).await;
    let reading = join_all((0..4).map(|_| read(stage.storm, "/endless")));
    let mut most = 0;
    let watching = async {
        loop {
            most = stage.holds().await.resident.max(most);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let answers = tokio::select! {
        answers = reading => answers,
        () = watching => unreachable!("it watches for ever"),
    };
    drop(silent);
    let bytes: usize = answers.iter().map(|answer| answer.length).sum();
    eprintln!("  {} MiB were read, {} MiB more resident meanwhile", bytes >> 20, most.saturating_sub(before) >> 20);
    for answer in answers {
        assert!(answer.head.starts_with("HTTP/1.1 200") && !answer.whole, "{answer:?}");
    }
    assert!(most <= before + UNDER_WAY, "{before} bytes, then {most}");
}

/// No answer: ever, after all, or after its head.
pub(crate) async fn silence(stage: &Stage) {
    let (silent, nothing, mute) = tokio::join!(
        stage.all_ask(40, "/silent"),
        stage.all_ask(40, "/nothing"),
        join_all((0..40).map(|_| read(stage.storm, "/mute")))
    );
    assert!(silent.iter().all(|answer| answer.status == 504), "{silent:?}");
    assert!(nothing.iter().all(|answer| answer.status == 502), "{nothing:?}");
    for answer in mute {
        assert!(answer.head.starts_with("HTTP/1.1 200") && !answer.whole, "{answer:?}");
    }
}

/// Heads with too many headers, and with too large ones, are none; the largest that may be comes through.
pub(crate) async fn heads(stage: &Stage) {
    for round in 0..40 {
        for (path, status) in [
            ("/headers?count=10000&bytes=1", 500),
            ("/headers?count=1&bytes=1048576", 500),
            ("/headers?count=700&bytes=1", 200),
        ] {
            for answer in join_all((0..8).map(|_| read(stage.storm, path))).await {
                assert!(answer.head.starts_with(&format!("HTTP/1.1 {status}")), "{round}: {path}: {}", answer.head);
                assert!(answer.whole, "{round}: {path}: {answer:?}");
            }
        }
    }
}

/// What came of an answer.
#[derive(Debug)]
struct Read {
    head: String,
    length: usize,
    /// It has the end that it should have.
    whole: bool,
}

async fn ask(port: u16, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("connected");
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("written");
    stream
}

/// Reads all that comes, however it ends.
async fn read(port: u16, path: &str) -> Read {
    let mut stream = ask(port, path).await;
    let (mut start, mut end, mut length) = (vec![], vec![], 0);
    let mut piece = vec![0; 64 << 10];
    // A reset is as good as an end without the last chunk.
    while let Ok(more @ 1..) = timeout(PATIENCE, stream.read(&mut piece)).await.expect("it ends") {
        length += more;
        let kept = (128usize << 10).saturating_sub(start.len()).min(more);
        start.extend_from_slice(&piece[..kept]);
        end.extend_from_slice(&piece[..more]);
        end.drain(..end.len().saturating_sub(5));
    }
    let start = String::from_utf8_lossy(&start);
    let (head, body) = start.split_once("\r\n\r\n").unwrap_or((&start, ""));
    let sized = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let whole = sized.map_or(end == b"0\r\n\r\n", |size: usize| body.len() == size);
    Read { head: head.to_owned(), length, whole }
}
