//! The promises, and what must be so if they are kept: written down beside the farm, from what goes in and comes out.

use std::collections::{BTreeMap, BTreeSet};

use wattfarm_coordinator::farm::{
    Acknowledgement, Change, Entry, Farm, Job, LEASE_TTL, Outcome, PROGRESS_MIN, Refusal, Reported,
    Retraction, SecretHash, State, Timestamp, Totals,
};
use wattfarm_coordinator::store::{MemoryStore, Store as _};
use wattfarm_cost::id::{AgentId, JobId, LeaseNumber};

use super::coordinator::credential as credential_of;
use super::network::{Answer, Ask};

/// A lease that is live, as the books have it.
#[derive(Debug, Clone, Copy)]
struct Live {
    lease: LeaseNumber,
    agent: AgentId,
    since: Timestamp,
    end: Timestamp,
}

/// The books of one farm.
#[derive(Debug)]
pub(super) struct Books {
    /// Live leases, by the farm in memory.
    live: BTreeMap<JobId, Live>,
    job_of: BTreeMap<LeaseNumber, JobId>,
    /// The newest lease, by the farm in memory.
    lease_last: LeaseNumber,
    /// On disk: whose each lease was, and of which job.
    granted: BTreeMap<LeaseNumber, (AgentId, JobId)>,
    /// On disk: the measurement of each lease.
    entries: BTreeMap<LeaseNumber, u64>,
    sequence: u64,
    /// On disk: the measurements that were taken back.
    retracted: BTreeSet<u64>,
    /// On disk: the jobs that there are.
    jobs: BTreeSet<JobId>,
    /// Leases under which a reading was not believed, by the farm in memory.
    disbelieved: BTreeSet<LeaseNumber>,
    /// Leases of whose reading somebody heard that it is taken.
    told: BTreeSet<LeaseNumber>,
}

/// What no layer of the simulation can be measured in.
pub(super) const IMPOSSIBLE_MS: f64 = 1e-10;

/// A reading under a lease carries its number, so that it can be recognised on disk.
pub(super) fn mark(lease: LeaseNumber) -> f64 {
    lease.0 as f64
}

impl Books {
    pub(super) fn new() -> Self {
        Self {
            live: BTreeMap::new(),
            job_of: BTreeMap::new(),
            lease_last: LeaseNumber(0),
            granted: BTreeMap::new(),
            entries: BTreeMap::new(),
            sequence: 0,
            retracted: BTreeSet::new(),
            jobs: BTreeSet::new(),
            disbelieved: BTreeSet::new(),
            told: BTreeSet::new(),
        }
    }

    pub(super) fn told(&self) -> usize {
        self.told.len()
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(super) fn granted(&self) -> usize {
        self.granted.len()
    }

    /// The coordinator started from its disk: every live lease has a full term.
    pub(super) fn restarted(&mut self, now: Timestamp, farm: &Farm) {
        self.live.clear();
        self.job_of.clear();
        // What was given and not stored, nobody was told: its number may be given again.
        let last = self.granted.last_key_value();
        self.lease_last = last.map_or(LeaseNumber(0), |(&last, _)| last);
        for job in farm.jobs() {
            if let State::Leased { agent, lease, .. } = job.state {
                self.grant(
                    job.id,
                    Live {
                        lease,
                        agent,
                        since: now,
                        end: now.plus(LEASE_TTL),
                    },
                );
            }
        }
    }

    fn grant(&mut self, job: JobId, live: Live) {
        self.job_of.insert(live.lease, job);
        self.live.insert(job, live);
    }

    /// The farm took an event, in memory.
    pub(super) fn applied(
        &mut self,
        now: Timestamp,
        event: Option<(&Ask, &Answer)>,
        changes: &[Change],
        farm: &Farm,
    ) {
        farm.check_changes(now, changes)
            .unwrap_or_else(|wrong| panic!("after {event:?}: {wrong}"));
        for change in changes {
            match change {
                Change::Job(job) => self.job_changed(now, event, job, changes),
                Change::JobGone(job) => {
                    assert!(
                        !self.live.contains_key(job),
                        "a job went while an agent had it"
                    );
                }
                Change::Entry(_)
                | Change::Task(..)
                | Change::Token(..)
                | Change::Key(..)
                | Change::Agent(_)
                | Change::Platform(_)
                | Change::Campaign(_)
                | Change::Model(_)
                | Change::Retraction(_)
                | Change::Total(_) => (),
            }
        }
        let Some((ask, answer)) = event else { return };
        match (ask, answer) {
            (Ask::Renew { credential, leases }, Answer::Renewed(lost)) => {
                for lease in leases.iter().filter(|lease| !lost.contains(lease)) {
                    let job = self
                        .job_of
                        .get(lease)
                        .and_then(|job| self.live.get_mut(job));
                    let live =
                        job.unwrap_or_else(|| panic!("lease {lease} was renewed, and is not live"));
                    live.end = now.plus(LEASE_TTL);
                }
                let wrongly = lost.iter().find(|&&lease| self.is_of(lease, *credential));
                assert_eq!(
                    wrongly, None,
                    "live, and its agent was told that it is lost"
                );
            }
            (Ask::Report { reports, .. }, Answer::Acknowledged(acknowledged)) => {
                let disbelieved = acknowledged.iter().filter(|(_, acknowledgement)| {
                    *acknowledgement == Acknowledgement::Implausible
                });
                self.disbelieved
                    .extend(disbelieved.map(|(report, _)| report.lease));
                assert_eq!(
                    reports.len(),
                    acknowledged.len(),
                    "each report is acknowledged"
                );
            }
            (Ask::Forge { .. }, Answer::Refused(_)) => {
                assert!(changes.is_empty(), "a refused report changed something");
            }
            (Ask::Forge { .. }, answer) => panic!("a forged report was taken: {answer:?}"),
            (
                Ask::Lease { .. } | Ask::Renew { .. } | Ask::Report { .. },
                Answer::Refused(refusal),
            ) => {
                // Whoever was told of a lease or enrolled is on disk, whatever died since.
                panic!("{ask:?} was refused: {refusal}")
            }
            (Ask::Drain { .. } | Ask::Enroll { .. }, Answer::Refused(refusal)) => {
                let expected = matches!(refusal, Refusal::TokenExpired | Refusal::AgentUnknown(_));
                assert!(expected, "{refusal}");
            }
            _ => (),
        }
    }

    fn is_of(&self, lease: LeaseNumber, whose: SecretHash) -> bool {
        let live = self.job_of.get(&lease).and_then(|job| self.live.get(job));
        live.is_some_and(|live| credential_of(device_of(live.agent)) == whose)
    }

    /// At most one live lease; and none ends but by its term, by its agent's word, or because the job is answered.
    fn job_changed(
        &mut self,
        now: Timestamp,
        event: Option<(&Ask, &Answer)>,
        job: &Job,
        changes: &[Change],
    ) {
        let before = self.live.get(&job.id).copied();
        let leased = match job.state {
            State::Leased { agent, lease, .. } => Some((agent, lease)),
            State::Queued
            | State::Done
            | State::Infeasible { .. }
            | State::Parked { .. }
            | State::Withdrawn => None,
        };
        if before.map(|live| (live.agent, live.lease)) == leased {
            return;
        }
        if let Some(live) = before {
            assert!(
                leased.is_none(),
                "{} has two live leases: {live:?}, {leased:?}",
                job.id
            );
            let answered = changes
                .iter()
                .any(|change| matches!(change, Change::Entry(entry) if entry.job == job.id));
            let given_up = match event {
                Some((
                    Ask::Lease {
                        credential: whose,
                        held,
                        ..
                    },
                    _,
                )) => self.is_of(live.lease, *whose) && !held.contains(&live.lease),
                Some((
                    Ask::Report {
                        reports,
                        credential,
                    },
                    _,
                )) => {
                    // Who reports what cannot be may be quarantined, and all that it has is taken back.
                    let doubtful = self.is_of(live.lease, *credential)
                        && reports.iter().any(|report| is_impossible(&report.outcome));
                    doubtful || reports.iter().any(|report| report.lease == live.lease)
                }
                Some((Ask::Enroll { device, .. }, _)) => device_of(live.agent) == *device,
                Some(_) | None => false,
            };
            let stuck = live.since.plus(PROGRESS_MIN) <= now;
            assert!(
                live.end <= now || given_up || answered || stuck,
                "{live:?} was ended at {now:?} by {event:?}"
            );
            self.live.remove(&job.id);
            self.job_of.remove(&live.lease);
        } else if let Some((agent, lease)) = leased {
            assert!(lease > self.lease_last, "lease numbers only grow");
            self.lease_last = lease;
            self.grant(
                job.id,
                Live {
                    lease,
                    agent,
                    since: now,
                    end: now.plus(LEASE_TTL),
                },
            );
        }
    }

    /// The disk has it.
    pub(super) fn committed(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Entry(entry) => self.entry_committed(entry),
                Change::Job(job) => {
                    self.jobs.insert(job.id);
                    if let Some(grant) = job.grants.last() {
                        let whose = self.granted.insert(grant.lease, (grant.agent, job.id));
                        let same = whose.is_none_or(|whose| whose == (grant.agent, job.id));
                        assert!(same, "lease {} was given twice", grant.lease);
                    }
                }
                Change::JobGone(job) => drop(self.jobs.remove(job)),
                Change::Retraction(retraction) => self.retraction_committed(retraction),
                Change::Task(..)
                | Change::Token(..)
                | Change::Key(..)
                | Change::Agent(_)
                | Change::Platform(_)
                | Change::Campaign(_)
                | Change::Model(_)
                | Change::Total(_) => (),
            }
        }
    }

    fn entry_committed(&mut self, entry: &Entry) {
        self.sequence += 1;
        assert_eq!(entry.sequence, self.sequence, "numbered from 1, each once");
        let twice = self.entries.insert(entry.lease, entry.sequence);
        assert_eq!(twice, None, "lease {} was counted twice", entry.lease);
        assert_eq!(
            entry.reading.runtime.median_ms,
            mark(entry.lease),
            "another's reading"
        );
    }

    fn retraction_committed(&mut self, retraction: &Retraction) {
        assert!(retraction.sequence <= self.sequence, "of no measurement");
        assert!(
            self.retracted.insert(retraction.sequence),
            "measurement {} was retracted twice",
            retraction.sequence
        );
        assert_eq!(retraction.number, self.retracted.len() as u64);
    }

    /// Somebody heard that reports are taken: they are on disk.
    pub(super) fn heard(&mut self, answer: &Answer) {
        let Answer::Acknowledged(acknowledged) = answer else {
            return;
        };
        for (report, acknowledgement) in acknowledged {
            let believed = match acknowledgement {
                Acknowledgement::Implausible => false,
                Acknowledgement::Known => !self.disbelieved.contains(&report.lease),
                Acknowledgement::Taken | Acknowledgement::Replica => true,
            };
            if is_impossible(&report.outcome) {
                let stored = self.entries.contains_key(&report.lease);
                assert!(!stored, "lease {} brought what cannot be", report.lease);
            } else if believed && matches!(report.outcome, Outcome::Reading(_)) {
                let stored = self.entries.contains_key(&report.lease);
                assert!(
                    stored,
                    "lease {} was acknowledged and is not stored",
                    report.lease
                );
                self.told.insert(report.lease);
            }
        }
    }

    /// Looks at everything, memory against disk against the books.
    pub(super) fn check(&self, farm: Option<&Farm>, store: &MemoryStore) {
        let stored = store.measurements_after(0, usize::MAX).expect("memory");
        let on_disk = stored
            .iter()
            .map(|measurement| (measurement.lease, measurement.sequence));
        let on_disk: BTreeMap<_, _> = on_disk.collect();
        assert_eq!(
            on_disk, self.entries,
            "the disk has other measurements than were committed"
        );
        for measurement in &stored {
            let granted = self.granted.get(&measurement.lease);
            assert_eq!(
                granted,
                Some(&(measurement.agent, measurement.job)),
                "never given to it"
            );
        }
        assert!(
            self.told
                .iter()
                .all(|lease| self.entries.contains_key(lease))
        );
        let records = store.load().expect("memory");
        let stored = store.jobs_after(None, usize::MAX).expect("memory");
        let jobs: BTreeSet<_> = stored.iter().map(|job| job.id).collect();
        assert_eq!(jobs, self.jobs, "a job was lost, or came back");
        let tasks: BTreeSet<_> = stored.iter().map(|job| job.task).collect();
        assert_eq!(tasks.len(), stored.len(), "equal tasks are two jobs");
        let reports = stored.iter().flat_map(|job| &job.grants);
        let retracted = reports.filter_map(|grant| match grant.report {
            Some(Reported::Retracted(sequence)) => Some(sequence),
            Some(Reported::Measured(_) | Reported::Other) | None => None,
        });
        let retracted: BTreeSet<_> = retracted.collect();
        assert_eq!(retracted, self.retracted, "what was retracted counts");
        let counted = Totals::of(stored);
        assert_eq!(counted.all(), records.totals.all(), "miscounted on disk");
        if let Some(farm) = farm {
            farm.check_invariants()
                .unwrap_or_else(|wrong| panic!("{wrong}"));
            // All that is over has left memory.
            assert!(
                farm.jobs().eq(records.jobs.iter()),
                "memory is not what the disk has"
            );
            assert_eq!(counted.all(), farm.totals().all(), "miscounted in memory");
        }
    }
}

fn is_impossible(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Reading(reading) if reading.runtime.median_ms == IMPOSSIBLE_MS)
}

fn device_of(agent: AgentId) -> usize {
    let (high, low) = agent.0.as_u64_pair();
    assert_eq!((high, low >> 40), (0, 1), "{agent} is no device's");
    (low & ((1 << 40) - 1)) as usize
}
