//! Reports: what agents found, booked once each.

use wattfarm_cost::id::{AgentId, JobId, LeaseNumber};
use wattfarm_cost::measurement::Reading;

use super::job::{Job, Reported, State};
use super::{Change, Entry, Event, Farm, JobName, Refusal, SecretHash, Timestamp, physics};

/// A job that failed this often is given up.
pub const FAILURES_MAX: u32 = 3;

/// The longest that one measurement can count for, in ms: a day, whatever an agent says.
const JOB_MS_MAX: u64 = 24 * 3600 * 1000;

/// Hands in results.
#[derive(Debug)]
pub struct ReportResults {
    /// Who reports.
    pub credential: SecretHash,
    /// The reports.
    pub reports: Vec<Report>,
}

/// One result.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The job.
    pub job: JobId,
    /// The lease it was measured under.
    pub lease: LeaseNumber,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a job.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It was measured.
    Reading(Box<Reading>),
    /// The platform cannot run it.
    Infeasible(String),
    /// It went wrong.
    Failed(String),
    /// It was not begun.
    Returned(String),
}

/// What the farm makes of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledgement {
    /// The job's answer.
    Taken,
    /// Late or beyond what was wanted: kept beside.
    Replica,
    /// This very report had been taken before.
    Known,
    /// Physics forbids it, or the agent is quarantined because of such: not taken.
    Implausible,
}

/// What the farm answers to reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Booked {
    /// Who reported.
    pub agent: AgentId,
    /// What became of each, in their order.
    pub acknowledgements: Vec<Acknowledgement>,
    /// The agent's leases of jobs that nobody waits for any more, because a campaign has ended: measuring them would
    /// spend what its budget no longer has. They are the agent's until it hands them back.
    pub unwanted: Vec<LeaseNumber>,
}

/// Asks for the sequence of the last measurement; 0 if there is none.
#[derive(Debug)]
pub struct LastMeasurement;

impl Event for LastMeasurement {
    type Reply = u64;

    fn apply(self, farm: &mut Farm, _now: Timestamp) -> u64 {
        farm.sequence
    }
}

impl Event for ReportResults {
    type Reply = Result<Booked, Refusal>;

    fn is_about(&self, _farm: &Farm) -> Vec<JobName> {
        let jobs = self.reports.iter().map(|report| report.job);
        jobs.map(JobName::Id).collect()
    }

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply {
        let agent = farm.authenticate(&self.credential, now)?;
        // All or nothing: every report is looked at before the first is booked.
        for report in &self.reports {
            let job = farm
                .jobs
                .get(report.job)
                .ok_or(Refusal::JobUnknown(report.job))?;
            if !job
                .grants
                .iter()
                .any(|grant| grant.lease == report.lease && grant.agent == agent)
            {
                return Err(Refusal::LeaseForged {
                    job: report.job,
                    lease: report.lease,
                });
            }
        }
        Ok(Booked {
            agent,
            acknowledgements: self
                .reports
                .into_iter()
                .map(|report| farm.book(now, agent, report))
                .collect(),
            unwanted: farm.unwanted_leases(agent),
        })
    }
}

impl Farm {
    fn book(&mut self, now: Timestamp, agent: AgentId, report: Report) -> Acknowledgement {
        let Report {
            job: id,
            lease,
            outcome,
        } = report;
        let job = self.jobs.get(id).expect("every report was looked at");
        if grant_of(job, lease).is_some() {
            return Acknowledgement::Known;
        }
        let live = matches!(&job.state, State::Leased { lease: current, .. } if *current == lease);
        let acknowledgement = match &job.state {
            State::Done | State::Infeasible { .. } => Acknowledgement::Replica,
            State::Queued | State::Leased { .. } | State::Parked { .. } | State::Withdrawn => {
                Acknowledgement::Taken
            }
        };
        let failures = job.failures + 1;
        let doubt = match &outcome {
            Outcome::Reading(reading) => self.doubt(agent, id, reading),
            Outcome::Infeasible(_) | Outcome::Failed(_) | Outcome::Returned(_) => None,
        };
        let outcome = match &doubt {
            Some(because) => Outcome::Failed(because.clone()),
            None => outcome,
        };
        match outcome {
            Outcome::Reading(reading) => self.book_reading(now, agent, id, lease, *reading),
            Outcome::Infeasible(because) if live => {
                self.answer(now, id, State::Infeasible { because }, |job| {
                    settle(job, lease, Reported::Other)
                });
            }
            Outcome::Failed(because) if live && failures >= FAILURES_MAX => {
                let because = format!("failed {failures} times, at last: {because}");
                self.answer(now, id, State::Parked { because }, |job| {
                    job.failures = failures;
                    settle(job, lease, Reported::Other);
                });
            }
            Outcome::Failed(_) if live => {
                self.jobs.alter(id, &mut self.changes, |job| {
                    job.failures = failures;
                    settle(job, lease, Reported::Other);
                });
                self.requeue(now, id);
            }
            Outcome::Returned(_) if live => {
                self.jobs.alter(id, &mut self.changes, |job| {
                    settle(job, lease, Reported::Other)
                });
                self.requeue(now, id);
            }
            // Too late to say anything about a job that others have taken up, or that is answered.
            Outcome::Infeasible(_) | Outcome::Failed(_) | Outcome::Returned(_) => {
                self.jobs.alter(id, &mut self.changes, |job| {
                    settle(job, lease, Reported::Other)
                });
                if doubt.is_none() {
                    return Acknowledgement::Replica;
                }
            }
        }
        match doubt {
            Some(because) => {
                self.note_doubt(now, agent, because);
                Acknowledgement::Implausible
            }
            None => acknowledgement,
        }
    }

    /// Why a reading is not believed, if it isn't.
    fn doubt(&self, agent: AgentId, job: JobId, reading: &Reading) -> Option<String> {
        let agent = &self.agents[&agent];
        if agent.quarantined.is_some() {
            return Some(format!("`{}` is quarantined", agent.name));
        }
        let task = self.jobs.known_task(job)?;
        let platform = &self.platforms.get(&task.platform)?.platform;
        let because = physics::forbids(platform, &task.subject, reading)?;
        Some(format!(
            "`{}` reported what cannot be: {because}",
            agent.name
        ))
    }

    /// Counts a reading that was not believed. Who brings such again and again gets no more jobs: what it has goes to others.
    fn note_doubt(&mut self, now: Timestamp, id: AgentId, because: String) {
        let mut agent = self.agents[&id].clone();
        if agent.quarantined.is_some() {
            return;
        }
        agent.implausible += 1;
        if agent.is_refuted() {
            agent.quarantined = Some(because);
            self.take_back_leases(now, id, &[]);
        }
        self.put_agent(agent);
    }

    /// Books a reading. It counts however late it comes: a measurement is true of its device whenever it is heard of.
    fn book_reading(
        &mut self,
        now: Timestamp,
        agent: AgentId,
        id: JobId,
        lease: LeaseNumber,
        reading: Reading,
    ) {
        self.sequence += 1;
        let sequence = self.sequence;
        let job_ms = ((reading.conditions.seconds * 1000.0).round() as u64).min(JOB_MS_MAX);
        self.changes.push(Change::Entry(Entry {
            sequence,
            job: id,
            agent,
            lease,
            reading,
            received_at: now,
        }));
        let mut counted = self.agents[&agent].clone();
        counted.count(job_ms);
        self.put_agent(counted);

        let before = self.jobs.get(id).expect("its grants were looked at");
        let live =
            matches!(&before.state, State::Leased { lease: current, .. } if *current == lease);
        let enough = before.replicas_done() + 1 >= before.replicas_wanted;
        let booked = |job: &mut Job| {
            job.measured_ms = job.measured_ms.saturating_add(job_ms);
            settle(job, lease, Reported::Measured(sequence));
        };
        if enough || !before.state.is_open() {
            self.answer(now, id, State::Done, booked);
        } else {
            self.jobs.alter(id, &mut self.changes, booked);
            if live {
                self.requeue(now, id);
            }
            self.settle_campaigns(now, id);
        }
    }

    /// Ends a job, for good unless somebody wants more measurements of it.
    pub(super) fn answer(
        &mut self,
        now: Timestamp,
        id: JobId,
        state: State,
        alteration: impl FnOnce(&mut Job),
    ) {
        self.jobs.alter(id, &mut self.changes, |job| {
            alteration(job);
            job.state = state;
            job.urgent = false;
        });
        self.settle_campaigns(now, id);
    }
}

/// What was reported under a lease of a job.
fn grant_of(job: &Job, lease: LeaseNumber) -> Option<Reported> {
    job.grants
        .iter()
        .find(|grant| grant.lease == lease)
        .and_then(|grant| grant.report)
}

/// Notes what was reported under a lease. Any word from an agent shows that the job doesn't kill agents.
fn settle(job: &mut Job, lease: LeaseNumber, report: Reported) {
    job.expiries = 0;
    if let Some(grant) = job.grants.iter_mut().find(|grant| grant.lease == lease) {
        grant.report = Some(report);
    }
}
