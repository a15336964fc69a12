//! The trainer without its sockets: an event and the time in, what to do out.

use std::time::Duration;

use wattfarm_cost::Layer;
use wattfarm_cost::id::CampaignId;
use wattfarm_cost::measurement::{Measurement, Recipe};
use wattfarm_cost::model::ModelKey;
use wattfarm_proto::error::FieldError;

use super::books::{Assignment, Books};
use super::queue::{CampaignStatus, Proposal, Queues};

/// What happens to a trainer.
#[derive(Debug)]
pub(super) enum Event {
    /// Measurements arrived; `is_newest` if no more are on their way.
    Measured {
        measurements: Vec<Measurement>,
        is_newest: bool,
    },
    /// These measurements were retracted.
    Retracted(Vec<u64>),
    /// The campaigns that have not ended, all of them.
    Campaigns(Vec<CampaignStatus>),
    /// A proposal was answered.
    Proposed {
        campaign: CampaignId,
        proposal: Proposal,
    },
    /// A fit ended, well or not; it had this many samples.
    Fitted {
        key: ModelKey,
        recipe: Recipe,
        samples: usize,
        took: Duration,
    },
    /// Time went by.
    Tick,
}

/// What the shell must do.
#[derive(Debug, PartialEq)]
pub(super) enum Effect {
    /// Propose layers until the coordinator has answered, and say how it ended.
    Propose {
        campaign: CampaignId,
        layers: Vec<Layer>,
    },
    /// Fit a model, publish it, and say that it ended.
    Fit(Assignment),
    /// Tell an operator of a campaign that makes no sense.
    Complain(FieldError),
}

/// Everything the trainer knows, all of it from the coordinator.
#[derive(Debug, Default)]
pub(super) struct Trainer {
    books: Books,
    queues: Queues,
    /// All that there was at the start has been read: before, every fit would be out of date at once.
    has_caught_up: bool,
    is_fitting: bool,
}

impl Trainer {
    pub(super) fn apply(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Measured {
                measurements,
                is_newest,
            } => {
                measurements
                    .iter()
                    .for_each(|measurement| self.books.take(now, measurement));
                self.has_caught_up |= is_newest;
            }
            Event::Retracted(sequences) => {
                sequences
                    .into_iter()
                    .for_each(|sequence| self.books.retract(sequence));
            }
            Event::Campaigns(campaigns) => {
                effects.extend(self.queues.follow(campaigns).err().map(Effect::Complain))
            }
            Event::Proposed { campaign, proposal } => self.queues.proposed(now, campaign, proposal),
            Event::Fitted {
                key,
                recipe,
                samples,
                took,
            } => {
                self.is_fitting = false;
                self.books.fitted(now, (key, recipe), samples, took);
            }
            Event::Tick => (),
        }
        if self.has_caught_up {
            effects.extend(self.act(now));
        }
        effects
    }

    fn act(&mut self, now: Duration) -> Vec<Effect> {
        let proposals = self.queues.proposals(now, |platform, layer| {
            self.books.is_measured(platform, layer)
        });
        let propose = |(campaign, layers)| Effect::Propose { campaign, layers };
        let mut effects: Vec<Effect> = proposals.into_iter().map(propose).collect();
        if !self.is_fitting
            && let Some(assignment) = self.books.next_fit(now)
        {
            self.is_fitting = true;
            effects.push(Effect::Fit(assignment));
        }
        effects
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{campaign, measurement, relu};
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn measured(sequences: std::ops::RangeInclusive<u64>, through: u64) -> Event {
        let is_newest = *sequences.end() >= through;
        let measurements = sequences
            .map(|sequence| measurement(sequence, relu(sequence)))
            .collect();
        Event::Measured {
            measurements,
            is_newest,
        }
    }

    fn campaigns(outstanding: u64) -> Event {
        Event::Campaigns(vec![
            CampaignStatus::try_from(campaign(1, outstanding)).expect("a good campaign"),
        ])
    }

    /// Names of effects, for tables.
    fn names(effects: &[Effect]) -> Vec<String> {
        let name = |effect: &Effect| match effect {
            Effect::Propose { layers, .. } => format!("propose {}", layers.len()),
            Effect::Fit(assignment) => format!("fit {}", assignment.samples.len()),
            Effect::Complain(error) => error.to_string(),
        };
        effects.iter().map(name).collect()
    }

    #[test]
    fn nothing_is_done_before_the_log_is_read() {
        let mut trainer = Trainer::default();
        assert!(trainer.apply(NOW, campaigns(0)).is_empty());
        assert!(trainer.apply(NOW, measured(1..=10, 30)).is_empty());
        assert_eq!(
            names(&trainer.apply(NOW, measured(11..=30, 30))),
            ["propose 48", "fit 30"]
        );
    }

    #[test]
    fn an_empty_log_is_read_at_once() {
        let mut trainer = Trainer::default();
        trainer.apply(
            NOW,
            Event::Measured {
                measurements: Vec::new(),
                is_newest: true,
            },
        );
        assert_eq!(names(&trainer.apply(NOW, campaigns(0))), ["propose 48"]);
    }

    #[test]
    fn one_fit_at_a_time_and_the_next_when_there_is_more() {
        let mut trainer = Trainer::default();
        let [Effect::Fit(first)] = &trainer.apply(NOW, measured(1..=20, 20))[..] else {
            panic!("a fit")
        };
        let ended = |samples| Event::Fitted {
            key: first.key,
            recipe: first.origin.recipe,
            samples,
            took: Duration::ZERO,
        };
        assert!(trainer.apply(NOW, measured(21..=40, 40)).is_empty());
        assert_eq!(names(&trainer.apply(NOW, ended(20))), ["fit 40"]);
        assert!(trainer.apply(NOW, ended(40)).is_empty());
        assert!(
            trainer
                .apply(NOW + Duration::from_secs(9), Event::Tick)
                .is_empty()
        );
        trainer.apply(NOW, measured(41..=41, 41));
        assert_eq!(
            names(&trainer.apply(NOW + Duration::from_secs(2), Event::Tick)),
            ["fit 41"]
        );
    }
}
