//! Points by two figures, of which lower is better in both, and the front that none of them beats.

use maud::{Markup, html};

use super::chart::class as colour;
use super::number::figure;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 460.0;
/// Where the axes stand, and where the other ends of them are.
const LEFT: f64 = 80.0;
const BOTTOM: f64 = HEIGHT - 50.0;
const RIGHT: f64 = WIDTH - 20.0;
const TOP: f64 = 15.0;
/// Above this ratio of the largest to the smallest an axis is logarithmic.
const LOGARITHMIC: f64 = 10.0;

/// A point with what stands beside it.
pub(crate) struct Point {
    pub(crate) label: String,
    pub(crate) x: f64,
    pub(crate) y: f64,
    /// Which of the series it is of, and so its colour.
    pub(crate) series: usize,
    pub(crate) on_front: bool,
}

/// An axis from the least to the largest of its values, with some room.
struct Axis {
    low: f64,
    high: f64,
    is_logarithmic: bool,
    /// Where it begins and ends on the page.
    from: f64,
    to: f64,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let is_logarithmic = low > 0.0 && high / low > LOGARITHMIC;
        let (low, high) = match is_logarithmic {
            true => (low / 1.3, high * 1.3),
            // From zero: lengths are in proportion.
            false => (0.0, if high > 0.0 { high * 1.1 } else { 1.0 }),
        };
        Self {
            low,
            high,
            is_logarithmic,
            from,
            to,
        }
    }

    fn place(&self, value: f64) -> f64 {
        let share = match self.is_logarithmic {
            true => (value / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        };
        self.from + (self.to - self.from) * share
    }

    /// Round values to be marked: 1, 2 and 5 times powers of ten, a handful of them.
    fn ticks(&self) -> Vec<f64> {
        let round = |exponent: i32| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(exponent));
        let exponents =
            |low: f64, high: f64| low.log10().floor() as i32..=high.log10().ceil() as i32;
        if self.is_logarithmic {
            let all: Vec<f64> = exponents(self.low, self.high)
                .flat_map(round)
                .filter(|tick| (self.low..=self.high).contains(tick))
                .collect();
            // Over many decades the decades alone.
            let decades = |tick: &f64| (tick.log10() - tick.log10().round()).abs() < 1e-9;
            return match all.len() > 9 {
                true => all.into_iter().filter(decades).collect(),
                false => all,
            };
        }
        let step = exponents(self.high / 100.0, self.high)
            .flat_map(round)
            .find(|step| self.high / step <= 8.0)
            .unwrap_or(self.high);
        let count = (self.high / step).floor() as u32;
        (0..=count).map(|count| f64::from(count) * step).collect()
    }
}

/// The points, those on the front filled and joined. `x` and `y` name the axes with their units; a legend tells the series, if
/// there are several.
pub(crate) fn scatter(points: &[Point], series: &[String], x: &str, y: &str) -> Markup {
    let across = Axis::of(points.iter().map(|point| point.x), LEFT, RIGHT);
    let up = Axis::of(points.iter().map(|point| point.y), BOTTOM, TOP);
    let mut front: Vec<&Point> = points.iter().filter(|point| point.on_front).collect();
    front.sort_by(|one, other| one.x.total_cmp(&other.x));
    // A staircase: between two of its points nothing better than the left one is known.
    let mut steps = String::new();
    for pair in front.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        steps.push_str(&format!(
            "{} {} {} {} ",
            units(across.place(from.x)),
            units(up.place(from.y)),
            units(across.place(to.x)),
            units(up.place(from.y)),
        ));
    }
    if let Some(last) = front.last() {
        let (x, y) = (across.place(last.x), up.place(last.y));
        steps.push_str(&format!("{} {}", units(x), units(y)));
    }
    html! {
        @if series.len() > 1 { (legend(series)) }
        svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(format!("{y} against {x}")) {
            @for tick in across.ticks() {
                @let at = units(across.place(tick));
                line.grid x1=(at) x2=(at) y1=(TOP) y2=(BOTTOM) {}
                text.middle x=(at) y=(BOTTOM + 18.0) { (round(tick)) }
            }
            @for tick in up.ticks() {
                @let at = up.place(tick);
                line.grid x1=(LEFT) x2=(RIGHT) y1=(units(at)) y2=(units(at)) {}
                text.end x=(LEFT - 8.0) y=(units(at + 4.0)) { (round(tick)) }
            }
            text.middle x=((LEFT + RIGHT) / 2.0) y=(HEIGHT - 8.0) { (x) }
            text.middle x="0" y="0" transform=(format!("translate(16 {}) rotate(-90)", (TOP + BOTTOM) / 2.0)) { (y) }
            polyline.front points=(steps) {}
            @for (point, place) in points.iter().zip(labels(points, &across, &up)) {
                @let (left, top) = (across.place(point.x), up.place(point.y));
                circle class={ (colour(point.series)) @if !point.on_front { " off-front" } } cx=(units(left)) cy=(units(top)) r="5" {
                    title { (point.label) ": " (figure(point.x)) ", " (figure(point.y)) }
                }
                text.end[place.is_left] x=(units(place.x)) y=(units(place.y)) { (point.label) }
            }
        }
    }
}

fn legend(series: &[String]) -> Markup {
    const STEP: f64 = 20.0;
    let height = STEP * series.len() as f64;
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label="Series" {
            @for (index, name) in series.iter().enumerate() {
                @let y = STEP * index as f64;
                circle class=(colour(index)) cx=(LEFT + 8.0) cy=(units(y + 9.0)) r="5" {}
                text x=(LEFT + 20.0) y=(units(y + 13.5)) { (name) }
            }
        }
    }
}

/// Where a label stands.
#[derive(Clone, Copy)]
struct Label {
    x: f64,
    y: f64,
    /// Whether it ends there rather than begins.
    is_left: bool,
}

/// A place for each point's label, beside it where no other label stands.
fn labels(points: &[Point], across: &Axis, up: &Axis) -> Vec<Label> {
    const LINE: f64 = 15.0;
    const CHARACTER: f64 = 7.0;
    // Points are in the way of labels too.
    let spot = |point: &Point| {
        let (x, y) = (across.place(point.x), up.place(point.y));
        (x - 6.0, x + 6.0, y + 4.0)
    };
    let mut taken: Vec<(f64, f64, f64)> = points.iter().map(spot).collect();
    let place = |point: &Point| {
        let (x, y) = (across.place(point.x), up.place(point.y));
        let width = CHARACTER * point.label.chars().count() as f64;
        let right = (x + 10.0, false);
        let left = (x - 10.0, true);
        let sides = match x + 10.0 + width > RIGHT {
            true => [left, right],
            false => [right, left],
        };
        // The front goes on to the right of its points.
        let heights = match point.on_front {
            true => [-1.0, 1.0, -2.0, 2.0, -3.0, 3.0, 0.0],
            false => [0.0, -1.0, 1.0, -2.0, 2.0, -3.0, 3.0],
        };
        let places = heights.into_iter().flat_map(|lines| {
            sides.map(|(x, is_left)| Label {
                x,
                y: y + 4.0 + LINE * lines,
                is_left,
            })
        });
        let span = |label: &Label| match label.is_left {
            true => (label.x - width, label.x),
            false => (label.x, label.x + width),
        };
        let is_free = |label: &Label| {
            let (from, to) = span(label);
            let is_inside = label.y > TOP && label.y < BOTTOM && from > LEFT && to < WIDTH;
            let hits = |&(left, right, y): &(f64, f64, f64)| {
                from < right && left < to && (y - label.y).abs() < LINE - 2.0
            };
            is_inside && !taken.iter().any(hits)
        };
        let first = Label {
            x: sides[0].0,
            y: y + 4.0,
            is_left: sides[0].1,
        };
        let found = places.into_iter().find(is_free).unwrap_or(first);
        let (from, to) = span(&found);
        taken.push((from, to, found.y));
        found
    };
    points.iter().map(place).collect()
}

/// A round number without the digits that say nothing.
fn round(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn units(value: f64) -> String {
    format!("{value:.1}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(values: [f64; 2]) -> Vec<String> {
        let axis = Axis::of(values.into_iter(), 0.0, 1.0);
        axis.ticks().into_iter().map(round).collect()
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(ticks([3.0, 17.0]), ["0", "5", "10", "15"]);
        assert_eq!(ticks([0.01, 0.02]), ["0", "0.005", "0.01", "0.015", "0.02"]);
        assert_eq!(ticks([3.0, 170.0]), ["5", "10", "20", "50", "100", "200"]);
        assert_eq!(ticks([0.0, 0.0]).first().map(String::as_str), Some("0"));
        assert_eq!(
            ticks([0.5, 90_000.0]),
            ["1", "10", "100", "1000", "10000", "100000"]
        );
    }
}
