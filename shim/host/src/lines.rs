//! Bytes in any pieces in, whole lines out, each capped. Pure.

/// Longest line that is kept, in bytes; the rest of it is left out.
pub(crate) const MAX_LINE: usize = 16 << 10;

/// Cuts a stream of bytes into lines.
#[derive(Default)]
pub(crate) struct LineCutter {
    line: Vec<u8>,
    truncated: bool,
}

impl LineCutter {
    /// Takes bytes and gives every line that they end, with whether it was cut short.
    pub(crate) fn push(&mut self, bytes: &[u8], mut emit: impl FnMut(&str, bool)) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, ended) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            let room = MAX_LINE - self.line.len();
            self.truncated |= text.len() > room;
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if ended {
                self.finish(&mut emit, true);
            }
        }
    }

    /// Gives what is left when the stream ends without a line's end.
    pub(crate) fn end(&mut self, mut emit: impl FnMut(&str, bool)) {
        self.finish(&mut emit, false);
    }

    fn finish(&mut self, emit: &mut impl FnMut(&str, bool), even_empty: bool) {
        let line = std::mem::take(&mut self.line);
        let truncated = std::mem::take(&mut self.truncated);
        if even_empty || !line.is_empty() {
            emit(String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line)).as_ref(), truncated);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(pieces: &[&[u8]]) -> Vec<(String, bool)> {
        let (mut cutter, mut lines) = (LineCutter::default(), vec![]);
        for piece in pieces {
            cutter.push(piece, |line, truncated| lines.push((line.to_owned(), truncated)));
        }
        cutter.end(|line, truncated| lines.push((line.to_owned(), truncated)));
        lines
    }

    #[test]
    fn lines_come_out_whole_however_they_went_in() {
        let text = b"one\n\ntwo\r\nthr\xffee";
        let want = ["one", "", "two", "thr\u{fffd}ee"].map(|line| (line.to_owned(), false)).to_vec();
        assert_eq!(cut(&[text]), want);
        for at in 0..text.len() {
            let (left, right) = text.split_at(at);
            assert_eq!(cut(&[left, right]), want, "cut at {at}");
        }
        assert_eq!(cut(&[]), []);
    }

    #[test]
    fn a_long_line_is_capped_and_the_next_one_is_whole() {
        let long = vec![b'x'; MAX_LINE * 3];
        let lines = cut(&[&long, &long, b"y\nshort\n"]);
        assert_eq!(
            lines.iter().map(|(line, cut)| (line.len(), *cut)).collect::<Vec<_>>(),
            [(MAX_LINE, true), (5, false)]
        );
        let exact = vec![b'x'; MAX_LINE];
        assert!(!cut(&[&exact, b"\n"])[0].1);
    }
}
