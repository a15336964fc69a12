//! Orders: what a user wants measured right now.

use std::collections::BTreeMap;

use wattfarm_cost::id::JobId;
use wattfarm_cost::measurement::Recipe;
use wattfarm_cost::{Hash, Subject};

use super::because::Outlook;
use super::job::{Job, State, Task, TaskKey};
use super::{Event, Farm, JobName, Refusal, Timestamp};

/// The most jobs of one platform that users may wait for: anybody may order.
pub const URGENT_MAX: u64 = 4096;

/// The most measurements of one subject that an order may add to those there are.
pub const REPLICAS_ADDED_MAX: u32 = 100;

/// Orders measurements of subjects, ahead of every campaign.
#[derive(Debug)]
pub struct Order {
    /// Slug or hash.
    pub platform: String,
    /// What to measure, each with the id of the job that is made of it unless there is one.
    pub subjects: Vec<(JobId, Subject)>,
    /// Measurements wanted of each; 0 orders none and asks for those that are there.
    pub replicas: u32,
}

impl Event for Order {
    /// The tasks to ask after with [`Follow`], in the order of the subjects, each once.
    type Reply = Result<Vec<TaskKey>, Refusal>;

    fn is_about(&self, farm: &Farm) -> Vec<JobName> {
        let Ok(platform) = farm.find_platform(&self.platform) else {
            return Vec::new();
        };
        let task = |(_, subject): &(JobId, Subject)| TaskKey {
            platform: platform.hash,
            subject: subject.hash(),
            recipe: Recipe::of(subject),
        };
        self.subjects.iter().map(task).map(JobName::Task).collect()
    }

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply {
        let platform = farm.find_platform(&self.platform)?.hash;
        let mut keys: Vec<TaskKey> = Vec::new();
        let mut wants: Vec<(JobId, Task)> = Vec::new();
        for (fresh, subject) in self.subjects {
            let recipe = Recipe::of(&subject);
            let task = Task {
                platform,
                subject,
                recipe,
            };
            let key = task.key();
            if keys.contains(&key) {
                continue;
            }
            keys.push(key);
            let done = farm.jobs.find(&key).map_or(0, Job::replicas_done);
            if self.replicas.saturating_sub(done) > REPLICAS_ADDED_MAX {
                return Err(Refusal::ReplicasTooMany {
                    wanted: self.replicas,
                    done,
                    max: REPLICAS_ADDED_MAX,
                });
            }
            if done < self.replicas {
                wants.push((fresh, task));
            }
        }
        let added = wants
            .iter()
            .filter(|(_, task)| !farm.jobs.find(&task.key()).is_some_and(Job::is_awaited));
        let outstanding = farm.jobs.urgent(&platform) + added.count() as u64;
        if outstanding > URGENT_MAX {
            return Err(Refusal::OrdersFull {
                outstanding,
                max: URGENT_MAX,
            });
        }
        for (fresh, task) in wants {
            farm.want(now, fresh, task, self.replicas);
        }
        Ok(keys)
    }
}

/// Asks how the jobs of tasks stand.
#[derive(Debug)]
pub struct Follow(pub Vec<TaskKey>);

/// How the job of one task stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// What it is of.
    pub subject: Hash,
    /// Its measurements, in the order of arrival.
    pub measurements: Vec<u64>,
    /// Where it is on its way; `None` if there is no job.
    pub state: Option<State>,
    /// Why it waits, or why it ended as it did.
    pub because: String,
}

impl Event for Follow {
    type Reply = Vec<Followed>;

    fn is_about(&self, _farm: &Farm) -> Vec<JobName> {
        self.0.iter().copied().map(JobName::Task).collect()
    }

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply {
        let mut platforms: BTreeMap<Hash, (BTreeMap<JobId, usize>, Outlook)> = BTreeMap::new();
        for at in self.0.iter().map(|task| task.platform) {
            platforms.entry(at).or_insert_with(|| {
                let queue = farm.jobs.queue(&at).map(|queue| queue.positions());
                (queue.unwrap_or_default(), farm.outlook(&at, now))
            });
        }
        let follow = |task: &TaskKey| {
            let job = farm.jobs.find(task);
            let because = |job: &Job| {
                let (positions, outlook) = &platforms[&task.platform];
                farm.job_because(job, positions.get(&job.id).copied(), outlook, now)
            };
            Followed {
                subject: task.subject,
                measurements: job
                    .map(|job| job.measurements().collect())
                    .unwrap_or_default(),
                state: job.map(|job| job.state.clone()),
                because: job.map(because).unwrap_or_default(),
            }
        };
        self.0.iter().map(follow).collect()
    }
}

impl Farm {
    /// Has a task measured, until it has so many measurements. What had been given up, or was found impossible, is tried
    /// again: a user asks on purpose, and may know that the platform has room now.
    fn want(&mut self, now: Timestamp, fresh: JobId, task: Task, replicas: u32) {
        let wish = |job: &mut Job| {
            job.urgent = true;
            job.replicas_wanted = job.replicas_wanted.max(replicas);
        };
        let Some(job) = self.jobs.find(&task.key()) else {
            let mut job = Job::new(fresh, &task, now);
            wish(&mut job);
            return self.jobs.add(job, task, &mut self.changes);
        };
        let id = job.id;
        if job.state.is_open() {
            self.jobs.alter(id, &mut self.changes, wish);
        } else {
            self.jobs.reopen(id, task, &mut self.changes, wish);
        }
    }
}
