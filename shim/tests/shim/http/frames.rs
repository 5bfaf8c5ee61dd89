//! HTTP/2 frame by frame: whatever somebody may send, in whatever order, and what comes back. IO: one connection.

use std::{net::Ipv4Addr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RESET: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

/// Flag of the last frame of a stream.
pub(super) const END_STREAM: u8 = 1;
/// Flag of the last frame of a head.
pub(super) const END_HEADERS: u8 = 4;

/// Reasons of a GOAWAY or a reset.
pub(super) const PROTOCOL_ERROR: u32 = 1;
pub(super) const FLOW_CONTROL_ERROR: u32 = 3;
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;

/// Setting: the window that streams begin with.
const INITIAL_WINDOW: u16 = 4;

/// What the shim sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// The reason of a GOAWAY or a reset.
    pub(super) fn reason(&self) -> Option<u32> {
        let at = match self.kind {
            RESET => 0,
            GOAWAY => 4,
            _ => return None,
        };
        Some(u32::from_be_bytes(self.payload.get(at..at + 4)?.try_into().expect("four")))
    }
}

/// One frame as bytes.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The head of a request, as HPACK has it without its table: a GET, or with other pseudo-headers first.
pub(super) fn get_head(path: &str) -> Vec<u8> {
    [&[0x82, 0x86][..], &literal_of(4, path), &literal_of(1, "test")].concat()
}

/// The same of a POST.
pub(super) fn post_head(path: &str) -> Vec<u8> {
    [&[0x83, 0x86][..], &literal_of(4, path), &literal_of(1, "test")].concat()
}

/// A header whose name is in the static table.
fn literal_of(index: u8, value: &str) -> Vec<u8> {
    [&[index][..], &string(value)].concat()
}

/// A header that is not to be remembered.
pub(super) fn literal(name: &str, value: &str) -> Vec<u8> {
    [&[0][..], &string(name), &string(value)].concat()
}

/// A header that is to be remembered: it is number 62 then.
pub(super) fn remembered(name: &str, value: &str) -> Vec<u8> {
    [&[0x40][..], &string(name), &string(value)].concat()
}

/// Header number 62.
pub(super) const LAST_REMEMBERED: u8 = 0x80 | 62;

fn string(text: &str) -> Vec<u8> {
    let mut bytes = vec![];
    match u8::try_from(text.len()) {
        Ok(length) if length < 127 => bytes.push(length),
        _ => {
            let mut rest = text.len() - 127;
            bytes.push(127);
            while rest >= 128 {
                bytes.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            bytes.push(rest as u8);
        }
    }
    bytes.extend(text.as_bytes());
    bytes
}

/// The side of a connection that is written to.
pub(super) struct Writer(OwnedWriteHalf);

impl Writer {
    /// Whether it could be written in good time.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> bool {
        timeout(Duration::from_secs(2), self.0.write_all(bytes)).await.is_ok_and(|written| written.is_ok())
    }
}

/// The side that is read from.
pub(super) struct Reader(OwnedReadHalf);

impl Reader {
    /// The next frame; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let number = |bytes: &[u8]| bytes.iter().fold(0u32, |number, byte| number << 8 | u32::from(*byte));
        let mut payload = vec![0; number(&head[..3]) as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind: head[3], flags: head[4], stream: number(&head[5..]), payload })
    }

    /// The first frame like this; `None` when the connection ends before.
    pub(super) async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        let reading = async {
            loop {
                let frame = self.next().await?;
                if wanted(&frame) {
                    return Some(frame);
                }
            }
        };
        timeout(Duration::from_secs(10), reading).await.expect("no such frame comes, nor does the connection end")
    }

    /// The first reason that is given for an end, of a stream or of the connection.
    pub(super) async fn reason(&mut self) -> Option<u32> {
        self.until(|frame| frame.reason().is_some()).await?.reason()
    }
}

/// Opens a connection whose streams may be sent so many bytes.
pub(super) async fn open(port: u16, window: u32) -> (Reader, Writer) {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("connected");
    let (reader, mut writer) = stream.into_split();
    let setting = [&INITIAL_WINDOW.to_be_bytes()[..], &window.to_be_bytes()].concat();
    let begin = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &setting)].concat();
    writer.write_all(&begin).await.expect("written");
    (Reader(reader), Writer(writer))
}
