//! One conformance test for every store, and what sled's alone must do.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use wattfarm_coordinator::farm::{
    Budget, Change, Farm, ListJobs, Owner, Retraction, State, StateName, TaskKey, Timestamp,
};
use wattfarm_coordinator::store::{DurableStore, MemoryStore, Store, StoreError};
use wattfarm_cost::id::JobId;

use crate::world::{World, layer, lived, model, platform, uuid};

/// A farm's life as changes, event by event.
fn life() -> (World, Vec<Vec<Change>>) {
    let mut world = lived();
    let changes = world.take_changes();
    (world, changes)
}

/// What every store must do.
pub(crate) fn conforms(open: &dyn Fn() -> Arc<dyn Store>) {
    let (world, events) = life();
    let store = open();
    assert_eq!(
        store.load().expect("loads"),
        wattfarm_coordinator::farm::Records::default()
    );
    events
        .iter()
        .for_each(|changes| store.commit(changes).expect("commits"));
    assert_eq!(
        store.load().expect("loads"),
        world.store.load().expect("memory")
    );
    drop(store);

    let store = open();
    let records = store.load().expect("loads again");
    assert_eq!(records, world.store.load().expect("memory"));
    assert_eq!(
        (records.sequence, records.jobs.len(), records.tasks.len()),
        (2, 2, 2)
    );
    let farm = Farm::restore(records, Timestamp(0));
    farm.check_invariants()
        .expect("the restored farm is consistent");

    // The journal: in order, from a cursor, a batch at a time.
    let all = store.measurements_after(0, 10).expect("reads");
    assert_eq!(all, world.store.measurements_after(0, 10).expect("memory"));
    assert_eq!(
        all.iter()
            .map(|measurement| measurement.sequence)
            .collect::<Vec<_>>(),
        [1, 2]
    );
    assert_eq!(store.measurements_after(0, 1).expect("reads"), all[..1]);
    assert_eq!(store.measurements_after(1, 10).expect("reads"), all[1..]);
    assert_eq!(store.measurements_after(2, 10).expect("reads"), []);
    assert_eq!(store.measurements_after(u64::MAX, 10).expect("reads"), []);

    let task = store.task(all[0].job).expect("reads").expect("is there");
    assert_eq!(task.subject, all[0].subject);
    assert_eq!(store.task(JobId(uuid(u64::MAX))).expect("reads"), None);

    // Jobs, those that are over too: by their ids, by their tasks, and all in order.
    let done = store.job(all[0].job).expect("reads").expect("is there");
    assert_eq!((done.task, &done.state), (task.key(), &State::Done));
    let found = store.find_job(&done.task).expect("reads");
    assert_eq!(found.as_ref(), Some(&done));
    let nobodys = TaskKey {
        platform: platform(2).hash(),
        ..done.task
    };
    assert_eq!(store.find_job(&nobodys).expect("reads"), None);
    assert_eq!(store.job(JobId(uuid(u64::MAX))).expect("reads"), None);
    let jobs = store.jobs_after(None, 100).expect("reads");
    assert_eq!(jobs, world.store.jobs_after(None, 100).expect("memory"));
    assert_eq!(jobs.len(), 4);
    let some = store.jobs_after(Some(jobs[0].id), 2).expect("reads");
    assert_eq!(some, jobs[1..3]);
    assert_eq!(store.jobs_after(Some(jobs[3].id), 3).expect("reads"), []);

    let key = model(platform(1).hash(), 1.0).key;
    let versions = |after| -> Vec<u64> {
        let models = store.model_versions_after(&key, after).expect("reads");
        models.iter().map(|model| model.version).collect()
    };
    assert_eq!(
        (versions(0), versions(1), versions(2)),
        (vec![1, 2], vec![2], vec![])
    );

    let retraction = |number| Retraction {
        number,
        sequence: 3 - number,
        because: "so".to_owned(),
        by: Owner::Operator,
        retracted_at: Timestamp(5),
    };
    let both = [1, 2].map(retraction);
    let changes = both.clone().map(Change::Retraction);
    store.commit(&changes).expect("commits");
    assert_eq!(store.load().expect("loads").retractions, 2);
    assert_eq!(store.retractions_after(0, 9).expect("reads"), both);
    assert_eq!(store.retractions_after(0, 1).expect("reads"), both[..1]);
    assert_eq!(store.retractions_after(1, 9).expect("reads"), both[1..]);

    // A job that goes takes its task along.
    let gone = task_without_measurement(&*store);
    store.commit(&[Change::JobGone(gone)]).expect("commits");
    assert_eq!(store.task(gone).expect("reads"), None);
    assert_eq!(store.load().expect("loads").jobs.len(), 1);
    assert_eq!(store.job(gone).expect("reads"), None);
    assert_eq!(store.find_job(&task.key()).expect("reads"), Some(done));
}

fn task_without_measurement(store: &dyn Store) -> JobId {
    let records = store.load().expect("loads");
    let mut farm = Farm::restore(records, Timestamp(0));
    let queued = ListJobs {
        platform: None,
        states: vec![StateName::Queued],
        limit: 1,
    };
    farm.apply(Timestamp(0), queued)
        .0
        .expect("no platform named")[0]
        .job
        .id
}

#[test]
fn memory_conforms() {
    let store = Arc::new(MemoryStore::default());
    conforms(&|| Arc::clone(&store) as Arc<dyn Store>);
}

#[test]
fn sled_conforms() {
    let folder = tempfile::tempdir().expect("a folder");
    conforms(&|| Arc::new(open(folder.path())));
}

#[test]
fn a_store_has_one_coordinator() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = open(folder.path());
    let second = DurableStore::in_folder(folder.path()).expect_err("it is in use");
    assert!(matches!(second, StoreError::InUse(_)), "{second}");
    drop(first);
    open(folder.path());
}

/// Whatever bit of the file flips, the store never panics, and an error names a file or a record: also where sled takes the
/// flip for a torn write and forgets what came after, which the count of commits shows. What neither sled's checksums nor
/// ours can show is a page that sled finds in an older version: about one flip in two hundred here, so the folder needs
/// copies all the same.
#[test]
fn a_flipped_bit_is_an_error_that_says_where() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, mut events) = life();
    // Enough that sled seals segments of its log: it treats those otherwise than the last one.
    let versions = |commit: u64| (1..=150).map(move |version| commit * 150 + version);
    let published = |version| {
        Change::Model(wattfarm_cost::Model {
            version,
            ..model(platform(1).hash(), 1.0)
        })
    };
    events.extend((1..20).map(|commit| versions(commit).map(published).collect()));
    let store = open(folder.path());
    events
        .iter()
        .for_each(|changes| store.commit(changes).expect("commits"));
    drop(store);
    let file = folder.path().join("db");
    let sound = std::fs::read(&file).expect("reads");
    let written = sound
        .iter()
        .rposition(|&byte| byte != 0)
        .expect("something was written");
    let tell = |store: &dyn Store| Ok((store.load()?, store.measurements_after(0, 9)?));
    let truth = MemoryStore::default();
    events
        .iter()
        .for_each(|changes| truth.commit(changes).expect("memory"));
    let truth = tell(&truth).expect("memory");
    let (mut refused, mut untrue) = (0, 0);
    for flip in 0..24 {
        let mut damaged = sound.clone();
        damaged[written * flip / 24 + 7] ^= 1 << (flip % 8);
        std::fs::remove_dir_all(folder.path().join("blobs")).expect("removes");
        std::fs::read_dir(folder.path())
            .expect("lists")
            .flatten()
            .for_each(|entry| {
                if entry.file_name().to_string_lossy().starts_with("snap") {
                    std::fs::remove_file(entry.path()).expect("removes");
                }
            });
        std::fs::write(&file, damaged).expect("writes");
        let told = try_open(folder.path()).and_then(|store| tell(&store));
        match told {
            Err(error) => {
                let text = error.to_string();
                assert!(
                    text.contains("db` is damaged") || text.starts_with("record `"),
                    "{text}"
                );
                refused += 1;
            }
            Ok(told) => untrue += usize::from(told != truth),
        }
    }
    assert!(refused > 0, "no flip was noticed: the test flips nothing");
    assert!(
        untrue <= 3,
        "{untrue} of 24 flips went unnoticed, {refused} were refused"
    );
}

#[test]
fn a_large_value_survives() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut world = World::new();
    let agent = world.agent("a");
    let campaign = world.campaign(1, Budget::Jobs(4));
    world.propose(campaign, [0]).expect("room");
    let lease = world.lease_another(agent).expect("a job");
    world.measure(agent, &lease);
    let mut changes: Vec<Change> = world.take_changes().into_iter().flatten().collect();
    for change in &mut changes {
        if let Change::Entry(entry) = change {
            entry.reading.runtime.samples_ms = (0..100_000)
                .map(|sample| 1.0 + sample as f32 / 3.0)
                .collect();
        }
    }
    open(folder.path()).commit(&changes).expect("commits");
    let measurement = open(folder.path())
        .measurements_after(0, 1)
        .expect("reads")
        .remove(0);
    assert_eq!(measurement.reading.runtime.samples_ms.len(), 100_000);
    assert_eq!(measurement.subject, wattfarm_cost::Subject::Layer(layer(0)));
}

pub(crate) fn open(folder: &Path) -> DurableStore {
    try_open(folder).expect("opens")
}

/// Opens a store that this process may just have closed: threads of sled's hold its file a little longer.
fn try_open(folder: &Path) -> Result<DurableStore, StoreError> {
    for _ in 0..200 {
        match DurableStore::in_folder(folder) {
            Err(StoreError::Open { .. }) => std::thread::sleep(Duration::from_millis(10)),
            opened => return opened,
        }
    }
    DurableStore::in_folder(folder)
}
