//! Line charts as SVG: a few series over a few categories, on a logarithmic scale.
//!
//! ```text
//!   title
//!   y  10⁵ ┤────────────────────────
//!          │         ╭──●  name of a series
//!      10⁴ ┤────●────╯──────────────
//!          └────┴───────┴───────────
//!            category  category   x
//! ```
//! Series are told apart by colour and by the name at their end, so that no legend has to be looked up. A value that is missing
//! or not positive interrupts its line.

use std::fmt::Write as _;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 540.0;
const LEFT: f64 = 90.0;
/// Room for the names of the series.
const RIGHT: f64 = 250.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 72.0;
/// Of names at the ends of lines.
const LINE_HEIGHT: f64 = 18.0;
/// Okabe and Ito's colours, which people who see fewer colours can tell apart (jfly.uni-koeln.de/color).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// One line: a value for each category, or none.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub name: String,
    pub values: Vec<Option<f64>>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    pub title: String,
    pub x: String,
    pub y: String,
    pub categories: Vec<String>,
    pub series: Vec<Series>,
}

impl Series {
    fn shown(&self) -> impl Iterator<Item = Option<f64>> + '_ {
        self.values.iter().map(|value| value.filter(|value| value.is_finite() && *value > 0.0))
    }
}

impl Chart {
    /// The chart as a document.
    #[must_use]
    pub fn draw(&self) -> String {
        let scale = self.scale();
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        text(&mut svg, LEFT, 28.0, "start", "#000", &self.title);
        text(&mut svg, LEFT, TOP - 10.0, "end", "#555", &self.y);
        text(&mut svg, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 20.0, "middle", "#555", &self.x);
        self.grid(&mut svg, scale);
        let mut names = Vec::new();
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            if let Some(last) = self.line(&mut svg, series, colour, scale) {
                names.push((last, *colour, series.name.as_str()));
            }
        }
        // From top to bottom, none over another.
        names.sort_by(|(a, ..), (b, ..)| a.total_cmp(b));
        let mut free = TOP;
        for (y, colour, name) in names {
            let y = y.max(free);
            free = y + LINE_HEIGHT;
            text(&mut svg, WIDTH - RIGHT + 12.0, y + 4.0, "start", colour, name);
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// Powers of ten between which all values lie.
    fn scale(&self) -> (f64, f64) {
        let values = || self.series.iter().flat_map(Series::shown).flatten().map(f64::log10);
        let low = values().fold(f64::INFINITY, f64::min).floor();
        let high = values().fold(f64::NEG_INFINITY, f64::max).ceil();
        if low.is_finite() { (low, high.max(low + 1.0)) } else { (0.0, 1.0) }
    }

    #[expect(clippy::cast_precision_loss, reason = "a handful of categories")]
    fn x(&self, category: usize) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (category as f64 + 0.5) / self.categories.len() as f64
    }

    fn y((low, high): (f64, f64), value: f64) -> f64 {
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value.log10() - low) / (high - low)
    }

    fn grid(&self, svg: &mut String, scale: (f64, f64)) {
        let mut power = scale.0;
        while power <= scale.1 {
            let value = 10_f64.powf(power);
            let y = Self::y(scale, value);
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>",
                WIDTH - RIGHT
            );
            text(svg, LEFT - 8.0, y + 4.0, "end", "#555", &format!("{value}"));
            power += 1.0;
        }
        for (category, name) in self.categories.iter().enumerate() {
            text(svg, self.x(category), HEIGHT - BOTTOM + 20.0, "middle", "#555", name);
        }
    }

    /// Draws the line and its points; returns the height of the last one.
    fn line(&self, svg: &mut String, series: &Series, colour: &str, scale: (f64, f64)) -> Option<f64> {
        let (mut path, mut last, mut joined) = (String::new(), None, false);
        for (category, value) in series.shown().enumerate() {
            let Some(value) = value else {
                joined = false;
                continue;
            };
            let (x, y) = (self.x(category), Self::y(scale, value));
            let _ = write!(path, "{}{x:.1} {y:.1} ", if joined { "L" } else { "M" });
            let _ = writeln!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"><title>{}, {}: {value:.1}</title></circle>",
                escaped(&series.name),
                escaped(self.categories.get(category).map_or("", String::as_str))
            );
            (last, joined) = (Some(y), true);
        }
        let _ = writeln!(
            svg,
            "<path d=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.trim_end()
        );
        last
    }
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, colour: &str, content: &str) {
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{}</text>",
        escaped(content)
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(values: &[&[Option<f64>]]) -> Chart {
        let series = |(at, values): (usize, &&[Option<f64>])| Series {
            name: format!("s{at} <&>"),
            values: values.to_vec(),
        };
        Chart {
            title: "t".to_owned(),
            x: "x".to_owned(),
            y: "y".to_owned(),
            categories: vec!["a".to_owned(), "b".to_owned(), "c".to_owned()],
            series: values.iter().enumerate().map(series).collect(),
        }
    }

    fn heights(svg: &str) -> Vec<f64> {
        let height = |line: &str| line.split_once("cy=\"")?.1.split_once('"')?.0.parse().ok();
        svg.lines().filter_map(height).collect()
    }

    #[test]
    fn ten_times_as_much_is_one_step_higher() {
        let svg = chart(&[&[Some(10.0), Some(100.0), Some(1000.0)]]).draw();
        let [a, b, c] = heights(&svg)[..] else { panic!("{svg}") };
        assert!(a > b && ((a - b) - (b - c)).abs() < 0.2, "{svg}");
        assert_eq!((a, c), (HEIGHT - BOTTOM, TOP));
    }

    #[test]
    fn a_missing_value_interrupts_the_line() {
        let svg = chart(&[&[Some(1.0), None, Some(5.0)], &[Some(0.0), Some(f64::NAN), Some(2.0)]]).draw();
        assert_eq!(heights(&svg).len(), 3);
        assert!(!svg.contains('L'), "{svg}");
    }

    #[test]
    fn names_do_not_lie_over_each_other_and_are_escaped() {
        let same: &[Option<f64>] = &[Some(5.0), Some(5.0), Some(5.0)];
        let svg = chart(&[same, same]).draw();
        let names: Vec<&str> = svg.lines().filter(|line| line.ends_with("&lt;&amp;&gt;</text>")).collect();
        assert_eq!(names.len(), 2, "{svg}");
        let y = |line: &str| {
            line.split_once(" y=\"").unwrap().1.split_once('"').unwrap().0.parse::<f64>().unwrap()
        };
        assert!(y(names[1]) - y(names[0]) >= LINE_HEIGHT, "{names:?}");
    }

    #[test]
    fn nothing_is_a_chart_too() {
        assert!(chart(&[&[None, None, None]]).draw().ends_with("</svg>\n"));
    }
}
