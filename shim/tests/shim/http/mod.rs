//! HTTP as strangers send it, byte by byte: what is no request, what is one and another at once, floods of frames, clients
//! that are slow, and bodies that stream both ways.

mod connections;
mod floods;
mod frames;
mod readers;
mod smuggling;
mod streams;

use std::{net::Ipv4Addr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::operator::PATIENCE;

/// What comes back on a connection until it ends.
struct Exchange {
    text: String,
}

impl Exchange {
    /// Status codes, one for each answer.
    fn statuses(&self) -> Vec<u16> {
        let heads = self.text.split("HTTP/1.").skip(1);
        heads.filter_map(|head| head.get(2..5)?.parse().ok()).collect()
    }

    /// Values of a header in all answers.
    fn headers(&self, name: &str) -> Vec<&str> {
        let lines = self.text.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }
}

/// Sends these bytes on a connection of their own, and reads until it ends.
async fn exchange(port: u16, bytes: &[u8]) -> Exchange {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("connected");
    // The shim may have closed before it has everything.
    let _ = stream.write_all(bytes).await;
    Exchange { text: rest(&mut stream).await }
}

/// What still comes on a connection until it ends, by a reset as well.
async fn rest(stream: &mut TcpStream) -> String {
    let mut all = vec![];
    let reading = async { while stream.read_buf(&mut all).await.is_ok_and(|length| length > 0) {} };
    timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("it stays open: {}", String::from_utf8_lossy(&all)));
    String::from_utf8_lossy(&all).into_owned()
}

/// Reads until what came ends like this.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut all = vec![];
    let reading = async {
        while !all.ends_with(end.as_bytes()) {
            assert!(
                stream.read_buf(&mut all).await.expect("read") > 0,
                "closed after {}",
                String::from_utf8_lossy(&all)
            );
        }
    };
    let read = timeout(Duration::from_secs(10), reading).await;
    assert!(read.is_ok(), "no {end:?} in {:?}", String::from_utf8_lossy(&all));
    String::from_utf8_lossy(&all).into_owned()
}
