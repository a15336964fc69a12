//! Canaries: an agent tells now and then whether its device is still itself. The rule is the agent's; what follows is here.

use std::collections::BTreeSet;

use wattfarm_cost::id::{AgentId, JobId};

use super::agent::Agent;
use super::job::{Job, Reported, State, Task};
use super::{Event, Farm, Refusal, SecretHash, Timestamp};

/// Takes what an agent's canary said. It comes after the agent's reports on what was measured before it.
#[derive(Debug)]
pub struct ReportCanary {
    /// Who says so.
    pub credential: SecretHash,
    /// Why the device is not itself; `None` if it is.
    pub because: Option<String>,
}

impl Event for ReportCanary {
    /// The finished jobs that have too few measurements now: the store knows what they ask for, and [`MeasureAgain`] opens
    /// them. The same call once more has the same answer.
    type Reply = Result<Vec<JobId>, Refusal>;

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply {
        let id = farm.authenticate(&self.credential, now)?;
        let agent = farm.agents[&id].clone();
        let Some(because) = self.because else {
            // A device that is itself again gets jobs again; what was suspect stays so.
            let good_through = farm.sequence;
            farm.put_agent(Agent {
                good_through,
                quarantined: None,
                ..agent
            });
            return Ok(Vec::new());
        };
        let good_through = agent.good_through;
        if agent.quarantined.is_none() {
            farm.put_agent(Agent {
                quarantined: Some(because),
                ..agent
            });
        }
        farm.doubt(now, id, good_through);
        let lacks = |job: &&Job| lacks_measurements(job) && job.suspects_of(id).next().is_some();
        Ok(farm.jobs.iter().filter(lacks).map(|job| job.id).collect())
    }
}

/// Asks for the measurements by devices that were not themselves.
#[derive(Debug)]
pub struct Suspects;

impl Event for Suspects {
    type Reply = BTreeSet<u64>;

    fn apply(self, farm: &mut Farm, _now: Timestamp) -> Self::Reply {
        farm.jobs.suspects().clone()
    }
}

/// Opens finished jobs whose measurements turned out to be suspect.
#[derive(Debug)]
pub struct MeasureAgain(pub Vec<(JobId, Task)>);

impl Event for MeasureAgain {
    type Reply = ();

    fn apply(self, farm: &mut Farm, _now: Timestamp) {
        for (id, task) in self.0 {
            if farm.jobs.get(id).is_some_and(lacks_measurements) {
                // Its campaigns may have ended, and still their models are made of it: it goes first.
                farm.jobs
                    .reopen(id, task, &mut farm.changes, |job| job.urgent = true);
            }
        }
    }
}

fn lacks_measurements(job: &Job) -> bool {
    job.state == State::Done && job.replicas_done() < job.replicas_wanted
}

impl Farm {
    /// Marks what an agent measured after `good_through` as suspect.
    fn doubt(&mut self, now: Timestamp, agent: AgentId, good_through: u64) {
        let is_doubtful = |grant: &super::Grant| {
            grant.agent == agent
                && matches!(grant.report, Some(Reported::Measured(sequence)) if sequence > good_through)
        };
        let doubtful = |job: &&Job| job.grants.iter().any(is_doubtful);
        let jobs: Vec<JobId> = self
            .jobs
            .iter()
            .filter(doubtful)
            .map(|job| job.id)
            .collect();
        for id in jobs {
            self.jobs.alter(id, &mut self.changes, |job| {
                for grant in job.grants.iter_mut().filter(|grant| is_doubtful(grant)) {
                    grant.report = grant.report.map(Reported::doubted);
                }
            });
            self.settle_campaigns(now, id);
        }
    }
}
