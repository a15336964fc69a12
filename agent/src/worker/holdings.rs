//! What the agent holds: leases waiting, with the measuring process, and measured but not yet acknowledged. Pure.

use std::collections::VecDeque;

use tonic::Status;
use wattfarm_cost::measurement::Subject;
use wattfarm_proto::convert::{parse, required};
use wattfarm_proto::error::FieldError;
use wattfarm_proto::v1::lease_jobs_response::Lease;
use wattfarm_proto::v1::report_results_request::Report;
use wattfarm_proto::v1::report_results_request::report::Outcome as Wire;
use wattfarm_proto::{REPORTS_MAX, v1};

use crate::measuring::{Job, Outcome};

/// What a canary told: all is well, or the reason why the device is not itself.
pub(super) type Found = Option<String>;

/// Everything between a lease and its acknowledgement, each lease in exactly one of the three.
#[derive(Default)]
pub(super) struct Holdings {
    waiting: VecDeque<Job>,
    measuring: VecDeque<Job>,
    unacknowledged: VecDeque<Report>,
    /// What was found of the canary, each with how many unacknowledged reports go before it: what was measured before it was
    /// judged by it, and what comes after was not.
    canaries: VecDeque<(usize, Found)>,
    /// After a refusal reports go one at a time, until the one at fault is found: this many more.
    singly: usize,
}

impl Holdings {
    /// Takes a lease. One that cannot be understood is reported as failed: a newer coordinator may have sent it.
    pub(super) fn take(&mut self, message: Lease) {
        match job(&message) {
            Ok(job) => self.waiting.push_back(job),
            Err(error) => {
                let outcome = Some(Wire::Failed(format!(
                    "this agent does not understand the job: {error}"
                )));
                self.unacknowledged.push_back(Report {
                    job_id: message.job_id,
                    lease: message.lease,
                    outcome,
                });
            }
        }
    }

    /// The job to hand to the measuring process next.
    pub(super) fn next_to_measure(&self) -> Option<Job> {
        self.waiting.front().cloned()
    }

    /// The measuring process has taken the job that was next.
    pub(super) fn started(&mut self) {
        self.measuring.extend(self.waiting.pop_front());
    }

    /// With what an earlier run measured and could not hand in.
    pub(super) fn with_reports(reports: Vec<Report>) -> Self {
        Self {
            unacknowledged: reports.into(),
            ..Self::default()
        }
    }

    /// Every report that is not acknowledged yet, the oldest first.
    pub(super) fn unacknowledged(&self) -> impl Iterator<Item = &Report> {
        self.unacknowledged.iter()
    }

    /// The measuring process is done with the job of this lease. Returns its report; `None` for a job that it never had.
    pub(super) fn finished(&mut self, lease: u64, outcome: Outcome) -> Option<&Report> {
        let index = self.measuring.iter().position(|job| job.lease == lease)?;
        let job = self.measuring.remove(index)?;
        let outcome = match outcome {
            Outcome::Measured(reading) => Wire::Reading((&*reading).into()),
            Outcome::Infeasible(reason) => Wire::Infeasible(reason),
            Outcome::Failed(reason) => Wire::Failed(reason),
            Outcome::Returned => {
                Wire::Returned("the agent stops, or has not the device to itself".to_owned())
            }
        };
        Some(self.push(&job, outcome))
    }

    fn push(&mut self, job: &Job, outcome: Wire) -> &Report {
        let report = Report {
            job_id: job.id.clone(),
            lease: job.lease,
            outcome: Some(outcome),
        };
        self.unacknowledged.push_back(report);
        self.unacknowledged.back().expect("just put there")
    }

    /// The canary was measured. A device that is not itself hands back what it has not begun.
    pub(super) fn saw_canary(&mut self, found: Found) {
        if found.is_some() {
            let waiting = self.waiting();
            self.hand_back(&waiting, "the device is not itself");
        }
        self.canaries.push_back((self.unacknowledged.len(), found));
    }

    /// What of canaries is to be told next: every report before it is acknowledged.
    pub(super) fn canary(&self) -> Option<&Found> {
        let (before, found) = self.canaries.front()?;
        (*before == 0).then_some(found)
    }

    /// The coordinator has heard what [`Self::canary`] said.
    pub(super) fn canary_told(&mut self) {
        self.canaries.pop_front();
    }

    /// Whether the coordinator is still to hear that the device is not itself: more jobs are not for it.
    pub(super) fn is_suspect(&self) -> bool {
        self.canaries.iter().any(|(_, found)| found.is_some())
    }

    /// `count` reports have gone.
    fn gone(&mut self, count: usize) {
        self.singly = self.singly.saturating_sub(count);
        for (before, _) in &mut self.canaries {
            *before = before.saturating_sub(count);
        }
    }

    fn waiting(&self) -> Vec<u64> {
        self.waiting.iter().map(|job| job.lease).collect()
    }

    /// Jobs that the measuring process has before it.
    pub(super) fn ahead(&self) -> usize {
        self.waiting.len() + self.measuring.len()
    }

    /// Whether everything is handed in. What a canary said goes with the process: the next one begins with a canary.
    pub(super) fn is_empty(&self) -> bool {
        self.ahead() == 0 && self.unacknowledged.is_empty()
    }

    /// Every lease that is held.
    pub(super) fn leases(&self) -> Vec<u64> {
        let jobs = self
            .waiting
            .iter()
            .chain(&self.measuring)
            .map(|job| job.lease);
        jobs.chain(self.unacknowledged.iter().map(|report| report.lease))
            .collect()
    }

    /// A request that fills up to `held_max`.
    pub(super) fn request(&self, held_max: usize) -> v1::LeaseJobsRequest {
        let max_jobs = held_max.saturating_sub(self.ahead()).max(1) as u32;
        v1::LeaseJobsRequest {
            max_jobs,
            wait_ms: 0,
            held: self.leases(),
        }
    }

    /// Hands back what nobody waits for any more, unless it has begun.
    pub(super) fn unwanted(&mut self, leases: &[u64]) {
        let waiting = self.waiting.iter();
        let unwanted: Vec<u64> = waiting
            .map(|job| job.lease)
            .filter(|lease| leases.contains(lease))
            .collect();
        self.hand_back(&unwanted, "nobody waits for it any more");
    }

    /// Leases that are no longer ours: what has not begun is forgotten, what has is reported all the same.
    pub(super) fn lost(&mut self, leases: &[u64]) {
        self.waiting.retain(|job| !leases.contains(&job.lease));
    }

    pub(super) fn has_reports(&self) -> bool {
        !self.unacknowledged.is_empty()
    }

    /// The reports to hand in next, oldest first.
    pub(super) fn reports(&self) -> Vec<Report> {
        let count = if self.singly > 0 { 1 } else { REPORTS_MAX };
        self.unacknowledged.iter().take(count).cloned().collect()
    }

    /// The oldest `count` reports have been acknowledged.
    pub(super) fn reported(&mut self, count: usize) {
        self.unacknowledged
            .drain(..count.min(self.unacknowledged.len()));
        self.gone(count);
    }

    /// The coordinator refused the last reports for good. None was stored: they are handed in again one at a time, and
    /// one that is refused alone is dropped, with its reason in the log.
    pub(super) fn refused(&mut self, status: &Status) {
        let handed_in = self.reports().len();
        if handed_in > 1 {
            self.singly = handed_in;
            return;
        }
        if let Some(report) = self.unacknowledged.pop_front() {
            tracing::error!(job.id = report.job_id, lease = report.lease, error = %status, "report refused: dropped");
        }
        self.gone(1);
    }

    /// Hands back what the measuring process has not got yet.
    pub(super) fn return_waiting(&mut self, because: &str) {
        let waiting = self.waiting();
        self.hand_back(&waiting, because);
    }

    fn hand_back(&mut self, leases: &[u64], because: &str) {
        let (back, waiting): (VecDeque<Job>, VecDeque<Job>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|job| leases.contains(&job.lease));
        self.waiting = waiting;
        for job in back {
            self.push(&job, Wire::Returned(because.to_owned()));
        }
    }
}

fn job(message: &Lease) -> Result<Job, FieldError> {
    let subject = required("subject", message.subject.clone())?;
    Ok(Job {
        id: message.job_id.clone(),
        lease: message.lease,
        subject: Subject::try_from(subject).map_err(|error| error.within("subject"))?,
        recipe: parse("recipe", &message.recipe)?,
        want_power: message.want_power,
    })
}

#[cfg(test)]
mod tests {
    use wattfarm_cost::Kind;

    use super::*;

    fn lease(number: u64) -> Lease {
        Lease {
            lease: number,
            ttl_ms: 25_000,
            job_id: format!("job {number}"),
            subject: Some((&Subject::Layer(Kind::Relu.example())).into()),
            recipe: "layer-in-network/1".to_owned(),
            want_power: false,
        }
    }

    fn holding(numbers: std::ops::Range<u64>) -> Holdings {
        let mut holdings = Holdings::default();
        numbers.for_each(|number| holdings.take(lease(number)));
        holdings
    }

    fn finish(holdings: &mut Holdings, number: u64) {
        let report = holdings.finished(number, Outcome::Failed("x".to_owned()));
        assert_eq!(report.expect("it was measured").lease, number);
    }

    #[test]
    fn a_lease_is_held_until_it_is_acknowledged() {
        let mut holdings = holding(1..4);
        holdings.started();
        assert_eq!(holdings.leases(), [2, 3, 1]);
        finish(&mut holdings, 1);
        assert_eq!((holdings.ahead(), holdings.leases()), (2, vec![2, 3, 1]));
        holdings.reported(1);
        assert_eq!(holdings.leases(), [2, 3]);
    }

    #[test]
    fn what_was_lost_is_not_begun_but_what_was_begun_is_reported() {
        let mut holdings = holding(1..4);
        holdings.started();
        holdings.lost(&[1, 2]);
        assert_eq!(holdings.leases(), [3, 1]);
        finish(&mut holdings, 1);
        assert_eq!(holdings.reports()[0].lease, 1);
    }

    #[test]
    fn what_nobody_wants_any_more_goes_back_unless_it_has_begun() {
        let mut holdings = holding(1..5);
        holdings.started();
        holdings.unwanted(&[1, 2, 4]);
        assert_eq!(holdings.leases(), [3, 1, 2, 4]);
        assert_eq!((holdings.ahead(), holdings.reports().len()), (2, 2));
        holdings.unwanted(&[2, 4]);
        assert_eq!(holdings.reports().len(), 2, "each goes back once");
    }

    #[test]
    fn one_refused_report_does_not_take_the_others_with_it() {
        let mut holdings = holding(1..4);
        for number in 1..4 {
            holdings.started();
            finish(&mut holdings, number);
        }
        let refusal = Status::invalid_argument("bad");
        assert_eq!(holdings.reports().len(), 3);
        holdings.refused(&refusal);
        assert_eq!(holdings.reports().len(), 1);
        holdings.reported(1);
        holdings.refused(&refusal);
        assert_eq!(
            holdings
                .reports()
                .iter()
                .map(|report| report.lease)
                .collect::<Vec<_>>(),
            [3]
        );
        holdings.reported(1);
        assert!(holdings.is_empty());
    }

    #[test]
    fn a_canary_is_told_when_what_was_measured_before_it_is_acknowledged() {
        let mut holdings = holding(1..6);
        for number in 1..3 {
            holdings.started();
            finish(&mut holdings, number);
        }
        holdings.saw_canary(None);
        holdings.started();
        finish(&mut holdings, 3);
        holdings.saw_canary(Some("slow".to_owned()));
        assert_eq!((holdings.ahead(), holdings.canary()), (0, None));
        holdings.reported(1);
        assert_eq!(holdings.canary(), None);
        holdings.reported(1);
        assert_eq!(holdings.canary(), Some(&None));
        holdings.canary_told();
        assert_eq!(holdings.canary(), None);
        // Those that the quarantined device handed back, too, go before the word of why.
        holdings.reported(2);
        assert_eq!((holdings.canary(), holdings.is_suspect()), (None, true));
        holdings.reported(1);
        assert_eq!(holdings.canary(), Some(&Some("slow".to_owned())));
    }

    #[test]
    fn a_job_from_the_future_is_an_answer() {
        let mut holdings = Holdings::default();
        holdings.take(Lease {
            recipe: "telepathy/9".to_owned(),
            ..lease(7)
        });
        assert!(
            matches!(&holdings.reports()[0].outcome, Some(Wire::Failed(reason)) if reason.contains("recipe"))
        );
    }

    #[test]
    fn at_the_end_what_waits_goes_back() {
        let mut holdings = holding(1..4);
        holdings.started();
        holdings.return_waiting("the agent is stopping");
        assert_eq!(
            holdings.ahead(),
            1,
            "the measuring process hands back its own"
        );
        assert!(
            holdings
                .reports()
                .iter()
                .all(|report| matches!(report.outcome, Some(Wire::Returned(_))))
        );
        assert_eq!(holdings.reports().len(), 2);
    }
}
