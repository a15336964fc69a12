//! A store that fails when it is told to, under the real farm and writer: the process says so and stops, and what it
//! acknowledged is there when it starts again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use wattfarm_coordinator::clock::Clock;
use wattfarm_coordinator::farm::{
    Budget, Change, Farm, Job, LeaseJobs, Outcome, Records, Report, ReportResults, Retraction,
    SecretHash, Task, TaskKey,
};
use wattfarm_coordinator::store::{DurableStore, MemoryStore, Sink, Store, StoreError};
use wattfarm_coordinator::writer::{Stopped, Writer};
use wattfarm_cost::id::{JobId, LeaseNumber};
use wattfarm_cost::model::ModelKey;
use wattfarm_cost::{Measurement, Model};

use crate::world::{World, reading};

/// How a commit goes wrong. Whether it happened is one coin; that the caller hears of a failure, the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing is kept.
    Lost,
    /// All is kept, and the caller hears of a failure all the same.
    Kept,
    /// There is no room.
    Full,
}

/// A store of which one commit fails, and each after it.
struct FaultyStore {
    inner: Arc<dyn Store>,
    commits: AtomicU64,
    fails_at: u64,
    fault: Fault,
}

impl Store for FaultyStore {
    fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let commit = self.commits.fetch_add(1, Ordering::SeqCst);
        if commit < self.fails_at {
            return self.inner.commit(changes);
        }
        if commit == self.fails_at && self.fault == Fault::Kept {
            self.inner.commit(changes)?;
        }
        match self.fault {
            Fault::Full => Err(StoreError::Full("test".into())),
            Fault::Lost | Fault::Kept => Err(StoreError::Disk {
                doing: "sync the store",
                source: "the disk is gone".into(),
            }),
        }
    }

    fn load(&self) -> Result<Records, StoreError> {
        self.inner.load()
    }

    fn measurements_after(
        &self,
        sequence: u64,
        limit: usize,
    ) -> Result<Vec<Measurement>, StoreError> {
        self.inner.measurements_after(sequence, limit)
    }

    fn retractions_after(&self, number: u64, limit: usize) -> Result<Vec<Retraction>, StoreError> {
        self.inner.retractions_after(number, limit)
    }

    fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.inner.job(id)
    }

    fn find_job(&self, task: &TaskKey) -> Result<Option<Job>, StoreError> {
        self.inner.find_job(task)
    }

    fn jobs_after(&self, id: Option<JobId>, limit: usize) -> Result<Vec<Job>, StoreError> {
        self.inner.jobs_after(id, limit)
    }

    fn task(&self, job: JobId) -> Result<Option<Task>, StoreError> {
        self.inner.task(job)
    }

    fn model_versions_after(&self, key: &ModelKey, version: u64) -> Result<Vec<Model>, StoreError> {
        self.inner.model_versions_after(key, version)
    }

    fn copy(&self, sink: &mut Sink<'_>) -> Result<(), StoreError> {
        self.inner.copy(sink)
    }
}

/// A store with two agents and jobs for them.
fn prepared() -> (Arc<dyn Store>, [SecretHash; 2]) {
    let mut world = World::new();
    let agents = ["a", "b"].map(|name| world.agent(name));
    let campaign = world.campaign(1, Budget::Jobs(1000));
    world.propose(campaign, 0..100).expect("room");
    (Arc::new(world.store), agents)
}

/// Leases and reports until the writer stops: the leases that were acknowledged, and why it stopped.
async fn work(writer: Writer, credential: SecretHash) -> (Vec<LeaseNumber>, Option<Stopped>) {
    let mut acknowledged = Vec::new();
    loop {
        let held = Some(vec![]);
        let leased = writer
            .ask(LeaseJobs {
                credential,
                jobs_max: 1,
                held,
            })
            .await;
        let leases = match leased {
            Ok(leased) => leased.expect("enrolled").leases,
            Err(stopped) => return (acknowledged, Some(stopped)),
        };
        let Some(lease) = leases.into_iter().next() else {
            return (acknowledged, None);
        };
        let outcome = Outcome::Reading(Box::new(reading(1.0)));
        let reports = vec![Report {
            job: lease.job,
            lease: lease.number,
            outcome,
        }];
        match writer
            .ask(ReportResults {
                credential,
                reports,
            })
            .await
        {
            Ok(reply) => drop(reply.expect("its own lease")),
            Err(stopped) => return (acknowledged, Some(stopped)),
        }
        acknowledged.push(lease.number);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fails_at_any_commit_loses_nothing_acknowledged() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut stopped_while_working = 0;
    for run in 0..60 {
        let (inner, agents) = prepared();
        let fault = [Fault::Lost, Fault::Kept, Fault::Full][run % 3];
        let fails_at = random.random_range(0..150);
        let store = Arc::new(FaultyStore {
            inner: Arc::clone(&inner),
            commits: AtomicU64::new(0),
            fails_at,
            fault,
        });
        let clock = Clock::start();
        let farm = Farm::restore(inner.load().expect("memory"), clock.now());
        let (writer, end) = Writer::start(farm, store, clock);
        let at_work = agents.map(|agent| tokio::spawn(work(writer.clone(), agent)));
        drop(writer);
        let mut acknowledged = BTreeSet::new();
        for agent in at_work {
            let (leases, stopped) = agent.await.expect("does not panic");
            acknowledged.extend(leases);
            if let Some(stopped) = stopped {
                stopped_while_working += 1;
                let expected = match fault {
                    Fault::Full => Stopped::DiskFull,
                    Fault::Lost | Fault::Kept => Stopped::StoreFailed,
                };
                assert_eq!(stopped, expected, "whoever waits hears why");
            }
        }
        let end = end.await.expect("the writer does not panic");
        println!(
            "run {run}: {fault:?} at commit {fails_at}: {} acknowledged",
            acknowledged.len()
        );

        // It starts again, with room: nothing acknowledged is lost, nothing is there twice, and the rest gets done.
        let stored = inner.measurements_after(0, usize::MAX).expect("memory");
        let leases: BTreeSet<_> = stored.iter().map(|measurement| measurement.lease).collect();
        assert_eq!(leases.len(), stored.len(), "stored twice");
        assert!(acknowledged.is_subset(&leases), "acknowledged and lost");
        if end.is_ok() {
            continue;
        }
        let more = leases.len() - acknowledged.len();
        assert!(
            fault == Fault::Kept || more == 0,
            "{more} were stored by a commit that kept nothing"
        );
        let farm = Farm::restore(inner.load().expect("memory"), clock.now());
        farm.check_invariants()
            .expect("the restored farm is consistent");
        let (writer, _end) = Writer::start(farm, Arc::clone(&inner), clock);
        let (_, stopped) = work(writer, agents[0]).await;
        assert_eq!(stopped, None, "it works again");
    }
    assert!(stopped_while_working > 40, "the faults met nobody at work");
}

/// The disk has the store's file as a crash of the machine leaves it: of the commit under way some bytes are there and
/// others not. What was acknowledged is there, whole; of the commit under way all or nothing.
#[test]
fn a_torn_commit_is_there_whole_or_not_at_all() {
    let temporary = tempfile::tempdir().expect("a folder");
    let (folder, torn) = (
        temporary.path().join("store"),
        temporary.path().join("torn"),
    );
    let mut world = World::new();
    let agent = world.agent("a");
    let campaign = world.campaign(1, Budget::Jobs(100));
    world.propose(campaign, 0..40).expect("room");
    while let Some(lease) = world.lease_another(agent) {
        world.measure(agent, &lease);
    }
    let events = world.take_changes();
    let truth = MemoryStore::default();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let (mut whole, mut none, mut refused) = (0, 0, 0);
    let store = DurableStore::in_folder(&folder).expect("opens");
    for changes in events.iter().filter(|changes| !changes.is_empty()) {
        let before = std::fs::read(folder.join("db")).expect("reads");
        let acknowledged = std::fs::read(folder.join("acknowledged")).expect("reads");
        let records_before = truth.load().expect("memory");
        store.commit(changes).expect("commits");
        truth.commit(changes).expect("memory");
        let after = std::fs::read(folder.join("db")).expect("reads");
        if random.random_bool(0.6) {
            continue;
        }
        let _ = std::fs::remove_dir_all(&torn);
        std::fs::create_dir_all(torn.join("blobs")).expect("makes");
        std::fs::copy(folder.join("conf"), torn.join("conf")).expect("copies");
        std::fs::write(torn.join("db"), tear(&before, &after, &mut random)).expect("writes");
        std::fs::write(torn.join("acknowledged"), acknowledged).expect("writes");
        match DurableStore::in_folder(&torn).and_then(|store| store.load()) {
            Ok(records) if records == truth.load().expect("memory") => whole += 1,
            Ok(records) if records == records_before => none += 1,
            Ok(records) => panic!(
                "neither before nor after: {} jobs, {} measurements",
                records.jobs.len(),
                records.sequence
            ),
            // Never wrong, but an operator has to restore it.
            Err(StoreError::Damaged { .. } | StoreError::Record { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    println!("torn commits: {whole} whole, {none} gone, {refused} refused");
    assert!(
        whole + none > 0 && refused * 10 <= whole + none,
        "{refused} refused"
    );
}

/// The file with some of the change made: sectors of it, in no order.
fn tear(before: &[u8], after: &[u8], random: &mut ChaCha8Rng) -> Vec<u8> {
    const SECTOR: usize = 512;
    let mut torn = after.to_vec();
    let kept = [0.0, 0.3, 0.7, 1.0][random.random_range(0..4)];
    for (index, sector) in torn.chunks_mut(SECTOR).enumerate() {
        let at = index * SECTOR;
        let old = before
            .get(at..(at + sector.len()).min(before.len()))
            .unwrap_or_default();
        let differs =
            sector[..old.len()] != *old || sector[old.len()..].iter().any(|&byte| byte != 0);
        if differs && !random.random_bool(kept) {
            sector.fill(0);
            sector[..old.len()].copy_from_slice(old);
        }
    }
    torn
}
