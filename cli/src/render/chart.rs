//! Charts as SVG, drawn here so that a report needs nothing from elsewhere.

use maud::{Markup, html};

use super::number::figure;

/// Width of a chart in its own units; the page scales it.
const WIDTH: f64 = 900.0;
/// Where bars begin: names stand before.
const LEFT: f64 = 190.0;
/// Where the longest bar ends: figures stand behind.
const RIGHT: f64 = 690.0;
/// How many colours there are; the last is for all that has none of its own.
const COLOURS: usize = 8;

/// Two bars of one thing.
pub(crate) struct Pair {
    pub(crate) name: String,
    pub(crate) measured: Option<f64>,
    pub(crate) predicted: Option<f64>,
    /// The prediction's interval.
    pub(crate) range: Option<(f64, f64)>,
    /// What stands behind the bars.
    pub(crate) label: String,
}

/// Measured and predicted times beneath each other, from zero, all to one scale.
pub(crate) fn pairs(pairs: &[Pair], title: &str) -> Markup {
    const STEP: f64 = 38.0;
    let values = pairs.iter().flat_map(|pair| {
        [
            pair.measured,
            pair.predicted,
            pair.range.map(|(_, high)| high),
        ]
    });
    let largest = values.flatten().fold(f64::MIN_POSITIVE, f64::max);
    let length = |value: f64| (RIGHT - LEFT) * value / largest;
    let height = STEP * pairs.len() as f64;
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label=(title) {
            @for (index, pair) in pairs.iter().enumerate() {
                @let top = STEP * index as f64;
                text.end x=(LEFT - 10.0) y=(top + 21.0) { (shortened(&pair.name)) }
                @if let Some(measured) = pair.measured {
                    (bar("measured", LEFT, top + 4.0, length(measured), 12.0, ""))
                }
                @if let Some(predicted) = pair.predicted {
                    (bar("predicted", LEFT, top + 17.0, length(predicted), 12.0, ""))
                }
                @if let Some((low, high)) = pair.range {
                    @let y = units(top + 23.0);
                    line.whisker x1=(units(LEFT + length(low))) x2=(units(LEFT + length(high))) y1=(y) y2=(y) {}
                }
                text x=(RIGHT + 12.0) y=(top + 21.0) { (pair.label) }
            }
        }
    }
}

/// An amount by its parts.
pub(crate) struct Stack {
    pub(crate) name: String,
    /// The parts with their sizes.
    pub(crate) parts: Vec<(String, f64)>,
    /// What the parts are measured in.
    pub(crate) unit: &'static str,
}

impl Stack {
    pub(crate) fn new(name: String, parts: Vec<(String, f64)>, unit: &'static str) -> Self {
        Self { name, parts, unit }
    }
}

/// Amounts as shares of their parts, with a legend. The parts with the largest shares get a colour.
pub(crate) fn stacks(stacks: &[Stack]) -> Markup {
    const STEP: f64 = 30.0;
    let colours = colours(stacks);
    let mut parts = stacks.iter().flat_map(|stack| &stack.parts);
    let has_others = parts.any(|(name, _)| !colours.contains(name));
    let others = has_others.then_some("others");
    let legend: Vec<&str> = colours.iter().map(String::as_str).chain(others).collect();
    let legend_height = 16.0 + 22.0 * legend.len().div_ceil(4) as f64;
    let height = legend_height + STEP * stacks.len() as f64;
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label="Shares of each part" {
            @for (index, name) in legend.iter().enumerate() {
                @let (x, y) = (LEFT + 170.0 * (index % 4) as f64, 22.0 * (index / 4) as f64);
                @let colour = if colours.iter().any(|own| own == name) { index } else { COLOURS - 1 };
                (bar(class(colour), x, y + 4.0, 12.0, 12.0, ""))
                text x=(x + 18.0) y=(y + 15.0) { (name) }
            }
            @for (index, stack) in stacks.iter().enumerate() {
                @let top = legend_height + STEP * index as f64;
                @let sum: f64 = stack.parts.iter().map(|(_, size)| size).sum();
                text.end x=(LEFT - 10.0) y=(top + 17.0) { (stack.name) }
                @for (colour, left, share, title) in shares(stack, &colours, sum) {
                    (bar(class(colour), LEFT + (RIGHT - LEFT) * left, top + 4.0, (RIGHT - LEFT) * share, 18.0, &title))
                }
                text x=(RIGHT + 12.0) y=(top + 17.0) { (figure(sum)) " " (stack.unit) }
            }
        }
    }
}

/// The kinds that get a colour of their own: those with the largest sum of shares.
pub(crate) fn colours(stacks: &[Stack]) -> Vec<String> {
    let mut kinds: Vec<(String, f64)> = Vec::new();
    for stack in stacks {
        let sum: f64 = stack.parts.iter().map(|(_, ms)| ms).sum();
        for (kind, size) in stack.parts.iter().filter(|_| sum > 0.0) {
            match kinds.iter_mut().find(|(known, _)| known == kind) {
                Some((_, share)) => *share += size / sum,
                None => kinds.push((kind.clone(), size / sum)),
            }
        }
    }
    kinds.sort_by(|one, other| other.1.total_cmp(&one.1));
    kinds
        .into_iter()
        .take(COLOURS - 1)
        .map(|(kind, _)| kind)
        .collect()
}

/// A stack's parts from the left: colour, where the part begins, how long it is, and what it says of itself.
fn shares(stack: &Stack, colours: &[String], sum: f64) -> Vec<(usize, f64, f64, String)> {
    let colour = |kind: &str| {
        colours
            .iter()
            .position(|own| own == kind)
            .unwrap_or(COLOURS - 1)
    };
    let mut parts: Vec<_> = stack
        .parts
        .iter()
        .filter(|(_, size)| *size > 0.0)
        .map(|(kind, size)| (colour(kind), kind, size))
        .collect();
    parts.sort_by_key(|(colour, ..)| *colour);
    let mut left = 0.0;
    let place = |(colour, kind, size): (usize, &String, &f64)| {
        let (begin, share) = (left, size / sum);
        left += share;
        (
            colour,
            begin,
            share,
            format!(
                "{kind}: {} {}, {:.1} %",
                figure(*size),
                stack.unit,
                100.0 * share
            ),
        )
    };
    parts.into_iter().map(place).collect()
}

/// One thing's size, with a range of it.
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) range: Option<(f64, f64)>,
    /// Which of the colours that a [`stacks`] chart's legend tells.
    pub(crate) colour: usize,
    /// What stands behind the bar.
    pub(crate) label: String,
}

/// The most characters of a name that fit before a bar.
const NAME_MAX: usize = 22;

/// Bars beneath each other, from zero, all to one scale. Of a name that is too long its end is shown.
pub(crate) fn bars(bars: &[Bar], title: &str) -> Markup {
    const STEP: f64 = 22.0;
    let ends = bars
        .iter()
        .map(|of| of.range.map_or(of.value, |(_, high)| high.max(of.value)));
    let largest = ends.fold(f64::MIN_POSITIVE, f64::max);
    let length = |value: f64| (RIGHT - LEFT) * value / largest;
    html! {
        // Each a picture of its own, so that a page may end between two.
        div role="img" aria-label=(title) {
            @for of in bars {
                svg.row viewBox=(format!("0 0 {WIDTH} {STEP}")) {
                    text.end x=(LEFT - 10.0) y="15.5" { title { (of.name) } (shortened(&of.name)) }
                    (bar(class(of.colour), LEFT, 4.0, length(of.value), 14.0, &of.label))
                    @if let Some((low, high)) = of.range {
                        line.whisker x1=(units(LEFT + length(low))) x2=(units(LEFT + length(high))) y1="11" y2="11" {}
                    }
                    text x=(RIGHT + 12.0) y="15.5" { (of.label) }
                }
            }
        }
    }
}

fn shortened(name: &str) -> String {
    let characters = name.chars().count();
    match characters > NAME_MAX {
        true => {
            let end = name.chars().skip(characters + 1 - NAME_MAX);
            format!("…{}", end.collect::<String>())
        }
        false => name.to_owned(),
    }
}

/// The style's name of a colour; beyond the last they are alike.
pub(super) fn class(colour: usize) -> &'static str {
    const CLASSES: [&str; COLOURS] = ["c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7"];
    CLASSES[colour.min(COLOURS - 1)]
}

fn bar(class: &str, x: f64, y: f64, width: f64, height: f64, title: &str) -> Markup {
    html! {
        rect class=(class) x=(units(x)) y=(units(y)) width=(units(width)) height=(units(height)) {
            @if !title.is_empty() { title { (title) } }
        }
    }
}

/// A tenth of a unit is finer than any screen.
fn units(value: f64) -> String {
    format!("{value:.1}")
}
