//! A terminal, drawn: lines with their times in, an SVG out. Pure.
//!
//! Each line appears when it came, some times as fast, by CSS alone; where nothing is animated all of them are shown.
//! Beside a line stands when it came.

use std::{fmt::Write as _, time::Duration};

/// What came from the terminal.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Since the first line.
    pub(crate) at: Duration,
    pub(crate) text: String,
}

/// How much faster than it was it is shown.
const SPEED: u32 = 4;
/// A longer line goes on in the next row, as in a terminal.
const COLUMNS: usize = 120;
/// Columns of the times, on the left.
const TIMES: usize = 9;
/// Size of the letters, and what a column and a row take. The widest of the usual fonts are narrower.
const LETTERS: f64 = 13.0;
const COLUMN: f64 = 8.0;
const ROW: f64 = 18.0;
/// Above the first row, with the title, and around the rows.
const TITLE: f64 = 44.0;
const MARGIN: f64 = 16.0;

/// Draws a terminal.
pub(crate) fn draw(title: &str, lines: &[Line]) -> String {
    let (mut rows, mut row, mut shown) = (String::new(), 0, Duration::ZERO);
    for Line { at, text } in lines {
        // No line appears before the one above it.
        shown = shown.max(*at);
        let delay = shown.as_secs_f64() / f64::from(SPEED);
        let kind = if text.starts_with("$ ") { "row typed" } else { "row" };
        for (number, part) in wrapped(text).into_iter().enumerate() {
            let y = TITLE + ROW * (f64::from(row) + 0.75);
            let _ = write!(rows, r#"<g class="{kind}" style="animation-delay:{delay:.2}s">"#);
            if number == 0 {
                let time = format!("{:>w$.1}s", shown.as_secs_f64(), w = TIMES - 3);
                let _ = write!(rows, r#"<text class="dim" x="{MARGIN}" y="{y}">{time}</text>"#);
            }
            let x = MARGIN + COLUMN * TIMES as f64;
            let _ = writeln!(rows, r#"<text x="{x}" y="{y}">{}</text></g>"#, escaped(&part));
            row += 1;
        }
    }
    let width = COLUMN * (TIMES + COLUMNS) as f64 + 2.0 * MARGIN;
    let height = TITLE + ROW * f64::from(row) + MARGIN;
    let title = escaped(title);
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">
<title>{title}</title>
<style>
text {{ font: {LETTERS}px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #d6deeb; white-space: pre }}
.typed text {{ fill: #addb67 }}
text.dim, .typed text.dim {{ fill: #7f8ea3 }}
@keyframes come {{ from {{ opacity: 0 }} }}
@media (prefers-reduced-motion: no-preference) {{ .row {{ animation: come .2s backwards }} }}
</style>
<rect width="100%" height="100%" rx="8" fill="#0b1622"/>
<text class="dim" x="{MARGIN}" y="26">{title}; {SPEED} times as fast</text>
<g xml:space="preserve">
{rows}</g>
</svg>
"##
    )
}

/// The rows of a line; one that is empty has a row too.
fn wrapped(text: &str) -> Vec<String> {
    let letters: Vec<char> = text.chars().collect();
    if letters.is_empty() { vec![String::new()] } else { letters.chunks(COLUMNS).map(String::from_iter).collect() }
}

/// A text as XML has it: without what XML cannot hold.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\t' => escaped.push(' '),
            letter if letter.is_control() => {}
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(all: &[(u64, &str)]) -> Vec<Line> {
        all.iter().map(|(millis, text)| Line { at: Duration::from_millis(*millis), text: (*text).into() }).collect()
    }

    fn delays(drawn: &str) -> Vec<&str> {
        let delays = drawn.split("animation-delay:").skip(1);
        delays.filter_map(|rest| rest.split_once('s').map(|(delay, _)| delay)).collect()
    }

    #[test]
    fn lines_come_in_their_order_and_their_time_is_beside_them() {
        let drawn =
            draw("t", &lines(&[(0, "$ kubectl get wsvc"), (2000, "hello   True"), (1000, "late"), (62_000, "")]));
        assert_eq!(delays(&drawn), ["0.00", "0.50", "0.50", "15.50"]);
        for shown in [">   0.0s<", ">   2.0s<", ">  62.0s<", ">hello   True<", r#"class="row typed""#] {
            assert!(drawn.contains(shown), "{shown} is not in {drawn}");
        }
        let height = TITLE + 4.0 * ROW + MARGIN;
        assert!(drawn.contains(&format!(r#"height="{height}""#)), "{height}: {drawn}");
    }

    #[test]
    fn what_is_markup_elsewhere_is_text_here() {
        let drawn = draw("a & b", &lines(&[(0, "</text><script>x()</script> & \u{1b}[31mred\u{0}\ttab")]));
        assert!(drawn.contains("&lt;/text&gt;&lt;script&gt;x()&lt;/script&gt; &amp; [31mred tab<"), "{drawn}");
        assert!(drawn.contains("<title>a &amp; b</title>"), "{drawn}");
    }

    #[test]
    fn a_long_line_goes_on_in_the_next_row() {
        let drawn = draw("t", &lines(&[(4000, &"ä".repeat(COLUMNS + 1))]));
        assert_eq!(delays(&drawn), ["1.00", "1.00"]);
        assert!(drawn.contains(&format!(">{}<", "ä".repeat(COLUMNS))) && drawn.contains(">ä<"), "{drawn}");
        assert_eq!(drawn.matches(">   4.0s<").count(), 1, "{drawn}");
    }
}
