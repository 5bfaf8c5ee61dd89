//! A chart as SVG. In: lines; out: text that is readable on light and on dark. Pure.
//!
//! Panels stand one above the other over one axis; a name is in the legend once, whichever panels have it.

use std::fmt::Write;

/// A chart.
#[derive(Clone, Debug)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// What the horizontal axis is.
    pub x: String,
    /// Whether that goes by powers of ten: each value is more than 0.
    pub x_powers: bool,
    /// From above to below.
    pub panels: Vec<Panel>,
}

/// Lines over the same vertical axis.
#[derive(Clone, Debug)]
pub struct Panel {
    /// What the vertical axis is.
    pub y: String,
    /// By powers of ten: each value is more than 0. Otherwise it begins at 0.
    pub powers: bool,
    /// What is drawn in it.
    pub lines: Vec<Line>,
}

/// One row of points.
#[derive(Clone, Debug)]
pub struct Line {
    /// In the legend.
    pub name: String,
    /// Its colour.
    pub ink: Ink,
    /// Its form.
    pub draw: Draw,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
}

/// Colours: what is ours, and what it is measured beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// Ours.
    Ours,
    /// Ours in another way.
    OursToo,
    /// What it is measured beside.
    Other,
    /// What was given.
    Given,
}

/// How points become a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// From point to point, with a dot at each.
    Dots,
    /// From point to point.
    Joined,
    /// A value holds until the next.
    Steps,
    /// The ground below the line.
    Area,
}

const WIDTH: f64 = 760.0;
const LEFT: f64 = 66.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 62.0;
const PANEL: f64 = 190.0;
const GAP: f64 = 26.0;
const BOTTOM: f64 = 46.0;

const STYLE: &str = "
text{font:12px system-ui,sans-serif;fill:#1f2328}.title{font-size:15px;font-weight:600}
.card{fill:#fff;stroke:#d1d9e0}.grid{stroke:#d1d9e0}.line{fill:none;stroke:currentColor;stroke-width:2}
.dot{fill:currentColor}.area{fill:currentColor;opacity:.25}
.ours{color:#0969da}.ours-too{color:#1a7f37}.other{color:#cf222e}.given{color:#6e7781}
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.card{fill:#0d1117;stroke:#3d444d}.grid{stroke:#3d444d}
.ours{color:#58a6ff}.ours-too{color:#3fb950}.other{color:#ff7b72}.given{color:#9198a1}}
";

/// Draws a chart.
pub fn svg(chart: &Chart) -> String {
    let height = TOP + chart.panels.len() as f64 * (PANEL + GAP) - GAP + BOTTOM;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"card\" x=\".5\" y=\".5\" width=\"{}\" height=\"{}\" rx=\"6\"/>\n\
         <text class=\"title\" x=\"{LEFT}\" y=\"24\">{title}</text>\n",
        WIDTH - 1.0,
        height - 1.0,
        title = escape(&chart.title)
    );
    legend(&mut out, chart);
    let places = chart.panels.iter().flat_map(|panel| &panel.lines).flat_map(|line| &line.points).map(|(x, _)| *x);
    let x = Axis::new(places, chart.x_powers, (LEFT, WIDTH - RIGHT), false);
    for (number, panel) in chart.panels.iter().enumerate() {
        let top = TOP + number as f64 * (PANEL + GAP);
        draw(&mut out, panel, &x, top);
    }
    let bottom = height - BOTTOM;
    for tick in x.ticks() {
        let at = x.place(tick);
        text(&mut out, at, bottom + 17.0, "middle", &number(tick));
    }
    text(&mut out, f64::midpoint(LEFT, WIDTH - RIGHT), bottom + 36.0, "middle", &chart.x);
    out.push_str("</svg>\n");
    out
}

fn legend(out: &mut String, chart: &Chart) {
    let mut named: Vec<&Line> = vec![];
    for line in chart.panels.iter().flat_map(|panel| &panel.lines) {
        if !named.iter().any(|other| other.name == line.name) {
            named.push(line);
        }
    }
    let mut at = LEFT;
    for line in named {
        let mark = if line.draw == Draw::Area { "area" } else { "dot" };
        let _ = writeln!(
            out,
            "<rect class=\"{mark} {}\" x=\"{at}\" y=\"38\" width=\"12\" height=\"8\" rx=\"2\"/>",
            class(line.ink)
        );
        text(out, at + 17.0, 46.0, "start", &line.name);
        at += 17.0 + 6.7 * line.name.chars().count() as f64 + 18.0;
    }
}

fn draw(out: &mut String, panel: &Panel, x: &Axis, top: f64) {
    let values = panel.lines.iter().flat_map(|line| &line.points).map(|(_, y)| *y);
    let y = Axis::new(values, panel.powers, (top + PANEL, top), true);
    for tick in y.ticks() {
        let at = y.place(tick);
        let _ = writeln!(out, "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{}\"/>", WIDTH - RIGHT);
        text(out, LEFT - 8.0, at + 4.0, "end", &number(tick));
    }
    let middle = top + PANEL / 2.0;
    let _ = writeln!(
        out,
        "<text text-anchor=\"middle\" transform=\"translate(16 {middle}) rotate(-90)\">{}</text>",
        escape(&panel.y)
    );
    for line in &panel.lines {
        let points: Vec<_> = line.points.iter().map(|(a, b)| (x.place(*a), y.place(*b))).collect();
        let (Some(first), Some(last)) = (points.first(), points.last()) else { continue };
        let mut way = format!("M{:.1} {:.1}", first.0, first.1);
        for (a, b) in &points[1..] {
            let _ = match line.draw {
                Draw::Steps => write!(way, "H{a:.1}V{b:.1}"),
                _ => write!(way, "L{a:.1} {b:.1}"),
            };
        }
        let class = class(line.ink);
        if line.draw == Draw::Area {
            let ground = top + PANEL;
            let _ = writeln!(out, "<path class=\"area {class}\" d=\"{way}V{ground}H{:.1}Z\"/>", first.0);
            continue;
        }
        if line.draw == Draw::Steps {
            let _ = write!(way, "H{:.1}", last.0.max(x.place(x.high)));
        }
        let _ = writeln!(out, "<path class=\"line {class}\" d=\"{way}\"/>");
        if line.draw == Draw::Dots {
            for (a, b) in points {
                let _ = writeln!(out, "<circle class=\"dot {class}\" cx=\"{a:.1}\" cy=\"{b:.1}\" r=\"3.5\"/>");
            }
        }
    }
}

fn class(ink: Ink) -> &'static str {
    match ink {
        Ink::Ours => "ours",
        Ink::OursToo => "ours-too",
        Ink::Other => "other",
        Ink::Given => "given",
    }
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, what: &str) {
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escape(what));
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A tick's number, without digits that say nothing.
fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// From values to places on the picture.
struct Axis {
    low: f64,
    high: f64,
    powers: bool,
    from: f64,
    to: f64,
}

impl Axis {
    /// An axis that has all of these values, and 0 unless it is by powers. `round`: it ends at a tick.
    fn new(values: impl Iterator<Item = f64>, powers: bool, (from, to): (f64, f64), round: bool) -> Self {
        let (low, high) = values
            .filter(|value| !powers || *value > 0.0)
            .fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
        let (low, high) = if low > high { (0.1, 1.0) } else { (low, high) };
        let mut axis = if powers {
            let high = high.log10().ceil();
            Self { low: low.log10().floor().min(high - 1.0), high, powers, from, to }
        } else {
            Self { low: 0.0, high: high.max(f64::MIN_POSITIVE), powers, from, to }
        };
        if round && !powers {
            let step = axis.step();
            axis.high = (axis.high / step).ceil() * step;
        }
        axis
    }

    fn place(&self, value: f64) -> f64 {
        let value = if self.powers { value.max(f64::MIN_POSITIVE).log10().max(self.low) } else { value };
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// About five to a length, at 1, 2 or 5 of a power of ten.
    fn step(&self) -> f64 {
        let least = (self.high - self.low) / 6.0;
        let power = 10f64.powf(least.log10().floor());
        [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= least).unwrap_or(least)
    }

    fn ticks(&self) -> Vec<f64> {
        if self.powers {
            return (self.low as i32..=self.high as i32).map(|power| 10f64.powi(power)).collect();
        }
        let step = self.step();
        (0..).map(|number| f64::from(number) * step).take_while(|tick| *tick <= self.high * 1.000_001).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, draw: Draw, points: &[(f64, f64)]) -> Line {
        Line { name: name.to_owned(), ink: Ink::Ours, draw, points: points.to_vec() }
    }

    #[test]
    fn ticks_are_round_and_reach_as_far_as_the_values() {
        let axis = Axis::new([3.0, 37.0].into_iter(), false, (190.0, 0.0), true);
        assert_eq!(axis.ticks(), [0.0, 10.0, 20.0, 30.0, 40.0]);
        assert_eq!((axis.place(0.0), axis.place(40.0)), (190.0, 0.0));
        let powers = Axis::new([0.4, 2300.0].into_iter(), true, (0.0, 500.0), true);
        assert_eq!(powers.ticks(), [0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0]);
        assert_eq!((powers.place(0.1), powers.place(10_000.0)), (0.0, 500.0));
        assert_eq!(number(0.1) + &number(20.0) + &number(0.25), "0.1200.25");
    }

    #[test]
    fn what_steps_goes_along_before_it_goes_up() {
        let panel =
            Panel { y: "y".to_owned(), powers: false, lines: vec![line("a", Draw::Steps, &[(0.0, 0.0), (5.0, 10.0)])] };
        let x = Axis::new([0.0, 10.0].into_iter(), false, (0.0, 100.0), false);
        let mut out = String::new();
        draw(&mut out, &panel, &x, 0.0);
        assert!(out.contains("M0.0 190.0H50.0V0.0H100.0"), "{out}");
    }

    #[test]
    fn a_chart_names_each_line_once_and_breaks_nothing() {
        let panel = |draw| Panel {
            y: "ms".to_owned(),
            powers: true,
            lines: vec![line("<ours> & theirs", draw, &[(0.0, 1.0), (1.0, 20.0)]), line("none", draw, &[])],
        };
        let panels = [Draw::Dots, Draw::Joined, Draw::Steps, Draw::Area].map(panel).to_vec();
        let out = svg(&Chart { title: "a < b".to_owned(), x: "s".to_owned(), x_powers: false, panels });
        assert_eq!(out.matches("&lt;ours&gt; &amp; theirs").count(), 1, "{out}");
        assert!(out.contains("a &lt; b") && !out.contains("NaN") && !out.contains("inf"), "{out}");
        assert_eq!(out.matches("<circle").count(), 2);
        assert_eq!(out.matches("<svg").count(), out.matches("</svg>").count());
    }
}
