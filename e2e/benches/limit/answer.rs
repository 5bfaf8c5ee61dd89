//! An answer of HTTP/1.1 as its bytes come in: pieces in, status and size out. Pure.
//!
//! No more of the protocol than the servers of this benchmark speak: a length or chunks, no trailers, and nothing that
//! was not asked for.

use anyhow::{Context, Result, bail};

/// An answer that is all there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) status: u16,
    /// Bytes of the body, those that frame chunks among them.
    pub(crate) body_bytes: u64,
}

/// An answer that is on its way.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    head: Vec<u8>,
    rest: Option<Rest>,
    status: u16,
    body_bytes: u64,
}

#[derive(Debug)]
enum Rest {
    /// So many bytes are still to come.
    Counted(u64),
    /// It ends with the last chunk: the end of what has come.
    Chunked(Vec<u8>),
}

/// What the last chunk is.
const END: &[u8] = b"0\r\n\r\n";

impl Answer {
    /// Takes what has come; when that was all, it is as new for the next answer.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<Option<Done>> {
        let body = if self.rest.is_some() {
            bytes
        } else {
            let before = self.head.len();
            self.head.extend_from_slice(bytes);
            let Some(end) = self.head.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
            (self.status, self.rest) = read(&self.head[..end])?;
            &bytes[(end + 4).saturating_sub(before)..]
        };
        self.body_bytes += body.len() as u64;
        let complete = match &mut self.rest {
            Some(Rest::Counted(left)) => {
                *left = left.checked_sub(body.len() as u64).context("more came than was said")?;
                *left == 0
            }
            Some(Rest::Chunked(tail)) => {
                tail.extend_from_slice(&body[body.len().saturating_sub(END.len())..]);
                tail.drain(..tail.len().saturating_sub(END.len()));
                tail == END
            }
            None => false,
        };
        if !complete {
            return Ok(None);
        }
        let done = Done { status: self.status, body_bytes: self.body_bytes };
        self.head.clear();
        (self.rest, self.body_bytes) = (None, 0);
        Ok(Some(done))
    }
}

/// Status and body of a head.
fn read(head: &[u8]) -> Result<(u16, Option<Rest>)> {
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let status = lines.next().and_then(|line| line.split(|byte| *byte == b' ').nth(1)).unwrap_or_default();
    let status = str::from_utf8(status)?.parse().context("a status")?;
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            return Ok((status, Some(Rest::Counted(str::from_utf8(value)?.parse()?))));
        }
        if name.eq_ignore_ascii_case(b"transfer-encoding") && value.eq_ignore_ascii_case(b"chunked") {
            return Ok((status, Some(Rest::Chunked(vec![]))));
        }
    }
    bail!("an answer that ends with its connection")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_however_it_is_cut() -> Result<()> {
        for (text, want) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nx: y\r\n\r\nabc", Done { status: 200, body_bytes: 3 }),
            ("HTTP/1.1 204 No\r\ncontent-length: 0\r\n\r\n", Done { status: 204, body_bytes: 0 }),
            (
                "HTTP/1.1 503 X\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
                Done { status: 503, body_bytes: 13 },
            ),
        ] {
            for size in 1..=text.len() {
                let mut answer = Answer::default();
                // Twice: the second begins anew.
                for _ in 0..2 {
                    let pieces = text.as_bytes().chunks(size);
                    let done: Vec<_> = pieces.map(|piece| answer.take(piece)).collect::<Result<_>>()?;
                    let (last, others) = done.split_last().context("a piece")?;
                    assert_eq!((*last, others.iter().flatten().count()), (Some(want), 0), "{text} by {size}");
                }
            }
        }
        assert!(Answer::default().take(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(Answer::default().take(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab").is_err());
        Ok(())
    }
}
