//! The coordinator's process as the simulation plays it: the writer's loop, with a disk that takes its time.

use std::time::Duration;

use uuid::Uuid;
use wattfarm_coordinator::farm::{
    Booked, CancelCampaign, Change, CreateToken, DrainAgent, Enroll, Event, ExtendCampaign, Farm,
    LeaseJobs, Order, Owner, PauseCampaign, ProposeLayers, PublishModels, RenewLeases,
    ReportResults, RequestModels, RetractMeasurements, SecretHash, Tick, Timestamp,
};
use wattfarm_coordinator::recall::recall;
use wattfarm_coordinator::store::{MemoryStore, Store as _};
use wattfarm_cost::Subject;
use wattfarm_cost::id::{AgentId, JobId};

use super::books::Books;
use super::network::{Answer, Ask, Call};
use crate::world::{layer, model, platform, request, uuid};

/// As the writer's.
const GROUP_MAX: usize = 256;

/// What its disk is doing.
#[derive(Debug)]
pub(super) struct Group {
    changes: Vec<Change>,
    pub(super) answers: Vec<(Call, Answer)>,
}

/// A running coordinator.
#[derive(Debug)]
pub(super) struct Coordinator {
    pub(super) farm: Farm,
    pub(super) inbox: Vec<Call>,
    /// What is being committed.
    pub(super) committing: Option<Group>,
}

impl Coordinator {
    /// Starts from what the disk has.
    pub(super) fn start(store: &MemoryStore, now: Timestamp) -> Self {
        Self {
            farm: Farm::restore(store.load().expect("memory"), now),
            inbox: Vec::new(),
            committing: None,
        }
    }

    /// Applies what waits. Says whether there is anything to commit or to answer.
    pub(super) fn apply_group(
        &mut self,
        store: &MemoryStore,
        now: Timestamp,
        fresh: &mut u64,
        books: &mut Books,
    ) {
        assert!(self.committing.is_none(), "one commit at a time");
        let ((), mut changes) = self.farm.apply(now, Tick);
        books.applied(now, None, &changes, &self.farm);
        let mut answers = Vec::new();
        let waiting = self.inbox.len().min(GROUP_MAX);
        for call in self.inbox.drain(..waiting).collect::<Vec<_>>() {
            let (answer, changed) = apply(&mut self.farm, store, now, &call.ask, fresh);
            books.applied(now, Some((&call.ask, &answer)), &changed, &self.farm);
            changes.extend(changed);
            answers.push((call, answer));
        }
        self.committing = Some(Group { changes, answers });
    }

    /// The disk has the group under way.
    pub(super) fn commit(&mut self, store: &MemoryStore, books: &mut Books) -> Vec<(Call, Answer)> {
        let group = self.committing.take().expect("a commit is under way");
        store.commit(&group.changes).expect("memory");
        self.farm.forget();
        books.committed(&group.changes);
        group.answers
    }
}

impl Group {
    /// Whether the disk has anything to do.
    pub(super) fn is_durable(&self) -> bool {
        !self.changes.is_empty()
    }
}

fn drawn(fresh: &mut u64) -> Uuid {
    *fresh += 1;
    uuid(*fresh)
}

/// As the writer does it.
fn applied<E: Event>(
    farm: &mut Farm,
    store: &MemoryStore,
    now: Timestamp,
    event: E,
) -> (E::Reply, Vec<Change>) {
    recall(farm, store, &event).expect("memory");
    farm.apply(now, event)
}

fn apply(
    farm: &mut Farm,
    store: &MemoryStore,
    now: Timestamp,
    ask: &Ask,
    fresh: &mut u64,
) -> (Answer, Vec<Change>) {
    /// An event whose reply says no more than that it is done.
    macro_rules! done {
        ($event:expr) => {{
            let (reply, changes) = applied(farm, store, now, $event);
            let answer = reply.map_or_else(Answer::Refused, |_| Answer::Done);
            (answer, changes)
        }};
    }
    match ask.clone() {
        Ask::Enroll {
            device,
            platform: number,
        } => {
            let token = SecretHash::of(&format!("token {device} {number}"));
            let ttl = Duration::from_secs(60);
            let made = CreateToken {
                token,
                note: String::new(),
                ttl,
            };
            let (_, mut changes) = applied(farm, store, now, made);
            let (reply, enrolled) = applied(
                farm,
                store,
                now,
                Enroll {
                    token: Some(token),
                    credential: credential(device),
                    name: format!("device {device}"),
                    platform: platform(number),
                    fresh_id: AgentId(uuid(1 << 40 | device as u64)),
                },
            );
            changes.extend(enrolled);
            (
                reply.map_or_else(Answer::Refused, |_| Answer::Done),
                changes,
            )
        }
        Ask::Lease {
            credential,
            jobs_max,
            held,
        } => {
            let held = Some(held);
            let (reply, changes) = applied(
                farm,
                store,
                now,
                LeaseJobs {
                    credential,
                    jobs_max,
                    held,
                },
            );
            (reply.map_or_else(Answer::Refused, Answer::Leased), changes)
        }
        Ask::Renew { credential, leases } => {
            let (reply, changes) = applied(farm, store, now, RenewLeases { credential, leases });
            (reply.map_or_else(Answer::Refused, Answer::Renewed), changes)
        }
        Ask::Report {
            credential,
            reports,
        } => {
            let event = ReportResults {
                credential,
                reports: reports.clone(),
            };
            let (reply, changes) = applied(farm, store, now, event);
            let told = |booked: Booked| reports.into_iter().zip(booked.acknowledgements).collect();
            let told = reply.map(|reply| Answer::Acknowledged(told(reply)));
            (told.unwrap_or_else(Answer::Refused), changes)
        }
        Ask::Forge { credential, report } => {
            done!(ReportResults {
                credential,
                reports: vec![report]
            })
        }
        Ask::Campaign {
            id,
            platform: number,
            budget,
        } => done!(RequestModels {
            platform: platform(number).slug(),
            ..request(id, budget)
        }),
        Ask::Propose { campaign, layers } => {
            let layers = layers
                .into_iter()
                .map(|number| (JobId(drawn(fresh)), layer(number)));
            done!(ProposeLayers {
                campaign,
                layers: layers.collect()
            })
        }
        Ask::Order {
            platform: number,
            layers,
            replicas,
        } => {
            let subject = |number| (JobId(drawn(fresh)), Subject::Layer(layer(number)));
            let subjects = layers.into_iter().map(subject).collect();
            done!(Order {
                platform: platform(number).slug(),
                subjects,
                replicas
            })
        }
        Ask::Retract(sequence) => {
            let entries = store.measurements_after(sequence - 1, 1).expect("memory");
            let entries = entries.iter().filter(|entry| entry.sequence == sequence);
            done!(RetractMeasurements {
                measurements: entries.map(|entry| (sequence, entry.job)).collect(),
                because: "seen in a dream".to_owned(),
                by: Owner::Operator,
            })
        }
        Ask::Pause { id, paused } => done!(PauseCampaign { id, paused }),
        Ask::Extend { id, budget } => done!(ExtendCampaign { id, budget }),
        Ask::Cancel(campaign) => done!(CancelCampaign(campaign)),
        Ask::Drain { agent, draining } => done!(DrainAgent { agent, draining }),
        Ask::Publish {
            platform: number,
            rmspe,
        } => {
            done!(PublishModels(vec![model(platform(number).hash(), rmspe)]))
        }
    }
}

/// The credential of a device.
pub(super) fn credential(device: usize) -> SecretHash {
    SecretHash::of(&format!("device {device}"))
}
