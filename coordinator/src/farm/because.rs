//! Why things wait, in plain sentences.

use std::time::Duration;

use wattfarm_cost::Hash;

use super::agent::Agent;
use super::campaign::Campaign;
use super::job::{Job, State};
use super::jobs::Tally;
use super::{Farm, Timestamp};

impl Farm {
    /// Why a job waits and about how long, or why it ended as it did. `ahead` counts the jobs that go before it.
    pub(super) fn job_because(&self, job: &Job, ahead: Option<usize>, now: Timestamp) -> String {
        match &job.state {
            State::Queued => self.queued_because(&job.task.platform, ahead.unwrap_or(0), now),
            State::Leased { agent, since, .. } => {
                let name = self
                    .agents
                    .get(agent)
                    .map_or("an agent", |agent| agent.name.as_str());
                format!("`{name}` has it since {}", roughly(now.since(*since)))
            }
            State::Done => String::new(),
            State::Infeasible { because } | State::Parked { because } => because.clone(),
            State::Withdrawn => "withdrawn: the campaigns that wanted it have ended".to_owned(),
        }
    }

    /// What holds a campaign up; empty if nothing does.
    pub(super) fn campaign_waits_because(
        &self,
        campaign: &Campaign,
        tally: &Tally,
        now: Timestamp,
    ) -> String {
        if campaign.end.is_some() {
            return String::new();
        }
        if let Some(because) = self.nobody_works(&campaign.platform, now) {
            return because;
        }
        match tally.outstanding {
            0 if tally.spent() == 0 && tally.samples.is_empty() => {
                "the trainer has proposed no layers yet".to_owned()
            }
            0 => "every proposed layer is answered: the trainer has not proposed more".to_owned(),
            _ => String::new(),
        }
    }

    fn queued_because(&self, platform: &Hash, ahead: usize, now: Timestamp) -> String {
        if let Some(because) = self.nobody_works(platform, now) {
            return because;
        }
        let working: Vec<&Agent> = self
            .agents_of(platform)
            .filter(|agent| works(agent, now))
            .collect();
        let agents = working.len();
        let queue = match ahead {
            0 => "next in line".to_owned(),
            1 => "1 job goes before it".to_owned(),
            _ => format!("{ahead} jobs go before it"),
        };
        let plural = if agents == 1 { "" } else { "s" };
        let means: Vec<u64> = working
            .iter()
            .map(|agent| agent.job_ms_mean)
            .filter(|&ms| ms > 0)
            .collect();
        if means.is_empty() {
            return format!("{queue}; {agents} agent{plural} connected");
        }
        let sum = means.iter().copied().fold(0, u64::saturating_add);
        let mean = sum / means.len() as u64;
        let wait = mean.saturating_mul(ahead as u64 + 1) / agents as u64;
        format!(
            "{queue}; {agents} agent{plural} connected, about {}",
            roughly(Duration::from_millis(wait))
        )
    }

    /// Why nobody works for a platform; `None` if somebody does.
    fn nobody_works(&self, platform: &Hash, now: Timestamp) -> Option<String> {
        let slug = self.slug(platform);
        if self.agents_of(platform).next().is_none() {
            return Some(format!("no agent of `{slug}` is enrolled"));
        }
        if !self
            .agents_of(platform)
            .any(|agent| agent.is_connected(now))
        {
            return Some(format!("no agent of `{slug}` is connected"));
        }
        let all_drain = !self.agents_of(platform).any(|agent| works(agent, now));
        all_drain.then(|| format!("every agent of `{slug}` that is connected is draining"))
    }

    fn agents_of(&self, platform: &Hash) -> impl Iterator<Item = &Agent> {
        self.agents
            .values()
            .filter(move |agent| agent.platform == *platform)
    }
}

fn works(agent: &Agent, now: Timestamp) -> bool {
    agent.is_connected(now) && !agent.draining
}

/// A duration as people say it.
fn roughly(duration: Duration) -> String {
    match duration.as_secs() {
        0..=119 => format!("{} s", duration.as_secs().max(1)),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}
