//! `make bench-farm`: the real coordinator under a thousand agents, over loopback.
//!
//! First as fast as it goes: each agent takes 16 jobs, reports 16 records of 1 KiB, and again; `ROUNDS` times that. Then at a pace: a
//! thousand leases a second, one job each. `STORE=postgres` has it over a database. The load generator runs on the same cores, and the
//! database too, so all are seen together. Then a peer does the same: a queue in PostgreSQL.

mod footprint;
mod peer;
mod soak;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use wattfarm_cost::measurement::Reading;
use wattfarm_proto::connect::{Connection, unary};
use wattfarm_proto::v1;
use wattfarm_proto::v1::report_results_request::Report;
use wattfarm_proto::v1::report_results_request::report::Outcome;

use self::footprint::{disk_mib, resident_mib};
use self::peer::Peer;
use crate::database::Database;
use crate::process::Coordinator;
use crate::world::{layer, platform, reading, uuid};

/// Jobs in a batch.
const BATCH: u32 = 16;

/// The most outstanding jobs of one campaign.
const CAMPAIGN_JOBS: u64 = 4096;

fn number(name: &str, otherwise: u64) -> u64 {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty());
    text.map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Readings whose records have about 1 KiB each. Their samples scatter as those of a real machine do: a store that compresses
/// must not find them all alike.
fn kibibytes() -> Vec<Reading> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut one = || {
        let mut reading = reading(1.25);
        reading.runtime.samples_ms = (0..90)
            .map(|_| 1.25 * random.random_range(0.95..1.2_f32))
            .collect();
        reading.runtime.repetitions = reading.runtime.samples_ms.len() as u32;
        reading
    };
    (0..4096).map(|_| one()).collect()
}

fn on_the_wire(readings: &[Reading]) -> Vec<v1::Reading> {
    readings.iter().map(Into::into).collect()
}

async fn enrol(coordinator: &Coordinator, operator: &Connection, agents: u64) -> Vec<Connection> {
    let mut connections = Vec::new();
    for number in 0..agents {
        let request = v1::CreateTokenRequest::default();
        let token = operator
            .farm()
            .create_token(unary(request))
            .await
            .expect("the key");
        let mut credential = vec![0xa5; 24];
        credential.extend(number.to_be_bytes());
        let text: String = credential
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let request = v1::EnrollRequest {
            token: token.into_inner().token,
            credential,
            name: format!("agent {number}"),
            platform: Some((&platform(1)).into()),
        };
        operator
            .agents()
            .enroll(unary(request))
            .await
            .expect("a good token");
        let connection = Connection::open(&coordinator.address, Some(&text)).await;
        connections.push(connection.expect("connects"));
    }
    connections
}

/// Makes jobs; each layer is another's.
async fn make_jobs(operator: &Connection, jobs: u64, first_campaign: u64) {
    for campaign in 0..jobs.div_ceil(CAMPAIGN_JOBS) {
        let id = uuid(first_campaign + campaign).to_string();
        // It ends with its last job, as campaigns do: so many may be under way at once.
        let budget = v1::campaign_request::budget::Budget::Jobs(CAMPAIGN_JOBS);
        let request = v1::CampaignRequest {
            campaign_id: id.clone(),
            platform: platform(1).slug(),
            budget: Some(v1::campaign_request::Budget {
                budget: Some(budget),
            }),
            ..Default::default()
        };
        let request = v1::RequestModelsRequest {
            campaign: Some(request),
        };
        operator
            .models()
            .request_models(unary(request))
            .await
            .expect("a good request");
        for part in 0..CAMPAIGN_JOBS / 1024 {
            let first = (first_campaign + campaign) * CAMPAIGN_JOBS + part * 1024;
            let layers = (first..first + 1024)
                .map(|number| (&layer(number)).into())
                .collect();
            let request = v1::ProposeLayersRequest {
                campaign_id: id.clone(),
                layers,
            };
            operator
                .trainer()
                .propose_layers(unary(request))
                .await
                .expect("room");
        }
    }
}

/// Takes jobs and reports them: how many, and how long the lease took.
async fn turn(agent: &Connection, jobs_max: u32, readings: &[v1::Reading]) -> (usize, Duration) {
    let request = v1::LeaseJobsRequest {
        max_jobs: jobs_max,
        wait_ms: 0,
        held: vec![],
    };
    let began = Instant::now();
    let leased = agent
        .agents()
        .lease_jobs(unary(request))
        .await
        .expect("it runs")
        .into_inner();
    let took = began.elapsed();
    let report = |lease: &v1::lease_jobs_response::Lease| Report {
        job_id: lease.job_id.clone(),
        lease: lease.lease,
        outcome: Some(Outcome::Reading(
            readings[lease.lease as usize % readings.len()].clone(),
        )),
    };
    let reports: Vec<_> = leased.leases.iter().map(report).collect();
    let done = reports.len();
    if done > 0 {
        let request = v1::ReportResultsRequest { reports };
        agent
            .agents()
            .report_results(unary(request))
            .await
            .expect("it runs");
    }
    (done, took)
}

/// Every agent asks for work where there is none, and waits.
fn wait_idle(connections: &[Connection]) -> Vec<JoinHandle<()>> {
    let wait = |agent: &Connection| {
        let mut agents = agent.agents();
        tokio::spawn(async move {
            let request = v1::LeaseJobsRequest {
                max_jobs: 1,
                wait_ms: 20_000,
                held: vec![],
            };
            // It is given up before there is an answer.
            let _ = agents.lease_jobs(unary(request)).await;
        })
    };
    connections.iter().map(wait).collect()
}

fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted
        .get(at)
        .map_or(f64::NAN, |took| took.as_secs_f64() * 1000.0)
}

/// Every agent takes jobs and reports them until there are none: how many that were, and how many a second.
async fn as_fast_as_it_goes(
    connections: &[Connection],
    readings: &Arc<Vec<v1::Reading>>,
) -> (usize, f64) {
    let began = Instant::now();
    let at_work = connections.iter().cloned().map(|agent| {
        let readings = Arc::clone(readings);
        tokio::spawn(async move {
            let (mut done, mut leases) = (0, Vec::new());
            loop {
                let (some, took) = turn(&agent, BATCH, &readings).await;
                leases.push(took);
                if some == 0 {
                    return (done, leases);
                }
                done += some;
            }
        })
    });
    let at_work: Vec<_> = at_work.collect();
    let (mut done, mut leases) = (0, Vec::new());
    for agent in at_work {
        let (some, took) = agent.await.expect("does not panic");
        done += some;
        leases.extend(took);
    }
    let seconds = began.elapsed().as_secs_f64();
    leases.sort_unstable();
    println!(
        "as fast as it goes: {done} completions in {seconds:.1} s, {:.0} a second; a lease of {BATCH} took {:.0} ms in the \
         middle, {:.0} ms at p99",
        done as f64 / seconds,
        percentile(&leases, 50),
        percentile(&leases, 99),
    );
    (done, done as f64 / seconds)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: make bench-farm"]
async fn a_thousand_agents() {
    let (agents, jobs) = (number("AGENTS", 1000), number("JOBS", 100_000));
    let rounds = number("ROUNDS", 1);
    let temporary = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let folder = temporary.path();
    let database = match std::env::var("STORE").as_deref() {
        Ok("postgres") => tokio::task::spawn_blocking(Database::start)
            .await
            .expect("does not panic"),
        _ => None,
    };
    let (coordinator, key, store) = match &database {
        None => {
            let coordinator = Coordinator::start(folder).await;
            (
                coordinator,
                folder.join("store/operator.key"),
                folder.join("store"),
            )
        }
        Some(database) => {
            let coordinator = Coordinator::begin_on(folder, &database.address(), 0)
                .ready()
                .await;
            (coordinator, folder.join("operator.key"), database.data())
        }
    };
    let process = coordinator.process.id().expect("it runs");
    let operator = coordinator.operator_with(&key).await;
    let connections = enrol(&coordinator, &operator, agents).await;
    let resident = resident_mib(process);
    println!("{agents} agents, connected: {resident} MiB resident");
    let waiting = wait_idle(&connections);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let resident = resident_mib(process);
    println!("all of them wait for work: {resident} MiB resident");
    waiting.into_iter().for_each(|wait| wait.abort());
    let records = kibibytes();
    let readings = Arc::new(on_the_wire(&records));
    let (mut stored, mut rates) = (0, Vec::new());
    for round in 0..rounds {
        let began = Instant::now();
        make_jobs(&operator, jobs, 1 + round * jobs.div_ceil(CAMPAIGN_JOBS)).await;
        println!("{jobs} jobs made in {:.1} s", began.elapsed().as_secs_f64());
        let (done, rate) = as_fast_as_it_goes(&connections, &readings).await;
        stored += done;
        rates.push(rate);
        println!(
            "then: {} MiB resident, {} MiB of disk for {stored} records",
            resident_mib(process),
            disk_mib(&store)
        );
    }
    if agents > 1000 {
        drop((operator, connections));
        return coordinator.end().await;
    }

    let (paced_seconds, a_second) = (10, 1000_u64);
    // Layers go on where they were: one that is far larger could not be as fast as the readings say, and they would be refused.
    let next = 1 + rounds * jobs.div_ceil(CAMPAIGN_JOBS);
    make_jobs(&operator, paced_seconds * a_second, next).await;
    let began = Instant::now();
    let in_flight = Arc::new(Semaphore::new(1000));
    let mut at_work = Vec::new();
    for ticket in 0..paced_seconds * a_second {
        let due = began + Duration::from_micros(ticket * 1_000_000 / a_second);
        tokio::time::sleep_until(due.into()).await;
        let permit = Arc::clone(&in_flight)
            .acquire_owned()
            .await
            .expect("never closed");
        let agent = connections[(ticket % agents) as usize].clone();
        let readings = Arc::clone(&readings);
        at_work.push(tokio::spawn(async move {
            let (_, took) = turn(&agent, 1, &readings).await;
            drop(permit);
            took
        }));
    }
    let mut leases = Vec::new();
    for turn in at_work {
        leases.push(turn.await.expect("does not panic"));
    }
    leases.sort_unstable();
    println!(
        "at {a_second} leases a second (kept {:.0}): a lease took {:.1} ms in the middle, {:.1} ms at p99, {:.1} ms at most",
        leases.len() as f64 / began.elapsed().as_secs_f64(),
        percentile(&leases, 50),
        percentile(&leases, 99),
        percentile(&leases, 100),
    );
    drop((operator, connections));
    coordinator.end().await;
    if database.is_none() {
        open_again(folder).await;
    }
    drop(database);
    let peer = tokio::task::spawn_blocking(move || peer::measure(&records));
    if let Some(peer) = peer.await.expect("does not panic") {
        beside(&peer, rates[0], percentile(&leases, 99));
    }
}

/// The farm's figures as ratios to the peer's.
fn beside(peer: &Peer, rate: f64, lease_ms: f64) {
    println!(
        "beside it a queue in PostgreSQL, jobs taken with SKIP LOCKED by pgbench's 32 clients: {:.0} completions a second, \
         {} MiB of disk for {} records, a lease {:.1} ms at p99",
        peer.completions, peer.disk_mib, peer.records, peer.lease_ms,
    );
    println!(
        "the farm: {:.2} times its completions a second (first round), {:.2} times its p99",
        rate / peer.completions,
        lease_ms / peer.lease_ms,
    );
}

/// How long the coordinator takes to open the store that it left, and again: sled reads its log the first time.
async fn open_again(folder: &Path) {
    for time in ["first", "second"] {
        let began = Instant::now();
        let coordinator = Coordinator::start(folder).await;
        let took = began.elapsed().as_secs_f64();
        let resident = resident_mib(coordinator.process.id().expect("it runs"));
        println!("opened a {time} time: {took:.2} s until it takes calls, {resident} MiB resident");
        coordinator.end().await;
    }
}
