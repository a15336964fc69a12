//! A store as text: from one store to another, while commits go on, and whatever happens to the file.

use std::io::BufReader;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use wattfarm_coordinator::farm::{
    Change, Owner, RetractMeasurements, SecretHash, Timestamp, Token,
};
use wattfarm_coordinator::store::dump::{self, DumpError};
use wattfarm_coordinator::store::{DurableStore, MemoryStore, Store, VerifyError, verify};
use wattfarm_cost::measurement::Recipe;

use crate::process::Coordinator;
use crate::world::{World, lived, model, platform};

fn dumped(store: &dyn Store) -> Vec<u8> {
    let mut text = Vec::new();
    dump::write(store, &mut text).expect("writes");
    text
}

/// All that can be asked of a store.
pub(crate) fn told(store: &dyn Store) -> impl PartialEq + std::fmt::Debug + use<> {
    let key = model(platform(1).hash(), 1.0).key;
    (
        store.load().expect("loads"),
        store.jobs_after(None, usize::MAX).expect("reads"),
        store.measurements_after(0, usize::MAX).expect("reads"),
        store.retractions_after(0, usize::MAX).expect("reads"),
        store.model_versions_after(&key, 0).expect("reads"),
    )
}

#[test]
fn a_store_goes_to_text_and_back() {
    let world = lived();
    let text = dumped(&world.store);
    let folder = tempfile::tempdir().expect("a folder");
    let sled = DurableStore::in_folder(folder.path()).expect("opens");
    let changes = dump::read(&sled, &mut text.as_slice()).expect("reads");
    assert_eq!(
        changes as usize,
        text.split(|&byte| byte == b'\n').count() - 3
    );
    assert_eq!(told(&sled), told(&world.store));
    let memory = MemoryStore::default();
    dump::read(&memory, &mut dumped(&sled).as_slice()).expect("reads");
    assert_eq!(told(&memory), told(&world.store));
    let found = verify(&sled).expect("sound");
    assert_eq!(
        (found.agents, found.jobs, found.measurements, found.models),
        (1, 4, 2, 2)
    );
    let twice = dump::read(&sled, &mut text.as_slice()).expect_err("not empty");
    assert!(matches!(twice, DumpError::NotEmpty), "{twice}");
}

/// What was written once is read for ever: this file is never written again. A new version gets a file of its own.
#[test]
fn dumps_of_version_1_are_still_read() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/it/golden/store-v1.ndjson"
    );
    let golden = std::fs::read(path).expect("reads");
    let store = MemoryStore::default();
    dump::read(&store, &mut golden.as_slice()).expect("reads");
    let found = verify(&store).expect("sound");
    assert_eq!(
        (found.agents, found.jobs, found.measurements, found.models),
        (1, 4, 2, 2)
    );
    // The same life today, but for the recipe that layers are measured by.
    let today = format!("{:?}", told(&lived().store));
    let today = today.replace(&format!("{:?}", Recipe::LAYER), "LayerInNetwork1");
    assert_eq!(format!("{:?}", told(&store)), today);
}

/// What has come since: totals and retractions.
pub(crate) fn lived_since() -> World {
    let mut world = lived();
    let measured = world.store.measurements_after(1, 1).expect("memory");
    let retract = RetractMeasurements {
        measurements: vec![(2, measured[0].job)],
        because: "the fan was off".to_owned(),
        by: Owner::Operator,
    };
    world.apply(retract).expect("there");
    world
}

#[test]
fn dumps_of_version_2_are_still_read() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/it/golden/store-v2.ndjson"
    );
    let golden = std::fs::read(path).expect("reads");
    let store = MemoryStore::default();
    dump::read(&store, &mut golden.as_slice()).expect("reads");
    verify(&store).expect("sound");
    let today = format!("{:?}", told(&lived_since().store));
    let today = today.replace(&format!("{:?}", Recipe::LAYER), "LayerInNetwork2");
    assert_eq!(format!("{:?}", told(&store)), today);
    let folder = tempfile::tempdir().expect("a folder");
    let sled = DurableStore::in_folder(folder.path()).expect("opens");
    dump::read(&sled, &mut golden.as_slice()).expect("reads");
    assert_eq!(format!("{:?}", told(&sled)), today);
    assert!(dumped(&sled) == golden, "and is written so");
}

/// Whatever is cut off or flipped, the dump is refused, by line.
#[test]
fn a_damaged_dump_is_refused_and_says_where() {
    let text = dumped(&lived().store);
    for at in (0..text.len()).step_by(97) {
        let refused = dump::read(&MemoryStore::default(), &mut &text[..at]);
        assert!(
            matches!(refused, Err(DumpError::Line { .. })),
            "cut off after {at} bytes: {refused:?}"
        );
        let mut flipped = text.clone();
        flipped[at] ^= 1 << (at % 7);
        let refused = dump::read(&MemoryStore::default(), &mut flipped.as_slice());
        assert!(
            matches!(refused, Err(DumpError::Line { .. })),
            "flipped at {at}: {refused:?}"
        );
    }
    let lines: Vec<&[u8]> = text.split_inclusive(|&byte| byte == b'\n').collect();
    for gone in 1..lines.len() - 1 {
        let without: Vec<u8> = [&lines[..gone], &lines[gone + 1..]].concat().concat();
        let refused = dump::read(&MemoryStore::default(), &mut without.as_slice());
        assert!(
            matches!(refused, Err(DumpError::Line { .. })),
            "line {gone} is missing: {refused:?}"
        );
    }
}

/// A copy that is taken while commits go on is the store as it was at one moment: every commit is in it whole or not at
/// all, and those that came before it are.
#[test]
fn a_copy_is_of_one_moment() {
    const PAIR_MAX: u64 = 3000;
    let folder = tempfile::tempdir().expect("a folder");
    let store = Arc::new(DurableStore::in_folder(folder.path()).expect("opens"));
    let token = |name: String, round: u64| {
        let token = Token {
            note: String::new(),
            expires_at: Timestamp(round),
            used_by: None,
        };
        Change::Token(SecretHash::of(&name), token)
    };
    // Each commit sets two tokens, which lie anywhere, to its round.
    let pair = move |index: u64, round: u64| {
        vec![
            token(format!("{index} a"), round),
            token(format!("{index} b"), round),
        ]
    };
    let all: Vec<Change> = (0..PAIR_MAX).flat_map(|index| pair(index, 0)).collect();
    store.commit(&all).expect("commits");
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
        move || {
            let mut round = 0;
            while !stop.load(Ordering::SeqCst) {
                round += 1;
                let changes = pair(round * 7919 % PAIR_MAX, round);
                store.commit(&changes).expect("commits");
            }
            round
        }
    });
    for _ in 0..5 {
        let copy = MemoryStore::default();
        dump::read(&copy, &mut dumped(&*store).as_slice()).expect("whole");
        let records = copy.load().expect("memory");
        assert_eq!(records.tokens.len() as u64, PAIR_MAX * 2);
        let round_of = |name: String| {
            let hash = SecretHash::of(&name);
            let found = records
                .tokens
                .binary_search_by_key(&hash, |(hash, _)| *hash);
            records.tokens[found.expect("there")].1.expires_at
        };
        let torn = (0..PAIR_MAX)
            .find(|index| round_of(format!("{index} a")) != round_of(format!("{index} b")));
        assert_eq!(torn, None, "a commit is in the copy by half");
    }
    stop.store(true, Ordering::SeqCst);
    assert!(
        writer.join().expect("does not panic") > 10,
        "nothing was committed meanwhile"
    );
}

#[test]
fn verify_sees_contradictions() {
    let world = lived();
    let task = world.store.jobs_after(None, 1).expect("memory")[0].id;
    world
        .store
        .commit(&[Change::JobGone(task)])
        .expect("memory");
    let refused = verify(&world.store).expect_err("a measurement without its job");
    assert!(
        matches!(refused, VerifyError::Contradiction(_)),
        "{refused}"
    );
}

/// The chores of the real binary: from a running farm to a backup, to a store, to a farm again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_makes_a_farm_again() {
    use wattfarm_proto::v1::BackupRequest;
    let temporary = tempfile::tempdir().expect("a folder");
    let folder = temporary.path();
    let coordinator = Coordinator::start(folder).await;
    let operator = coordinator.operator(folder).await;
    crate::process::set_up(&operator, 2).await;
    crate::process::propose(&operator, 0..50).await;
    let mut parts = operator
        .farm()
        .backup(BackupRequest {})
        .await
        .expect("the key")
        .into_inner();
    let mut backup = Vec::new();
    while let Some(message) = parts.message().await.expect("is no error") {
        backup.extend(message.part);
    }
    let file = folder.join("backup.ndjson");
    std::fs::write(&file, &backup).expect("writes");
    drop((operator, parts));
    coordinator.end().await;

    let chore = |store: &str, arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_wattfarm-coordinator"));
        command
            .arg("--store")
            .arg(folder.join(store))
            .args(arguments);
        let output = command.env("RUST_LOG", "info").output().expect("starts");
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let exported = folder.join("export.ndjson");
    let (file, exported) = (
        file.to_str().expect("plain"),
        exported.to_str().expect("plain"),
    );
    let (good, log) = chore("store", &["export", "--output", exported]);
    assert!(good, "{log}");
    let read = |path| BufReader::new(std::fs::File::open(path).expect("there"));
    let (one, other) = (MemoryStore::default(), MemoryStore::default());
    dump::read(&one, &mut read(file)).expect("whole");
    dump::read(&other, &mut read(exported)).expect("whole");
    assert_eq!(
        told(&one),
        told(&other),
        "nothing happened between the backup and the end"
    );
    let (good, log) = chore("again", &["import", file]);
    assert!(good, "{log}");
    let (good, log) = chore("again", &["verify"]);
    assert!(good && log.contains("found.jobs=50"), "{log}");
    let (good, log) = chore("again", &["import", file]);
    assert!(!good && log.contains("holds a store already"), "{log}");
    let (good, log) = chore("nothing", &["verify"]);
    assert!(!good && log.contains("holds no store"), "{log}");
    std::fs::rename(folder.join("store"), folder.join("before")).expect("moves");
    std::fs::rename(folder.join("again"), folder.join("store")).expect("moves");
    let coordinator = Coordinator::start(folder).await;
    let operator = coordinator.operator(folder).await;
    let jobs = wattfarm_proto::v1::ListCampaignsRequest {};
    let campaigns = operator
        .farm()
        .list_campaigns(jobs)
        .await
        .expect("its new key")
        .into_inner();
    assert_eq!(campaigns.campaigns[0].jobs_outstanding, 50);
    drop(operator);
    coordinator.end().await;
}
