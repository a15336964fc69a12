//! `Measure`: what a user wants measured now, told as it comes.

use std::collections::BTreeSet;
use std::time::Duration;

use prost::Message as _;
use tonic::{Response, Status};
use uuid::Uuid;
use wattfarm_cost::id::JobId;
use wattfarm_cost::{Measurement, Subject};
use wattfarm_proto::convert::each;
use wattfarm_proto::error::FieldError;
use wattfarm_proto::v1;
use wattfarm_proto::v1::measure_response::{Failure, Part};

use super::stream::{Follower, Messages, stream};
use super::trainer::NEWS_INTERVAL;
use super::{Shell, wire, within};
use crate::farm::{FindPlatform, Follow, Followed, Order, State};
use crate::signal::Signal;

/// After this long without news the stream says why.
const SILENCE: Duration = Duration::from_secs(5);

/// The largest subject: a lease or a measurement of it stays well below what a message may hold.
const SUBJECT_BYTES_MAX: usize = 1 << 20;

/// Orders the measurements and tells them as they come. When the client goes away before the end, what it ordered stays
/// in the queue and is measured, though nobody else wants it: the same call finds it later, and the farm bounds how much
/// may wait.
pub(super) async fn measure(
    shell: &Shell,
    message: v1::MeasureRequest,
) -> Result<Response<Messages<v1::MeasureResponse>>, Status> {
    within("subjects", message.subjects.len(), 1..=256)?;
    let replicas = message.replicas;
    let subjects: Vec<Subject> = each("subjects", message.subjects)?;
    for (index, subject) in subjects.iter().enumerate() {
        // As the farm will send it on, with every default written out.
        let bytes = v1::Subject::from(subject).encoded_len();
        if bytes > SUBJECT_BYTES_MAX {
            let reason = format!("has {bytes} bytes, more than {SUBJECT_BYTES_MAX}");
            return Err(FieldError::new(format!("subjects[{index}]"), reason).into());
        }
    }
    let subjects = subjects
        .into_iter()
        .map(|subject| (JobId(Uuid::now_v7()), subject))
        .collect();
    let platform = shell
        .request(FindPlatform(message.platform.clone()))
        .await?
        .hash;
    let mut follower = Follower::new(shell);
    let mut tasks = shell
        .request(Order {
            platform: message.platform,
            subjects,
            replicas,
        })
        .await?;
    let own = shell.clone();
    Ok(stream(shell, |sink| async move {
        let shell = own;
        let send = |part| sink.send(v1::MeasureResponse { part: Some(part) });
        let mut told: BTreeSet<u64> = BTreeSet::new();
        loop {
            let mut waiting = None;
            let followed = shell.ask(Follow(tasks.clone())).await?;
            // Backwards, so that a task can be taken out, and the first that waits says why.
            for (index, job) in followed.into_iter().enumerate().rev() {
                for &sequence in job
                    .measurements
                    .iter()
                    .filter(|sequence| !told.contains(*sequence))
                {
                    if let Some(measurement) = read(&shell, sequence).await? {
                        send(Part::Measurement((&measurement).into())).await?;
                    }
                }
                told.extend(&job.measurements);
                match progress(&job, replicas) {
                    Progress::Complete => drop(tasks.remove(index)),
                    Progress::Failed(failure) => {
                        send(Part::Failure(failure)).await?;
                        tasks.remove(index);
                    }
                    Progress::Waits => waiting = Some(job.because),
                }
            }
            let Some(because) = waiting else {
                return Ok(());
            };
            let matters = |signal| signal == Signal::Progress(platform);
            if !follower.wait(SILENCE, matters).await? {
                send(Part::Waiting(because)).await?;
            }
            follower.settle(NEWS_INTERVAL).await;
        }
    }))
}

/// How far one subject is.
enum Progress {
    /// As many measurements as wanted.
    Complete,
    /// There will be no more.
    Failed(Failure),
    /// More are to come.
    Waits,
}

fn progress(job: &Followed, replicas: u32) -> Progress {
    if job.measurements.len() as u64 >= u64::from(replicas) {
        return Progress::Complete;
    }
    match &job.state {
        Some(State::Queued | State::Leased { .. }) => Progress::Waits,
        Some(
            state @ (State::Infeasible { .. }
            | State::Parked { .. }
            | State::Withdrawn
            | State::Done),
        ) => Progress::Failed(Failure {
            subject_hash: job.subject.to_string(),
            state: wire::job_state(state).into(),
            because: job.because.clone(),
        }),
        None => Progress::Complete,
    }
}

async fn read(shell: &Shell, sequence: u64) -> Result<Option<Measurement>, Status> {
    let found = shell
        .read(move |store| store.measurements_after(sequence - 1, 1))
        .await?;
    Ok(found.into_iter().next())
}
