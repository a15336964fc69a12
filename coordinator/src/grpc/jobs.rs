//! `ListJobs`: the open jobs, which the farm has in memory, then those that are over, which the store has.

use std::collections::BTreeSet;

use tonic::{Response, Status};
use wattfarm_proto::error::FieldError;
use wattfarm_proto::v1;

use super::stream::{Messages, stream};
use super::{Shell, wire, within};
use crate::farm::{DescribeJobs, FindPlatform, Job, JobStatus, ListJobs, StateName};

/// Jobs in a list, unless said otherwise and at most.
const JOBS: u32 = 1000;
const JOBS_MAX: u32 = 100_000;

pub(super) async fn list(
    shell: &Shell,
    message: v1::ListJobsRequest,
) -> Result<Response<Messages<v1::ListJobsResponse>>, Status> {
    let states = message
        .states
        .into_iter()
        .enumerate()
        .map(|(index, state)| state_name(index, state));
    let limit = if message.limit == 0 {
        JOBS
    } else {
        message.limit
    };
    let states = states.collect::<Result<Vec<_>, _>>()?;
    let limit = within("limit", limit, 1..=JOBS_MAX)? as usize;
    let name = Some(message.platform).filter(|platform| !platform.is_empty());
    let platform = match &name {
        Some(name) => Some(shell.request(FindPlatform(name.clone())).await?.hash),
        None => None,
    };
    let open = shell.request(ListJobs {
        platform: name,
        states: states.clone(),
        limit,
    });
    let (open, own) = (open.await?, shell.clone());
    Ok(stream(shell, |sink| async move {
        let shell = own;
        let send = async |status: JobStatus| {
            let id = status.job.id;
            let task = shell.read(move |store| store.task(id)).await?;
            let job = Some(wire::job(&status, task.as_ref()));
            sink.send(v1::ListJobsResponse { job }).await
        };
        // A job that ends meanwhile is told once.
        let mut told: BTreeSet<_> = open.iter().map(|status| status.job.id).collect();
        for status in open {
            send(status).await?;
        }
        // Those that are over lie in the store.
        let wanted = |job: &Job| {
            platform.is_none_or(|platform| platform == job.task.platform)
                && (states.is_empty() || states.contains(&job.state.name()))
        };
        let ends = [StateName::Done, StateName::Infeasible, StateName::Parked];
        let mut last = None;
        while told.len() < limit
            && (states.is_empty() || ends.iter().any(|end| states.contains(end)))
        {
            let mut page = shell
                .read(move |store| store.jobs_after(last, JOBS as usize))
                .await?;
            last = page.last().map(|job| job.id);
            if last.is_none() {
                break;
            }
            page.retain(|job| !job.state.is_open() && wanted(job) && told.insert(job.id));
            page.truncate(limit.saturating_sub(told.len() - page.len()));
            for status in shell.ask(DescribeJobs(page)).await? {
                send(status).await?;
            }
        }
        Ok(())
    }))
}

fn state_name(index: usize, state: i32) -> Result<StateName, FieldError> {
    match v1::JobState::try_from(state) {
        Ok(v1::JobState::Queued) => Ok(StateName::Queued),
        Ok(v1::JobState::Leased) => Ok(StateName::Leased),
        Ok(v1::JobState::Done) => Ok(StateName::Done),
        Ok(v1::JobState::Infeasible) => Ok(StateName::Infeasible),
        Ok(v1::JobState::Parked) => Ok(StateName::Parked),
        Ok(v1::JobState::Unspecified) | Err(_) => Err(FieldError::new(
            format!("states[{index}]"),
            format!("`{state}` is not a state"),
        )),
    }
}
