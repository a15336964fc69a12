//! The real process, killed in the middle of its work: what it acknowledged is there afterwards, once, and all that was
//! wanted ends.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio_stream::StreamExt as _;
use tonic::Status;
use wattfarm_proto::connect::{Connection, unary};
use wattfarm_proto::v1::report_results_request::Report;
use wattfarm_proto::v1::report_results_request::report::Outcome;
use wattfarm_proto::{block, first_of, v1};

use crate::process::{Coordinator, credential, propose, set_up};
use crate::world::reading;

/// Kills, unless `KILLS` says otherwise: as many as every run of the tests has patience for.
const KILLS: u64 = 50;

const AGENTS: u8 = 3;

/// Jobs that wait at each start: more than are done before the kill.
const JOBS: u64 = 400;

/// An agent: it outlives the coordinator, and reports again what nobody acknowledged.
pub(crate) struct Agent {
    number: u8,
    unacknowledged: Vec<Report>,
    /// The leases of whose reading it heard that it is taken.
    pub(crate) acknowledged: Vec<u64>,
    random: ChaCha8Rng,
}

impl Agent {
    pub(crate) fn new(number: u8) -> Self {
        Self {
            number,
            unacknowledged: Vec::new(),
            acknowledged: Vec::new(),
            random: ChaCha8Rng::seed_from_u64(number.into()),
        }
    }

    fn measure(&mut self, lease: v1::lease_jobs_response::Lease) -> Report {
        let outcome = match self.random.random_range(0..20) {
            0 => Outcome::Infeasible("no room".to_owned()),
            1 | 2 => Outcome::Failed("it went wrong".to_owned()),
            3 => Outcome::Returned("later".to_owned()),
            _ => Outcome::Reading((&reading(1.0)).into()),
        };
        Report {
            job_id: lease.job_id,
            lease: lease.lease,
            outcome: Some(outcome),
        }
    }

    /// Works until the coordinator is gone; or, if it is to, until there is no work.
    pub(crate) async fn work(mut self, address: String, until_idle: bool) -> Self {
        if let Ok(connection) = Connection::open(&address, Some(&credential(self.number))).await {
            let mut turns = 0;
            while let Ok(jobs) = self.turn(&connection).await {
                turns += 1;
                assert!(turns < 100_000, "there is always more work");
                if until_idle && jobs == 0 {
                    break;
                }
            }
        }
        self
    }

    pub(crate) async fn turn(&mut self, connection: &Connection) -> Result<usize, Status> {
        if !self.unacknowledged.is_empty() {
            let reports = self.unacknowledged.clone();
            let request = v1::ReportResultsRequest { reports };
            connection.agents().report_results(unary(request)).await?;
            let taken = self.unacknowledged.drain(..);
            let readings =
                taken.filter(|report| matches!(report.outcome, Some(Outcome::Reading(_))));
            self.acknowledged
                .extend(readings.map(|report| report.lease));
        }
        let request = v1::LeaseJobsRequest {
            max_jobs: 4,
            wait_ms: 0,
            held: vec![],
        };
        let response = connection.agents().lease_jobs(unary(request)).await?;
        for lease in response.into_inner().leases {
            let report = self.measure(lease);
            self.unacknowledged.push(report);
        }
        Ok(self.unacknowledged.len())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_sigkill() {
    let kills = std::env::var("KILLS").ok().filter(|text| !text.is_empty());
    let kills = kills.map_or(KILLS, |text| text.parse().expect("a number"));
    let seed = 1;
    println!("seed {seed}, {kills} kills");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let temporary = tempfile::tempdir().expect("a folder");
    let folder = temporary.path();

    let coordinator = Coordinator::start(folder).await;
    set_up(&coordinator.operator(folder).await, AGENTS).await;
    coordinator.end().await;
    let mut agents: Vec<Agent> = (0..AGENTS).map(Agent::new).collect();
    let mut proposed = 0;
    for _ in 0..kills {
        let mut coordinator = Coordinator::start(folder).await;
        let operator = coordinator.operator(folder).await;
        let room = JOBS.saturating_sub(open_jobs(&operator).await);
        propose(&operator, proposed..proposed + room).await;
        proposed += room;
        let at_work = agents
            .drain(..)
            .map(|agent| tokio::spawn(agent.work(coordinator.address.clone(), false)));
        let at_work: Vec<_> = at_work.collect();
        tokio::time::sleep(Duration::from_millis(random.random_range(10..250))).await;
        coordinator.process.kill().await.expect("it runs");
        for agent in at_work {
            agents.push(agent.await.expect("does not panic"));
        }
    }

    let coordinator = Coordinator::start(folder).await;
    let mut acknowledged = Vec::new();
    for agent in agents {
        let agent = agent.work(coordinator.address.clone(), true).await;
        acknowledged.extend(agent.acknowledged);
    }
    let operator = coordinator.operator(folder).await;
    check_measurements(&operator, &acknowledged).await;
    check_jobs(&operator, proposed).await;
    println!(
        "{kills} kills, {} acknowledged, {proposed} jobs ended",
        acknowledged.len()
    );
    assert!(
        acknowledged.len() as u64 > kills * 4,
        "too little was done to call it load"
    );
    drop(operator);
    coordinator.end().await;
}

/// A client that was told of two coordinators talks to the one that answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_goes_on_with_the_next_coordinator() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut first = Coordinator::start(folders[0].path()).await;
    let second = Coordinator::start(folders[1].path()).await;
    let addresses = format!("{},{}", first.address, second.address);
    let client = Connection::open(addresses.as_str(), None)
        .await
        .expect("either answers");
    let ask = || async {
        let request = unary(v1::ListPlatformsRequest {});
        client.models().list_platforms(request).await
    };
    ask().await.expect("the first is there");
    first.process.kill().await.expect("it runs");
    let mut failures = 0;
    while let Err(failure) = ask().await {
        failures += 1;
        assert!(failures < 20, "{failure}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(client);
    second.end().await;
}

async fn open_jobs(operator: &Connection) -> u64 {
    let request = v1::ListCampaignsRequest {};
    let campaigns = operator
        .farm()
        .list_campaigns(unary(request))
        .await
        .expect("the key");
    campaigns.into_inner().campaigns[0].jobs_outstanding
}

/// What was acknowledged is stored, and nothing twice.
pub(crate) async fn check_measurements(operator: &Connection, acknowledged: &[u64]) {
    let request = v1::ExportMeasurementsRequest::default();
    let export = operator
        .farm()
        .export_measurements(request)
        .await
        .expect("the key");
    let export = export
        .into_inner()
        .map(|message| message.expect("is no error").measurements);
    let stored: Vec<v1::Measurement> = export
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .flatten()
        .collect();
    let mut blocks: BTreeMap<u64, u64> = BTreeMap::new();
    for sequence in stored.iter().map(|measurement| measurement.sequence) {
        let next = blocks
            .entry(block(sequence))
            .or_insert(first_of(block(sequence)));
        assert_eq!(sequence, *next, "numbered from 1 in each block, each once");
        *next += 1;
    }
    let leases: BTreeSet<u64> = stored.iter().map(|measurement| measurement.lease).collect();
    assert_eq!(
        leases.len(),
        stored.len(),
        "each lease's reading is stored once"
    );
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|lease| !leases.contains(lease))
        .collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
}

/// Every job that was accepted has ended, and says how.
pub(crate) async fn check_jobs(operator: &Connection, proposed: u64) {
    let request = v1::ListJobsRequest {
        limit: 100_000,
        ..Default::default()
    };
    let jobs = operator
        .farm()
        .list_jobs(request)
        .await
        .expect("the key")
        .into_inner();
    let jobs: Vec<_> = jobs
        .map(|message| message.expect("is no error").job)
        .collect()
        .await;
    let jobs: Vec<v1::Job> = jobs.into_iter().flatten().collect();
    assert_eq!(jobs.len() as u64, proposed, "a job was lost");
    for job in jobs {
        match job.state() {
            v1::JobState::Done => assert!(job.replicas_done > 0, "{job:?}"),
            v1::JobState::Infeasible | v1::JobState::Parked => {
                assert!(!job.because.is_empty(), "{job:?}");
            }
            v1::JobState::Queued | v1::JobState::Leased | v1::JobState::Unspecified => {
                panic!("never ended: {job:?}")
            }
        }
    }
}

/// Between a result's write and its acknowledgement the store's file is synced: seen in the system calls themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_is_synced_before_it_is_acknowledged() {
    let temporary = tempfile::tempdir().expect("a folder");
    let folder = temporary.path();
    let trace = folder.join("trace");
    let traced = std::process::Command::new("strace")
        .args(["-o", "/dev/null", "true"])
        .status();
    if !traced.is_ok_and(|status| status.success()) {
        println!("SKIPPED: strace is not there, or may not trace");
        return;
    }
    let calls = "trace=pwrite64,pwritev,write,writev,sendto,sendmsg,fsync,fdatasync";
    let file = trace.to_str().expect("plain");
    let wrapper = [
        "strace", "-f", "-y", "-xx", "-s", "4096", "-e", calls, "-o", file,
    ];
    let coordinator = Coordinator::start_under(&wrapper, folder).await;
    let operator = coordinator.operator(folder).await;
    set_up(&operator, 1).await;
    propose(&operator, 0..20).await;
    let connection = Connection::open(&coordinator.address, Some(&credential(0))).await;
    let connection = connection.expect("connects");
    let mut agent = Agent::new(0);
    while agent.turn(&connection).await.expect("it runs") > 0 {}
    let reported = agent.acknowledged.len();
    assert!(reported > 10, "{reported}");
    drop((connection, operator));
    stop_traced(coordinator, folder).await;

    let trace = std::fs::read_to_string(&trace).expect("strace wrote it");
    let seen = syscalls::answers_after_sync(&trace);
    println!("{seen:?}");
    assert_eq!(
        seen.unsynced, 0,
        "an answer left while the store's file had unsynced writes"
    );
    assert!(
        seen.writes > reported / 4 && seen.syncs >= seen.commits,
        "{seen:?}"
    );
    assert!(seen.answers > seen.commits, "{seen:?}");
}

/// Ends the coordinator that a tracer runs: the tracer ends with it.
async fn stop_traced(mut coordinator: Coordinator, folder: &Path) {
    let lock = folder.join("store/lock");
    let tracer = coordinator.process.id().expect("it runs").to_string();
    let children = std::fs::read_to_string(format!("/proc/{tracer}/task/{tracer}/children"));
    let child = children.expect("Linux").trim().to_owned();
    assert!(lock.exists() && !child.is_empty());
    let killed = tokio::process::Command::new("kill")
        .args(["-TERM", &child])
        .status()
        .await;
    assert!(killed.expect("kill runs").success());
    let end = tokio::time::timeout(Duration::from_secs(20), coordinator.process.wait()).await;
    assert!(end.expect("ends in time").expect("is ours").success());
}

/// Reads what strace wrote.
mod syscalls {
    use std::collections::BTreeMap;

    /// What a trace shows.
    #[derive(Debug, Default)]
    pub(super) struct Seen {
        /// Writes to the store's file.
        pub(super) writes: usize,
        /// Syncs of it.
        pub(super) syncs: usize,
        /// Syncs before which something was written.
        pub(super) commits: usize,
        /// Answers to calls: frames of HTTP/2 with headers, written to a socket.
        pub(super) answers: usize,
        /// Answers that left while something was written and not synced.
        pub(super) unsynced: usize,
    }

    const HEADERS: u8 = 1;
    const FRAME_HEADER_BYTES: usize = 9;

    pub(super) fn answers_after_sync(trace: &str) -> Seen {
        let mut seen = Seen::default();
        let mut synced = 0;
        // The writes that a sync under way covers, by thread.
        let mut syncing: BTreeMap<&str, usize> = BTreeMap::new();
        for line in trace.lines() {
            let Some((thread, call)) = line.split_once(' ') else {
                continue;
            };
            let call = call.trim_start();
            let of_store = call.contains(&hex("/db")) || call.contains("/db>");
            if call.starts_with("pwrite") && of_store {
                seen.writes += 1;
            }
            if call.starts_with("fdatasync(") && of_store {
                syncing.insert(thread, seen.writes);
            }
            let ended = call.contains("fdatasync resumed") || call.starts_with("fdatasync(");
            if ended
                && call.trim_end().ends_with("= 0")
                && let Some(covered) = syncing.remove(thread)
            {
                seen.syncs += 1;
                seen.commits += usize::from(covered > synced);
                synced = synced.max(covered);
            }
            let sends = ["write(", "writev(", "sendto(", "sendmsg("];
            let to_socket = call.split(['<', '>']).nth(1).is_some_and(is_socket);
            if sends.iter().any(|name| call.starts_with(name)) && to_socket {
                let answers = frames(&bytes_of(call))
                    .filter(|&kind| kind == HEADERS)
                    .count();
                seen.answers += answers;
                seen.unsynced += usize::from(answers > 0 && synced < seen.writes);
            }
        }
        seen
    }

    fn is_socket(path: &str) -> bool {
        let path = unhex(path);
        path.starts_with(b"TCP:") || path.starts_with(b"socket:")
    }

    fn hex(text: &str) -> String {
        text.bytes().map(|byte| format!("\\x{byte:02x}")).collect()
    }

    /// `-xx` writes every byte as `\x..`, paths included in some versions.
    fn unhex(text: &str) -> Vec<u8> {
        if !text.starts_with("\\x") {
            return text.as_bytes().to_vec();
        }
        let digits = text.split("\\x").skip(1);
        digits
            .filter_map(|digits| u8::from_str_radix(digits.get(..2)?, 16).ok())
            .collect()
    }

    /// What a call writes: every text in quotes.
    fn bytes_of(call: &str) -> Vec<u8> {
        call.split('"').skip(1).step_by(2).flat_map(unhex).collect()
    }

    /// The kinds of the frames.
    fn frames(bytes: &[u8]) -> impl Iterator<Item = u8> {
        let mut rest = bytes;
        std::iter::from_fn(move || {
            let header = rest.get(..FRAME_HEADER_BYTES)?;
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            let kind = header[3];
            rest = rest.get(FRAME_HEADER_BYTES + length..).unwrap_or_default();
            Some(kind)
        })
    }
}
