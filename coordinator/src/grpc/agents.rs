//! The service for agents.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Request, Response, Status};
use uuid::Uuid;
use wattfarm_cost::Platform;
use wattfarm_cost::id::{AgentId, LeaseNumber};
use wattfarm_cost::measurement::Reading;
use wattfarm_proto::convert::{parse, required};
use wattfarm_proto::error::FieldError;
use wattfarm_proto::v1::agent_service_server::AgentService;
use wattfarm_proto::v1::report_results_response::Acknowledgement as Wire;
use wattfarm_proto::{REPORTS_MAX, v1};

use super::stream::Follower;
use super::{Shell, canary, cut, within};
use crate::farm::{
    Acknowledgement, Enroll, LEASE_TTL, Lease, LeaseJobs, Outcome, RenewLeases, Report,
    ReportResults, RotateCredential, SecretHash, UseToken,
};
use crate::secret::{self, SECRET_BYTES};
use crate::signal::Signal;

/// The longest wait for a job, in ms.
const WAIT_MS_MAX: u32 = 20_000;

/// The most leases that a call may name: far more than an agent can hold.
const LEASES_MAX: usize = 1024;

/// What is kept of an agent's words about a job, in characters.
const WORDS_MAX: usize = 2000;

pub(super) struct Agents(pub(super) Shell);

#[tonic::async_trait]
impl AgentService for Agents {
    async fn enroll(
        &self,
        request: Request<v1::EnrollRequest>,
    ) -> Result<Response<v1::EnrollResponse>, Status> {
        self.0.limit(&request, None)?;
        let step = request.extensions().get::<Step>().copied();
        let message = request.into_inner();
        let credential = drawn(message.credential)?;
        let token = SecretHash::of(&message.token.trim().to_ascii_lowercase());
        if step == Some(Step::Token) {
            self.0.request(UseToken { token, credential }).await?;
            return Ok(Response::new(v1::EnrollResponse::default()));
        }
        within("name", message.name.chars().count(), 1..=120)?;
        if message.name.chars().any(char::is_control) {
            return Err(FieldError::new("name", "holds a control character").into());
        }
        let platform = Platform::try_from(required("platform", message.platform)?);
        let enrolled = self.0.request(Enroll {
            token: (step != Some(Step::Agent)).then_some(token),
            credential,
            name: message.name,
            platform: platform.map_err(|error| error.within("platform"))?,
            fresh_id: AgentId(Uuid::now_v7()),
        });
        let enrolled = enrolled.await?;
        tracing::info!(agent.id = %enrolled.agent, platform.slug = enrolled.slug, "agent enrolled");
        Ok(Response::new(v1::EnrollResponse {
            agent_id: enrolled.agent.to_string(),
            platform_slug: enrolled.slug,
            platform: enrolled.platform.to_string(),
        }))
    }

    async fn lease_jobs(
        &self,
        request: Request<v1::LeaseJobsRequest>,
    ) -> Result<Response<v1::LeaseJobsResponse>, Status> {
        let credential = self.0.credential(&request)?;
        let message = request.into_inner();
        let jobs_max = within("max_jobs", message.max_jobs, 1..=64)? as usize;
        let wait =
            Duration::from_millis(within("wait_ms", message.wait_ms, 0..=WAIT_MS_MAX)?.into());
        let mut held = Some(lease_numbers("held", message.held)?);
        let began = Instant::now();
        let mut follower = Follower::new(&self.0);
        let mut drained_before = None;
        let leased = loop {
            let leased = self
                .0
                .request(LeaseJobs {
                    credential,
                    jobs_max,
                    held: held.take(),
                })
                .await?;
            let patience = wait.saturating_sub(began.elapsed());
            // An agent that drains waits like any other, so that it doesn't ask again and again; only when it happens
            // during the wait, it hears of it at once.
            let drained_before = *drained_before.get_or_insert(leased.draining);
            let is_drained_now = leased.draining && !drained_before;
            if !leased.leases.is_empty() || is_drained_now || patience.is_zero() {
                break leased;
            }
            follower
                .wait(patience, |signal| match signal {
                    Signal::Work(platform) => platform == leased.platform,
                    // Whether it goes on shows as a change of its own.
                    Signal::Progress(platform) => leased.draining && platform == leased.platform,
                    Signal::Measurements | Signal::Models(_) => false,
                })
                .await?;
        };
        // The agent counts from when it sent the request, so the time that it waited is its own.
        let ttl_ms = (LEASE_TTL + began.elapsed()).as_millis() as u32;
        let lease = |Lease { number, job, task }: Lease| v1::lease_jobs_response::Lease {
            lease: number.0,
            ttl_ms,
            job_id: job.to_string(),
            subject: Some((&task.subject).into()),
            recipe: task.recipe.to_string(),
            // A meter that is there costs a fraction of the job: nothing is gained by leaving it out.
            want_power: true,
        };
        Ok(Response::new(v1::LeaseJobsResponse {
            leases: leased.leases.into_iter().map(lease).collect(),
            draining: leased.draining,
        }))
    }

    async fn renew_leases(
        &self,
        request: Request<v1::RenewLeasesRequest>,
    ) -> Result<Response<v1::RenewLeasesResponse>, Status> {
        let credential = self.0.credential(&request)?;
        let leases = lease_numbers("leases", request.into_inner().leases)?;
        let lost = self.0.request(RenewLeases { credential, leases }).await?;
        Ok(Response::new(v1::RenewLeasesResponse {
            ttl_ms: LEASE_TTL.as_millis() as u32,
            lost: lost.into_iter().map(|lease| lease.0).collect(),
        }))
    }

    async fn report_canary(
        &self,
        request: Request<v1::ReportCanaryRequest>,
    ) -> Result<Response<v1::ReportCanaryResponse>, Status> {
        let credential = self.0.credential(&request)?;
        let because = request.into_inner().because;
        let because = because.map(|because| cut(&because, WORDS_MAX));
        canary::report(&self.0, credential, because).await?;
        Ok(Response::new(v1::ReportCanaryResponse {}))
    }

    async fn rotate_credential(
        &self,
        request: Request<v1::RotateCredentialRequest>,
    ) -> Result<Response<v1::RotateCredentialResponse>, Status> {
        let credential = self.0.credential(&request)?;
        let next = drawn(request.into_inner().credential)?;
        self.0
            .request(RotateCredential { credential, next })
            .await?;
        Ok(Response::new(v1::RotateCredentialResponse {}))
    }

    async fn report_results(
        &self,
        request: Request<v1::ReportResultsRequest>,
    ) -> Result<Response<v1::ReportResultsResponse>, Status> {
        let credential = self.0.credential(&request)?;
        let message = request.into_inner();
        within("reports", message.reports.len(), 0..=REPORTS_MAX)?;
        let convert = |(index, message)| {
            report(message).map_err(|error: FieldError| error.within(&format!("reports[{index}]")))
        };
        let reports = message
            .reports
            .into_iter()
            .enumerate()
            .map(convert)
            .collect::<Result<_, _>>()?;
        let booked = self
            .0
            .request(ReportResults {
                credential,
                reports,
            })
            .await?;
        if booked
            .acknowledgements
            .contains(&Acknowledgement::Implausible)
        {
            tracing::warn!(agent.id = %booked.agent, "an agent reported what cannot be");
        }
        let wire = |acknowledgement| match acknowledgement {
            Acknowledgement::Taken => Wire::Taken.into(),
            Acknowledgement::Replica => Wire::Replica.into(),
            Acknowledgement::Known => Wire::Known.into(),
            Acknowledgement::Implausible => Wire::Implausible.into(),
        };
        Ok(Response::new(v1::ReportResultsResponse {
            acknowledgements: booked.acknowledgements.into_iter().map(wire).collect(),
            unwanted: booked.unwanted.into_iter().map(|lease| lease.0).collect(),
        }))
    }
}

/// A part of an enrolment, where the token and the agent are of two shards. It is in the call's extensions, where nobody
/// outside can put it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The token is used.
    Token,
    /// The agent gets its identity for a token that was used.
    Agent,
}

/// The hash of a credential that an agent drew.
pub(crate) fn drawn(credential: Vec<u8>) -> Result<SecretHash, FieldError> {
    let credential: [u8; SECRET_BYTES] = (credential.try_into())
        .map_err(|_| FieldError::new("credential", "must have 32 bytes, drawn at random"))?;
    Ok(SecretHash::of(&secret::written(&credential)))
}

fn report(message: v1::report_results_request::Report) -> Result<Report, FieldError> {
    use v1::report_results_request::report::Outcome as Wire;
    let outcome = match required("outcome", message.outcome)? {
        Wire::Reading(reading) => {
            let reading = Reading::try_from(reading).map_err(|error| error.within("reading"))?;
            Outcome::Reading(Box::new(reading))
        }
        Wire::Infeasible(because) => Outcome::Infeasible(cut(&because, WORDS_MAX)),
        Wire::Failed(because) => Outcome::Failed(cut(&because, WORDS_MAX)),
        Wire::Returned(because) => Outcome::Returned(cut(&because, WORDS_MAX)),
    };
    Ok(Report {
        job: parse("job_id", &message.job_id)?,
        lease: LeaseNumber(message.lease),
        outcome,
    })
}

fn lease_numbers(field: &str, leases: Vec<u64>) -> Result<Vec<LeaseNumber>, FieldError> {
    within(field, leases.len(), 0..=LEASES_MAX)?;
    Ok(leases.into_iter().map(LeaseNumber).collect())
}
