//! Why things wait, in plain sentences.

use std::time::Duration;

use wattfarm_cost::Hash;

use super::agent::Agent;
use super::campaign::Campaign;
use super::job::{Job, State};
use super::totals::Tally;
use super::{Farm, Timestamp};

/// What those who wait on a platform can expect: the same for all of them, so it is looked at once for a list.
#[derive(Debug)]
pub(super) enum Outlook {
    /// Nobody works, and why.
    Nobody(String),
    /// So many agents work; what a job takes them on the mean, once they have done some.
    Works { agents: u64, mean_ms: Option<u64> },
}

impl Outlook {
    /// How long until a job with so many ahead of it is answered, about.
    fn wait(&self, ahead: usize) -> Option<Duration> {
        match self {
            Self::Nobody(_) => None,
            Self::Works { agents, mean_ms } => mean_ms.map(|mean_ms| {
                Duration::from_millis(mean_ms.saturating_mul(ahead as u64 + 1) / agents)
            }),
        }
    }
}

impl Farm {
    /// Why a job waits and about how long, or why it ended as it did. `ahead` counts the jobs that go before it.
    pub(super) fn job_because(
        &self,
        job: &Job,
        ahead: Option<usize>,
        outlook: &Outlook,
        now: Timestamp,
    ) -> String {
        match &job.state {
            State::Queued => self.queued_because(job, ahead.unwrap_or(0), outlook),
            State::Leased { agent, since, .. } => {
                let name = self
                    .agents
                    .get(agent)
                    .map_or("an agent", |agent| agent.name.as_str());
                format!("`{name}` has it since {}", roughly(now.since(*since)))
            }
            State::Done | State::Infeasible { .. } | State::Parked { .. } | State::Withdrawn => {
                ended_because(job)
            }
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
        if campaign.paused {
            return "it is paused".to_owned();
        }
        match tally.outstanding {
            0 if tally.spent() == 0 && tally.samples.is_empty() => {
                "the trainer has proposed no layers yet".to_owned()
            }
            0 => "every proposed layer is answered: the trainer has not proposed more".to_owned(),
            _ => String::new(),
        }
    }

    fn queued_because(&self, job: &Job, ahead: usize, outlook: &Outlook) -> String {
        let agents = match outlook {
            Outlook::Nobody(because) => return because.clone(),
            Outlook::Works { agents, .. } => *agents,
        };
        let paused = |campaign| {
            let campaign = self.campaigns.get(&campaign);
            campaign.is_some_and(|campaign| campaign.paused)
        };
        let mut campaigns = job.waiting_campaigns().peekable();
        if !job.urgent && campaigns.peek().is_some() && campaigns.all(paused) {
            return "its campaign is paused".to_owned();
        }
        let queue = match ahead {
            0 => "next in line".to_owned(),
            1 => "1 job goes before it".to_owned(),
            _ => format!("{ahead} jobs go before it"),
        };
        let plural = if agents == 1 { "" } else { "s" };
        let queue = format!("{queue}; {agents} agent{plural} connected");
        match outlook.wait(ahead) {
            Some(wait) => format!("{queue}, about {}", roughly(wait)),
            None => queue,
        }
    }

    /// What those who wait on a platform can expect.
    pub(super) fn outlook(&self, platform: &Hash, now: Timestamp) -> Outlook {
        if let Some(because) = self.nobody_works(platform, now) {
            return Outlook::Nobody(because);
        }
        let working = self.agents_of(platform).filter(|agent| works(agent, now));
        let (mut agents, mut known, mut sum) = (0, 0, 0_u64);
        for agent in working {
            agents += 1;
            known += u64::from(agent.job_ms_mean > 0);
            sum = sum.saturating_add(agent.job_ms_mean);
        }
        Outlook::Works {
            agents,
            mean_ms: sum.checked_div(known),
        }
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
        let mut connected = self
            .agents_of(platform)
            .filter(|agent| agent.is_connected(now));
        let quarantined = connected.find_map(|agent| {
            let because = agent.quarantined.as_ref()?;
            Some(format!("`{}` is quarantined: {because}", agent.name))
        });
        let all_drain = !self.agents_of(platform).any(|agent| works(agent, now));
        all_drain.then(|| {
            quarantined
                .unwrap_or_else(|| format!("every agent of `{slug}` that is connected is draining"))
        })
    }

    fn agents_of(&self, platform: &Hash) -> impl Iterator<Item = &Agent> {
        self.agents
            .values()
            .filter(move |agent| agent.platform == *platform)
    }
}

/// Why a job that is over ended as it did; empty for one that is still open.
pub(super) fn ended_because(job: &Job) -> String {
    match &job.state {
        State::Queued | State::Leased { .. } | State::Done => String::new(),
        State::Infeasible { because } | State::Parked { because } => because.clone(),
        State::Withdrawn if job.has_retracted() => "its measurement was retracted".to_owned(),
        State::Withdrawn => "withdrawn: the campaigns that wanted it have ended".to_owned(),
    }
}

fn works(agent: &Agent, now: Timestamp) -> bool {
    agent.is_connected(now) && !agent.draining && !agent.revoked && agent.quarantined.is_none()
}

/// A duration as people say it.
fn roughly(duration: Duration) -> String {
    match duration.as_secs() {
        0..=119 => format!("{} s", duration.as_secs().max(1)),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}
