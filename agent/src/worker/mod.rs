//! The agent's loop: lease, hand to the measuring process, report, renew.
//!
//! One task owns everything that is held. The measuring process has the device to itself and always finds its next job
//! ready; calls to the coordinator go on beside it and may fail for as long as they like: what is held is measured all
//! the same, and reported when the coordinator is back.

mod holdings;
mod hours;
mod keeper;
mod spool;

use std::time::Duration;

use anyhow::Context as _;
use rand::RngExt as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tonic::{Code, Status};
use wattfarm_cost::Platform;
use wattfarm_proto::connect::{Connection, unary};
use wattfarm_proto::error::is_verdict;
use wattfarm_proto::v1;
use wattfarm_proto::v1::report_results_request::Report;

use crate::identity::Rotation;
use crate::measuring::{Job, Word};
use holdings::Holdings;
pub use hours::{Hours, HoursError};
pub use keeper::{Keeper, Wish};
pub use spool::Spool;

/// Leases held at once: enough that the measuring process never waits for a round trip, few enough that an agent that dies
/// holds little up.
const HELD_MAX: usize = 16;

/// Below this many jobs ahead of the measuring process, more are leased.
const AHEAD_MIN: usize = 8;

/// How often leases are renewed. A lease lasts 25 s, so two renewals may be lost.
const RENEW_EVERY: Duration = Duration::from_secs(8);

/// How long the coordinator may keep a request for work waiting.
const WAIT: Duration = Duration::from_secs(15);

/// How long a draining agent waits before it asks again whether it still is.
const DRAINING_PAUSE: Duration = Duration::from_secs(5);

/// After how long a change of the credential that failed is tried again.
const ROTATION_RETRY: Duration = Duration::from_secs(600);

/// How long the last reports may take at the end.
const FAREWELL: Duration = Duration::from_secs(5);

/// A pause that doubles with each failure in a row, with jitter, so that a farm doesn't return all at once.
struct Backoff {
    failures: u32,
    until: Instant,
}

impl Backoff {
    fn new() -> Self {
        Self {
            failures: 0,
            until: Instant::now(),
        }
    }

    fn succeeded(&mut self) {
        self.failures = 0;
    }

    fn failed(&mut self) {
        let longest = Duration::from_millis(250) * 2u32.pow(self.failures.min(6));
        self.failures += 1;
        self.until = Instant::now() + longest.mul_f64(rand::rng().random_range(0.5..1.0));
    }
}

/// The way to the measuring process.
pub struct Process {
    /// What it shall measure.
    pub jobs: mpsc::Sender<Job>,
    /// What it says.
    pub news: mpsc::Receiver<Word>,
    /// What its keeper shall do with it.
    pub wish: watch::Sender<Wish>,
    /// When the owner lends the device.
    pub hours: Hours,
}

/// How often the owner's hours are looked at.
const HOURS_EVERY: Duration = Duration::from_secs(5);

/// Works for the coordinator until `stop` is done. Then the measurement in progress is given up, everything unmeasured
/// handed back, and everything measured reported.
///
/// # Errors
/// When the coordinator no longer knows this agent's credential, or the measuring process has died.
pub async fn run(
    mut connection: Connection,
    rotation: Rotation,
    Process {
        jobs,
        mut news,
        wish,
        hours,
    }: Process,
    platform: &Platform,
    (mut spool, spooled): (Spool, Vec<Report>),
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let mut holdings = Holdings::with_reports(spooled);
    let mut renewals = interval(RENEW_EVERY);
    renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut lease_backoff, mut report_backoff) = (Backoff::new(), Backoff::new());
    let mut leasing = None;
    let mut reporting = None;
    let mut renewing = None;
    let mut telling = None;
    let mut looks = interval(HOURS_EVERY);
    let mut rotating = None;
    let mut rotate_at = rotation.due_in().map(|due_in| Instant::now() + due_in);
    tokio::pin!(stop);
    loop {
        let is_due = rotate_at.is_some_and(|at| at <= Instant::now());
        if is_due
            && rotating.is_none()
            && reporting.is_none()
            && renewing.is_none()
            && telling.is_none()
        {
            // No call may be under way while the credential changes. The wait for work is given up: what it may have got
            // goes back to the queue when work is asked for again.
            leasing = None;
            rotating = Some(Box::pin(rotation.rotate(connection.clone())));
        }
        while let Some(job) = holdings.next_to_measure() {
            match jobs.try_send(job) {
                Ok(()) => holdings.started(),
                Err(mpsc::error::TrySendError::Full(_)) => break,
                Err(mpsc::error::TrySendError::Closed(_)) => {
                    anyhow::bail!("the measuring process has ended")
                }
            }
        }
        let may_lease = *wish.borrow() == Wish::Measure && !holdings.is_suspect();
        if rotating.is_none() && leasing.is_none() && may_lease && holdings.ahead() < AHEAD_MIN {
            leasing = Some(Box::pin(lease(
                connection.clone(),
                holdings.request(HELD_MAX),
                lease_backoff.until,
            )));
        }
        if telling.is_none()
            && !is_due
            && let Some(found) = holdings.canary()
        {
            telling = Some(Box::pin(tell(
                connection.clone(),
                found.clone(),
                report_backoff.until,
            )));
        }
        if !is_due && reporting.is_none() && holdings.has_reports() {
            reporting = Some(Box::pin(report(
                connection.clone(),
                holdings.reports(),
                report_backoff.until,
            )));
        }
        tokio::select! {
            () = &mut stop => break,
            answer = async { leasing.as_mut().expect("guarded").await }, if leasing.is_some() => {
                leasing = None;
                match answer {
                    Ok(answer) => {
                        lease_backoff.succeeded();
                        if answer.draining {
                            tracing::info!("draining: no more jobs for now");
                            lease_backoff.until = Instant::now() + DRAINING_PAUSE;
                        }
                        for message in answer.leases {
                            holdings.take(message);
                        }
                    }
                    Err(status) => {
                        give_up_if_unknown(&status)?;
                        tracing::warn!(error = %status.message(), "could not lease jobs");
                        lease_backoff.failed();
                    }
                }
            }
            answer = async { reporting.as_mut().expect("guarded").await }, if reporting.is_some() => {
                reporting = None;
                match answer {
                    Ok(Reported { count, unwanted }) => {
                        report_backoff.succeeded();
                        holdings.reported(count);
                        holdings.unwanted(&unwanted);
                        keep(&mut spool, &holdings);
                    }
                    Err(status) => {
                        give_up_if_unknown(&status)?;
                        tracing::warn!(error = %status.message(), "could not report");
                        report_backoff.failed();
                        if is_verdict(&status) {
                            holdings.refused(&status);
                            keep(&mut spool, &holdings);
                        }
                    }
                }
            }
            _ = renewals.tick(), if rotating.is_none() && renewing.is_none() && !holdings.is_empty() => {
                renewing = Some(Box::pin(renew(connection.clone(), holdings.leases())));
            }
            answer = async { renewing.as_mut().expect("guarded").await }, if renewing.is_some() => {
                renewing = None;
                match answer {
                    Ok(answer) => holdings.lost(&answer.lost),
                    // What is held goes on. Nobody else can have it while the coordinator is away, and what it gives to
                    // another while it cannot be reached from here ends as a replica.
                    Err(status) => {
                        give_up_if_unknown(&status)?;
                        tracing::warn!(error = %status.message(), "could not renew leases");
                    }
                }
            }
            answer = async { telling.as_mut().expect("guarded").await }, if telling.is_some() => {
                telling = None;
                match answer {
                    Ok(()) => holdings.canary_told(),
                    Err(status) => {
                        give_up_if_unknown(&status)?;
                        tracing::warn!(error = %status.message(), "could not tell of the canary");
                        report_backoff.failed();
                    }
                }
            }
            changed = async { rotating.as_mut().expect("guarded").await }, if rotating.is_some() => {
                rotating = None;
                match changed {
                    Ok(changed) => {
                        connection = changed;
                        tracing::info!("changed the credential");
                        rotate_at = rotation.due_in().map(|due_in| Instant::now() + due_in);
                    }
                    Err(error) => {
                        tracing::warn!(error = format!("{error:#}"), "could not change the credential");
                        rotate_at = Some(Instant::now() + ROTATION_RETRY);
                    }
                }
            }
            () = sleep_until(rotate_at.unwrap_or_else(Instant::now)), if rotate_at.is_some() && !is_due => (),
            _ = looks.tick() => {
                let now = hours.wish();
                let is_new = wish.send_if_modified(|wish| std::mem::replace(wish, now) != now);
                if is_new && now == Wish::Rest {
                    tracing::info!("the owner's hours have begun: no more jobs until they end");
                    holdings.return_waiting("the device's owner wants it now");
                }
            }
            word = news.recv() => match word.context("the measuring process has ended")? {
                Word::Done(lease, outcome) => {
                    let report = holdings.finished(lease, outcome);
                    if let Some(Err(error)) = report.map(|report| spool.append(report)) {
                        tracing::warn!(%error, "could not spool a report: it is lost if this agent dies");
                    }
                }
                Word::Canary(found) => holdings.saw_canary(found),
                Word::Ready(found) => anyhow::ensure!(
                    found == *platform,
                    "the device is another platform now (`{}`): start the agent anew", found.slug()
                ),
                Word::Alive => (),
            }
        }
    }
    wish.send_replace(Wish::Stop);
    drop(jobs);
    // An answer on its way may hold leases that nobody will take: they expire.
    drop(leasing);
    let farewell = async {
        // What is measured goes first, then what the measuring process hands back when it has seen the signal: its
        // channel closes when it has ended.
        holdings.return_waiting("the agent is stopping");
        loop {
            while holdings.has_reports() {
                match report(connection.clone(), holdings.reports(), Instant::now()).await {
                    Ok(Reported { count, .. }) => holdings.reported(count),
                    Err(status) if is_verdict(&status) => holdings.refused(&status),
                    Err(_) => return,
                }
            }
            match news.recv().await {
                Some(Word::Done(lease, outcome)) => {
                    holdings.finished(lease, outcome);
                }
                Some(Word::Canary(found)) => holdings.saw_canary(found),
                Some(Word::Ready(_) | Word::Alive) => (),
                None => return,
            }
        }
    };
    if timeout(FAREWELL, farewell).await.is_err() || !holdings.is_empty() {
        tracing::warn!(
            "left without handing everything in: what is measured goes in with the next start, the other jobs go to \
             another agent when their leases expire"
        );
    }
    keep(&mut spool, &holdings);
    Ok(())
}

/// Leaves in the spool what is not acknowledged yet.
fn keep(spool: &mut Spool, holdings: &Holdings) {
    if let Err(error) = spool.keep(holdings.unacknowledged()) {
        tracing::warn!(%error, "could not clear the spool: its reports are handed in once more with the next start");
    }
}

/// A credential that is unknown stays unknown: an operator must act.
fn give_up_if_unknown(status: &Status) -> anyhow::Result<()> {
    match status.code() {
        Code::Unauthenticated => Err(anyhow::anyhow!(status.message().to_owned()))
            .context("the coordinator does not know this agent: enrol it anew (delete its identity.json, give a token)"),
        _ => Ok(()),
    }
}

async fn lease(
    connection: Connection,
    request: v1::LeaseJobsRequest,
    not_before: Instant,
) -> Result<v1::LeaseJobsResponse, Status> {
    sleep_until(not_before).await;
    let request = v1::LeaseJobsRequest {
        wait_ms: WAIT.as_millis() as u32,
        ..request
    };
    Ok(connection
        .agents()
        .lease_jobs(unary(request))
        .await?
        .into_inner())
}

async fn renew(
    connection: Connection,
    leases: Vec<u64>,
) -> Result<v1::RenewLeasesResponse, Status> {
    Ok(connection
        .agents()
        .renew_leases(unary(v1::RenewLeasesRequest { leases }))
        .await?
        .into_inner())
}

/// Tells what was found of the canary.
async fn tell(
    connection: Connection,
    found: Option<String>,
    not_before: Instant,
) -> Result<(), Status> {
    sleep_until(not_before).await;
    let request = v1::ReportCanaryRequest { because: found };
    connection.agents().report_canary(unary(request)).await?;
    Ok(())
}

/// What became of reports.
struct Reported {
    /// How many were acknowledged, which is all of them.
    count: usize,
    /// Leases that nobody waits for any more.
    unwanted: Vec<u64>,
}

/// Hands in reports.
async fn report(
    connection: Connection,
    reports: Vec<Report>,
    not_before: Instant,
) -> Result<Reported, Status> {
    sleep_until(not_before).await;
    let count = reports.len();
    let response = connection
        .agents()
        .report_results(unary(v1::ReportResultsRequest { reports }))
        .await?;
    Ok(Reported {
        count,
        unwanted: response.into_inner().unwanted,
    })
}
