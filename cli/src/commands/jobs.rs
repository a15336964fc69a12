//! `wattfarm jobs`: what is to be measured, and why it is where it is.

use anyhow::Context as _;
use serde::Serialize;
use wattfarm_proto::connect::unary;
use wattfarm_proto::v1;

use crate::args::{JobState, JobsArgs};
use crate::output::{Output, Report};
use crate::render::number::short;
use crate::render::table::{Column, table};
use crate::session::Session;

#[derive(Serialize)]
struct Job {
    id: String,
    platform: String,
    kind: String,
    subject: String,
    subject_hash: String,
    recipe: String,
    state: &'static str,
    because: String,
    attempts: u32,
    replicas_wanted: u32,
    replicas_done: u32,
    agent: Option<String>,
    lease: Option<u64>,
}

impl From<v1::Job> for Job {
    fn from(job: v1::Job) -> Self {
        Self {
            state: state_name(job.state()),
            id: job.job_id,
            platform: job.platform,
            kind: job.kind,
            subject: job.subject,
            subject_hash: job.subject_hash,
            recipe: job.recipe,
            because: job.because,
            attempts: job.attempts,
            replicas_wanted: job.replicas_wanted,
            replicas_done: job.replicas_done,
            agent: job.agent_id,
            lease: job.lease,
        }
    }
}

fn state_name(state: v1::JobState) -> &'static str {
    match state {
        v1::JobState::Unspecified => "unknown",
        v1::JobState::Queued => "queued",
        v1::JobState::Leased => "leased",
        v1::JobState::Done => "done",
        v1::JobState::Infeasible => "infeasible",
        v1::JobState::Parked => "parked",
    }
}

impl From<JobState> for v1::JobState {
    fn from(state: JobState) -> Self {
        match state {
            JobState::Queued => Self::Queued,
            JobState::Leased => Self::Leased,
            JobState::Done => Self::Done,
            JobState::Infeasible => Self::Infeasible,
            JobState::Parked => Self::Parked,
        }
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct Jobs(Vec<Job>);

impl Report for Jobs {
    fn text(&self) -> String {
        let columns = [
            Column::Left("job"),
            Column::Left("platform"),
            Column::Left("state"),
            Column::Right("done"),
            Column::Right("wanted"),
            Column::Right("failed"),
            Column::Left("subject"),
            Column::Left("agent"),
            Column::Left("because"),
        ];
        let row = |job: &Job| {
            [
                job.id.clone(),
                job.platform.clone(),
                job.state.to_owned(),
                job.replicas_done.to_string(),
                job.replicas_wanted.to_string(),
                job.attempts.to_string(),
                job.subject.clone(),
                job.agent
                    .as_deref()
                    .map(short)
                    .unwrap_or_default()
                    .to_owned(),
                job.because.clone(),
            ]
        };
        table(columns, self.0.iter().map(row))
    }
}

/// Jobs that wait or are under way for one reason.
#[derive(Debug, Serialize)]
struct Reason {
    platform: String,
    state: &'static str,
    because: String,
    jobs: usize,
    /// The first of them, in the order that they were made.
    example: String,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Reasons(Vec<Reason>);

impl Reasons {
    fn of(jobs: Vec<Job>) -> Self {
        let mut reasons: Vec<Reason> = Vec::new();
        for job in jobs {
            // Jobs of one queue differ by their places alone.
            let because = match job.because.split_once("go before it") {
                Some((_, rest)) => format!("others go before it{rest}"),
                None => job.because,
            };
            let because = because
                .rsplit_once(", about ")
                .map_or(because.as_str(), |(why, _)| why);
            let same = reasons.iter_mut().find(|reason| {
                reason.platform == job.platform
                    && reason.state == job.state
                    && reason.because == because
            });
            match same {
                Some(reason) => reason.jobs += 1,
                None => reasons.push(Reason {
                    because: because.to_owned(),
                    platform: job.platform,
                    state: job.state,
                    jobs: 1,
                    example: job.id,
                }),
            }
        }
        Self(reasons)
    }
}

impl Report for Reasons {
    fn text(&self) -> String {
        let columns = [
            Column::Right("jobs"),
            Column::Left("platform"),
            Column::Left("state"),
            Column::Left("because"),
            Column::Left("such as"),
        ];
        let row = |reason: &Reason| {
            [
                reason.jobs.to_string(),
                reason.platform.clone(),
                reason.state.to_owned(),
                reason.because.clone(),
                reason.example.clone(),
            ]
        };
        table(columns, self.0.iter().map(row))
    }
}

pub(super) async fn run(session: &Session, output: Output, args: JobsArgs) -> anyhow::Result<()> {
    let request = v1::ListJobsRequest {
        platform: args.platform.unwrap_or_default(),
        states: if args.why {
            vec![JobState::Queued, JobState::Leased]
        } else {
            args.state
        }
        .into_iter()
        .map(|state| v1::JobState::from(state).into())
        .collect(),
        limit: args.limit,
    };
    let why = args.why;
    let mut farm = session.operator().await?.farm();
    let mut stream = farm
        .list_jobs(unary(request))
        .await
        .context("list the jobs")?
        .into_inner();
    let mut jobs = Vec::new();
    while let Some(message) = stream.message().await.context("list the jobs")? {
        jobs.extend(message.job.map(Job::from));
    }
    if why {
        return output.show(&Reasons::of(jobs));
    }
    output.show(&Jobs(jobs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_told_once() {
        let job = |because: &str| {
            Job::from(v1::Job {
                job_id: "01a20a9e-5aa5-745f-95b6-25656b18c722".to_owned(),
                platform: "test-cpu".to_owned(),
                state: v1::JobState::Queued.into(),
                because: because.to_owned(),
                ..v1::Job::default()
            })
        };
        let jobs = vec![
            job("next in line; 1 agent connected, about 3 s"),
            job("1 job goes before it; 1 agent connected, about 6 s"),
            job("2 jobs go before it; 1 agent connected, about 9 s"),
            job("3 jobs go before it; 1 agent connected, about 12 s"),
        ];
        let reasons = Reasons::of(jobs);
        let told: Vec<_> = reasons
            .0
            .iter()
            .map(|reason| (reason.jobs, reason.because.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                (1, "next in line; 1 agent connected"),
                (1, "1 job goes before it; 1 agent connected"),
                (2, "others go before it; 1 agent connected"),
            ]
        );
    }
}
