//! Showing how the measuring goes, on stderr: a bar in a terminal, a line now and then elsewhere.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use wattfarm_proto::v1;

use crate::output::note;

/// Between two lines where there is no terminal.
const PERIOD: Duration = Duration::from_secs(5);
/// Between two tables of the kinds there.
const KINDS_PERIOD: Duration = Duration::from_secs(30);
/// Kinds in a line under the bar.
const KINDS_IN_LINE: usize = 4;
/// The bar; the message has lines of its own beneath it.
const TEMPLATE: &str = "{bar:30} {msg}";

/// A campaign's progress against its budget.
pub(super) struct Progress {
    seconds: u64,
    screen: Screen,
}

enum Screen {
    Terminal(ProgressBar),
    Lines {
        shown: Option<Instant>,
        kinds_shown: Instant,
    },
}

impl Progress {
    /// For a campaign that measures for so many seconds.
    pub(super) fn new(seconds: u64) -> Self {
        let screen = if io::stderr().is_terminal() {
            let style = ProgressStyle::with_template(TEMPLATE).expect("a test makes one too");
            Screen::Terminal(ProgressBar::new(seconds).with_style(style))
        } else {
            Screen::Lines {
                shown: None,
                kinds_shown: Instant::now(),
            }
        };
        Self { seconds, screen }
    }

    /// Shows where the campaign is.
    pub(super) fn show(&mut self, campaign: &v1::Campaign) {
        match &mut self.screen {
            Screen::Terminal(bar) => {
                bar.set_position(campaign.seconds_measured as u64);
                bar.set_message(format!(
                    "{}\n{}",
                    summary(campaign, self.seconds),
                    kinds(campaign)
                ));
            }
            Screen::Lines { shown, kinds_shown } => {
                if shown.is_none_or(|shown| PERIOD <= shown.elapsed()) {
                    note(summary(campaign, self.seconds));
                    *shown = Some(Instant::now());
                }
                if KINDS_PERIOD <= kinds_shown.elapsed() {
                    note(kinds(campaign));
                    *kinds_shown = Instant::now();
                }
            }
        }
    }

    /// Leaves the last state standing.
    pub(super) fn finish(self, campaign: Option<&v1::Campaign>) {
        match (self.screen, campaign) {
            (Screen::Terminal(bar), _) => bar.abandon(),
            (Screen::Lines { .. }, Some(campaign)) => {
                note(summary(campaign, self.seconds));
                note(kinds(campaign));
            }
            (Screen::Lines { .. }, None) => (),
        }
    }
}

fn summary(campaign: &v1::Campaign, seconds: u64) -> String {
    let samples: u64 = campaign.kinds.iter().map(|kind| kind.samples).sum();
    let left = (seconds as f64 - campaign.seconds_measured).max(0.0);
    let mut line = format!(
        "{:.0} of {seconds} s measured, {} jobs, {samples} samples, {left:.0} s left",
        campaign.seconds_measured, campaign.jobs_done
    );
    let mut errors: Vec<(f64, &str)> = campaign
        .kinds
        .iter()
        .filter_map(|kind| Some((kind.rmspe?, kind.kind.as_str())))
        .collect();
    errors.sort_by(|one, other| one.0.total_cmp(&other.0));
    if let Some((worst, kind)) = errors.last() {
        let (middle, _) = errors[errors.len() / 2];
        let of = format!("{} of {} kinds", errors.len(), campaign.kinds.len());
        line.push_str(&format!(
            "; error of {of}: {middle:.1} % in the middle, {worst:.1} % at worst ({kind})"
        ));
    }
    if !campaign.waiting_because.is_empty() {
        line.push_str(&format!("; waits: {}", campaign.waiting_because));
    }
    line
}

/// Each kind's cross-validated error, a few in a line.
fn kinds(campaign: &v1::Campaign) -> String {
    let entry = |kind: &v1::campaign::KindProgress| match kind.rmspe {
        Some(rmspe) => format!("{:>20} {rmspe:6.1} %", kind.kind),
        None => format!("{:>20} {:>6}  ", kind.kind, "-"),
    };
    let entries: Vec<String> = campaign.kinds.iter().map(entry).collect();
    entries
        .chunks(KINDS_IN_LINE)
        .map(|line| line.concat())
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn campaign() -> v1::Campaign {
        let kind = |kind: &str, rmspe| v1::campaign::KindProgress {
            kind: kind.to_owned(),
            samples: 10,
            rmspe,
            model_version: rmspe.map(|_| 1),
        };
        v1::Campaign {
            jobs_done: 31,
            seconds_measured: 12.4,
            kinds: vec![
                kind("conv2d", Some(12.34)),
                kind("linear", Some(5.6)),
                kind("relu", None),
            ],
            ..v1::Campaign::default()
        }
    }

    #[test]
    fn a_line_says_how_far_and_how_good() {
        insta::assert_snapshot!(summary(&campaign(), 60), @"12 of 60 s measured, 31 jobs, 30 samples, 48 s left; error of 2 of 3 kinds: 12.3 % in the middle, 12.3 % at worst (conv2d)");
    }

    #[test]
    fn kinds_stand_in_columns() {
        insta::assert_snapshot!(kinds(&campaign()), @"              conv2d   12.3 %              linear    5.6 %                relu      -");
    }

    #[test]
    fn the_bar_has_a_template() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }
}
