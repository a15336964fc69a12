//! Charts as SVG, drawn here so that a report needs nothing from elsewhere.

use maud::{Markup, html};

/// Width of a chart in its own units; the page scales it.
const WIDTH: f64 = 900.0;
/// Where bars begin: names stand before.
const LEFT: f64 = 190.0;
/// Where the longest bar ends: figures stand behind.
const RIGHT: f64 = 690.0;
/// How many colours there are; the last is for all that has none of its own.
const COLOURS: usize = 8;

/// Two bars of one network.
pub(super) struct Pair {
    pub(super) name: String,
    pub(super) measured: Option<f64>,
    pub(super) predicted: Option<f64>,
    /// The prediction's interval.
    pub(super) range: Option<(f64, f64)>,
    /// What stands behind the bars.
    pub(super) label: String,
}

/// Measured and predicted times beneath each other, from zero, all to one scale.
pub(super) fn pairs(pairs: &[Pair]) -> Markup {
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
        svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label="Predicted and measured time of each network" {
            @for (index, pair) in pairs.iter().enumerate() {
                @let top = STEP * index as f64;
                text.end x=(LEFT - 10.0) y=(top + 21.0) { (pair.name) }
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

/// One network's time by layer kind.
pub(super) struct Stack {
    pub(super) name: String,
    /// Kinds with their time, in ms.
    pub(super) parts: Vec<(String, f64)>,
}

/// Each network's time as shares of its layer kinds, with a legend. The kinds with the largest shares get a colour.
pub(super) fn stacks(stacks: &[Stack]) -> Markup {
    const STEP: f64 = 30.0;
    const LEGEND: f64 = 60.0;
    let colours = colours(stacks);
    let height = LEGEND + STEP * stacks.len() as f64;
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label="Share of each layer kind in each network" {
            @for (index, name) in colours.iter().map(String::as_str).chain(["others"]).enumerate() {
                @let (x, y) = (LEFT + 170.0 * (index % 4) as f64, 22.0 * (index / 4) as f64);
                (bar(class(index), x, y + 4.0, 12.0, 12.0, ""))
                text x=(x + 18.0) y=(y + 15.0) { (name) }
            }
            @for (index, stack) in stacks.iter().enumerate() {
                @let top = LEGEND + STEP * index as f64;
                @let sum: f64 = stack.parts.iter().map(|(_, ms)| ms).sum();
                text.end x=(LEFT - 10.0) y=(top + 17.0) { (stack.name) }
                @for (colour, left, share, title) in shares(stack, &colours, sum) {
                    (bar(class(colour), LEFT + (RIGHT - LEFT) * left, top + 4.0, (RIGHT - LEFT) * share, 18.0, &title))
                }
                text x=(RIGHT + 12.0) y=(top + 17.0) { (crate::render::number::figure(sum)) " ms" }
            }
        }
    }
}

/// The kinds that get a colour of their own: those with the largest sum of shares.
fn colours(stacks: &[Stack]) -> Vec<String> {
    let mut kinds: Vec<(String, f64)> = Vec::new();
    for stack in stacks {
        let sum: f64 = stack.parts.iter().map(|(_, ms)| ms).sum();
        for (kind, ms) in &stack.parts {
            match kinds.iter_mut().find(|(known, _)| known == kind) {
                Some((_, share)) => *share += ms / sum,
                None => kinds.push((kind.clone(), ms / sum)),
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
        .map(|(kind, ms)| (colour(kind), kind, ms))
        .collect();
    parts.sort_by_key(|(colour, ..)| *colour);
    let mut left = 0.0;
    let place = |(colour, kind, ms): (usize, &String, &f64)| {
        let (begin, share) = (left, ms / sum);
        left += share;
        (
            colour,
            begin,
            share,
            format!("{kind}: {ms:.3} ms, {:.1} %", 100.0 * share),
        )
    };
    parts.into_iter().map(place).collect()
}

fn class(colour: usize) -> &'static str {
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
