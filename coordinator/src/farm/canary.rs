//! Canaries: an agent tells now and then whether its device is still itself. The rule is the agent's; what follows is here.

use wattfarm_cost::id::{AgentId, JobId};

use super::agent::Agent;
use super::campaign::Owner;
use super::job::State;
use super::{Event, Farm, JobName, Refusal, SecretHash, Timestamp};

/// Takes what an agent's canary said. It comes after the agent's reports on what was measured before it.
#[derive(Debug)]
pub struct ReportCanary {
    /// Who says so.
    pub credential: SecretHash,
    /// Why the device is not itself; `None` if it is.
    pub because: Option<String>,
}

/// Measurements that no good canary vouches for: those of the agent after one sequence, up to another. The store knows
/// which they are, and [`MeasureAgain`] takes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unvouched {
    /// Whose.
    pub agent: AgentId,
    /// The farm's last measurement when the agent's canary was well.
    pub after: u64,
    /// The farm's last measurement now. Of a quarantined agent none is taken later.
    pub through: u64,
    /// Why they are doubted.
    pub because: String,
}

impl Event for ReportCanary {
    /// What is doubted, if the device is not itself, or wasn't until now. The same call once more has the same answer.
    type Reply = Result<Option<Unvouched>, Refusal>;

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply {
        let id = farm.authenticate(&self.credential, now)?;
        let agent = farm.agents[&id].clone();
        // Whom physics or its peers have refuted, no word of its own has go on: its canary may be made up as well.
        let is_refuted = agent.is_refuted();
        let is_well = self.because.is_none();
        let was_ill = agent.quarantined.clone().filter(|_| !is_refuted);
        let because = self.because.or(was_ill);
        let unvouched = because.clone().map(|because| Unvouched {
            agent: id,
            after: agent.good_through,
            through: farm.sequence,
            because,
        });
        match (is_well, is_refuted) {
            // A device that is itself again gets jobs again; what was measured meanwhile stays doubted.
            (true, false) => farm.put_agent(Agent {
                good_through: farm.sequence,
                quarantined: None,
                ..agent
            }),
            (true, true) => (),
            (false, _) => {
                farm.put_agent(Agent {
                    quarantined: agent.quarantined.clone().or(because),
                    ..agent
                });
                farm.take_back_leases(now, id, &[]);
            }
        }
        Ok(unvouched)
    }
}

/// Retracts an agent's measurements because its device was not itself, and has their jobs measured again. What was retracted
/// before, or isn't the agent's, is let be: the same again changes nothing.
#[derive(Debug)]
pub struct MeasureAgain {
    /// Whose measurements.
    pub agent: AgentId,
    /// Each with the job that it answers, as the store has it.
    pub measurements: Vec<(u64, JobId)>,
    /// Why.
    pub because: String,
}

/// What became of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Remeasured {
    /// Measurements retracted now.
    pub retracted: u32,
    /// Jobs that were done and wait again.
    pub reopened: u32,
}

impl Event for MeasureAgain {
    type Reply = Remeasured;

    fn is_about(&self, _farm: &Farm) -> Vec<JobName> {
        let jobs = self.measurements.iter().map(|&(_, job)| job);
        jobs.map(JobName::Id).collect()
    }

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Remeasured {
        let mut reply = Remeasured::default();
        for (sequence, id) in self.measurements {
            let Some(before) = farm.jobs.get(id).map(|job| job.state.clone()) else {
                continue;
            };
            let by = Owner::Agent(self.agent);
            if !farm.take_back(now, id, sequence, &self.because, by) {
                continue;
            }
            reply.retracted += 1;
            let job = farm.jobs.get(id).expect("it was there");
            if before != State::Done || job.replicas_done() >= job.replicas_wanted {
                continue;
            }
            let task = farm.jobs.known_task(id).expect("it was recalled");
            let task = (**task).clone();
            // Its campaigns may have ended, and still their models are made of it: it goes first.
            farm.jobs
                .reopen(id, task, &mut farm.changes, |job| job.urgent = true);
            reply.reopened += 1;
        }
        reply
    }
}
