//! `make soak`: the real coordinator under steady load over loopback, for `MINUTES`. Agents take and bring a thousand jobs a second;
//! a trainer follows; visitors come, ask, and go, some in the middle of a wait. What the process takes may not grow but by what
//! it says that it keeps of each job.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use wattfarm_proto::connect::{Connection, unary};
use wattfarm_proto::v1;

use super::footprint::{disk_mib, open_files, resident_mib, threads};
use super::{BATCH, CAMPAIGN_JOBS, enrol, kibibytes, make_jobs, number, on_the_wire, turn};
use crate::process::Coordinator;

const AGENTS: u64 = 100;
const COMPLETIONS_A_SECOND: u64 = 1000;

/// What is kept in memory of a job that is over: the catalogue's, and what sled keeps of its pages.
const BYTES_A_JOB: u64 = 96;

/// What memory may scatter by, in MiB: the allocator's, and what is under way when it is looked at.
const SCATTER_MIB: u64 = 24;

/// Files and threads may be a few more than they were at any time of the warm-up: visitors are there when they are counted.
const FILES_MORE: usize = 8;
const THREADS_MORE: usize = 2;

/// Disk for the records, at most.
const DISK_TIMES: f64 = 2.5;

#[derive(Debug, Clone, Copy)]
struct Look {
    done: u64,
    resident_mib: u64,
    files: usize,
    threads: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: make soak"]
async fn nothing_grows() {
    let minutes = number("MINUTES", 10);
    let temporary = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let folder = temporary.path();
    let coordinator = Coordinator::start(folder).await;
    let process = coordinator.process.id().expect("it runs");
    let operator = coordinator.operator(folder).await;
    let agents = enrol(&coordinator, &operator, AGENTS).await;
    let done = Arc::new(AtomicU64::new(0));
    let mut at_work = begin_agents(agents, &done);
    at_work.push(tokio::spawn(make(operator.clone())));
    at_work.push(tokio::spawn(follow(operator.clone())));
    at_work.push(tokio::spawn(visit(
        coordinator.address.clone(),
        folder.join("store/operator.key"),
    )));

    let seconds = minutes * 60;
    let mut looks = Vec::new();
    let began = Instant::now();
    for second in 1..=seconds {
        tokio::time::sleep_until((began + Duration::from_secs(second)).into()).await;
        let look = Look {
            done: done.load(Ordering::Relaxed),
            resident_mib: resident_mib(process),
            files: open_files(process),
            threads: threads(process),
        };
        looks.push(look);
        let broken = at_work.iter().any(JoinHandle::is_finished);
        assert!(!broken, "somebody at work gave up: see above");
        if second % 30 == 0 {
            let disk = disk_mib(&folder.join("store"));
            println!("after {second} s: {look:?}, {disk} MiB of disk");
        }
    }
    for work in at_work {
        work.abort();
    }
    judge(&looks, &folder.join("store"));
    drop(operator);
    coordinator.end().await;
}

/// The first quarter is for what fills once: caches, pools. Nothing grows from there.
fn judge(looks: &[Look], store: &Path) {
    let (warm_up, rest) = looks.split_at(looks.len() / 4);
    let memory = |looks: &[Look]| {
        let last = &looks[looks.len() - looks.len().min(15)..];
        last.iter().map(|look| look.resident_mib).sum::<u64>() / last.len() as u64
    };
    let most = |looks: &[Look], of: fn(&Look) -> usize| looks.iter().map(of).max().unwrap_or(0);
    let last = rest.last().expect("there are seconds");
    let jobs = last.done - warm_up.last().expect("there are seconds").done;
    let (before, after) = (memory(warm_up), memory(rest));
    let allowed = ((jobs * BYTES_A_JOB) >> 20) + SCATTER_MIB;
    let disk = disk_mib(store);
    let data = last.done as f64 / 1024.0;
    println!(
        "{jobs} jobs after the warm-up: memory {before} to {after} MiB (at most {allowed} more), files {} to {}, threads {} to {}, \
         disk {disk} MiB for {data:.0} MiB of records",
        most(warm_up, |look| look.files),
        most(rest, |look| look.files),
        most(warm_up, |look| look.threads),
        most(rest, |look| look.threads),
    );
    assert!(
        jobs * 2 > COMPLETIONS_A_SECOND * rest.len() as u64,
        "too little was done to call it load"
    );
    assert!(after <= before + allowed, "memory grows");
    let files = |looks| most(looks, |look| look.files);
    assert!(
        files(rest) <= files(warm_up) + FILES_MORE,
        "open files grow"
    );
    let threads = |looks| most(looks, |look| look.threads);
    assert!(
        threads(rest) <= threads(warm_up) + THREADS_MORE,
        "threads grow"
    );
    assert!(disk as f64 <= DISK_TIMES * data + 32.0, "the disk grows");
}

/// Each takes a batch and brings it, at the pace that makes up the whole.
fn begin_agents(agents: Vec<Connection>, done: &Arc<AtomicU64>) -> Vec<JoinHandle<()>> {
    let readings = Arc::new(on_the_wire(&kibibytes()));
    let pace = Duration::from_millis(1000 * AGENTS * u64::from(BATCH) / COMPLETIONS_A_SECOND);
    let work = |(number, agent): (usize, Connection)| {
        let (readings, done) = (Arc::clone(&readings), Arc::clone(done));
        tokio::spawn(async move {
            // Not all at once.
            tokio::time::sleep(pace * number as u32 / AGENTS as u32).await;
            let mut pace = tokio::time::interval(pace);
            loop {
                pace.tick().await;
                let (some, _) = turn(&agent, BATCH, &readings).await;
                done.fetch_add(some as u64, Ordering::Relaxed);
            }
        })
    };
    agents.into_iter().enumerate().map(work).collect()
}

/// Jobs for the agents, a little more than they bring at first.
async fn make(operator: Connection) {
    let pace = Duration::from_millis(1000 * CAMPAIGN_JOBS / COMPLETIONS_A_SECOND);
    let mut pace = tokio::time::interval(pace);
    make_jobs(&operator, CAMPAIGN_JOBS, 1).await;
    for campaign in 2.. {
        pace.tick().await;
        make_jobs(&operator, CAMPAIGN_JOBS, campaign).await;
    }
}

/// A trainer: reads what is measured, and comes back every while.
async fn follow(trainer: Connection) {
    let mut last = 0;
    loop {
        let request = v1::WatchMeasurementsRequest {
            after_sequence: last,
            after_retraction: 0,
            ..Default::default()
        };
        let stream = trainer.trainer().watch_measurements(request).await;
        let mut stream = stream.expect("the key").into_inner();
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(10) {
            let message = stream.next().await.expect("it never ends");
            let message = message.expect("it runs");
            last = message.measurements.last().map_or(last, |one| one.sequence);
        }
    }
}

/// Ten visitors a second: each connects, asks, begins to watch, and is gone.
async fn visit(address: String, key: std::path::PathBuf) {
    let key = std::fs::read_to_string(key).expect("made on the first start");
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    loop {
        pace.tick().await;
        let visitor = Connection::open(&address, Some(key.trim()))
            .await
            .expect("connects");
        let request = v1::ListCampaignsRequest::default();
        visitor
            .farm()
            .list_campaigns(unary(request))
            .await
            .expect("the key");
        let request = v1::WatchCampaignsRequest::default();
        let watch = visitor.trainer().watch_campaigns(request).await;
        let mut watch = watch.expect("the key").into_inner();
        watch
            .next()
            .await
            .expect("the first comes at once")
            .expect("it runs");
    }
}
