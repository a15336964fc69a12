//! What followers are woken by. A signal says where to look, never what is there: whoever gets it asks again.

use std::collections::BTreeSet;

use wattfarm_cost::Hash;

use crate::farm::{Change, State};

/// Something that followers may wait for has been stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// A job of the platform has been queued, or an agent of it may have to drain.
    Work(Hash),
    /// A job of the platform has gone on its way, or an agent or a campaign of it has changed.
    Progress(Hash),
    /// Measurements have been taken, or taken back.
    Measurements,
    /// Models of the platform have been published.
    Models(Hash),
}

/// The signals of a group of changes, each once.
pub fn signals(changes: &[Change]) -> BTreeSet<Signal> {
    let mut signals = BTreeSet::new();
    for change in changes {
        match change {
            Change::Job(job) => {
                signals.insert(Signal::Progress(job.task.platform));
                if job.state == State::Queued {
                    signals.insert(Signal::Work(job.task.platform));
                }
            }
            Change::Agent(agent) => {
                signals.insert(Signal::Progress(agent.platform));
                if agent.draining {
                    signals.insert(Signal::Work(agent.platform));
                }
            }
            Change::Campaign(campaign) => {
                signals.insert(Signal::Progress(campaign.platform));
                // It may have been paused: what waited for it can be given out now.
                if !campaign.paused && campaign.end.is_none() {
                    signals.insert(Signal::Work(campaign.platform));
                }
            }
            Change::Entry(_) | Change::Retraction(_) => {
                signals.insert(Signal::Measurements);
            }
            Change::Model(model) => {
                signals.insert(Signal::Models(model.key.platform));
                signals.insert(Signal::Progress(model.key.platform));
            }
            Change::Token(..)
            | Change::Key(..)
            | Change::Platform(_)
            | Change::Task(..)
            | Change::JobGone(_)
            | Change::Total(_) => (),
        }
    }
    signals
}
