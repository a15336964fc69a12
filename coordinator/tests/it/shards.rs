//! Several real coordinators over one real database: each has a part of the farm, any takes every call, and any may be killed or
//! paused at any moment.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio_stream::StreamExt as _;
use tonic::{Code, Request};
use wattfarm_coordinator::certs::Certificates;
use wattfarm_coordinator::store::{Place, Shard, verify};
use wattfarm_cost::Platform;
use wattfarm_proto::connect::{Connection, unary};
use wattfarm_proto::error::reason;
use wattfarm_proto::tls::TlsArgs;
use wattfarm_proto::{block, v1};

use crate::database::Database;
use crate::kill::{Agent, check_jobs, check_measurements};
use crate::process::{Coordinator, credential};
use crate::world::{layer, platform, uuid};

/// How long a shard may be nobody's: a paused coordinator's term and a commit that it holds open.
const TAKEN_WITHIN: Duration = Duration::from_secs(20);

/// A platform for each shard, in their order.
fn platforms() -> Vec<Platform> {
    let of = |shard| {
        let mut all = (1..).map(platform);
        all.find(|platform| Shard::for_name(&platform.slug()) == shard)
    };
    Shard::all()
        .map(|shard| of(shard).expect("some has it"))
        .collect()
}

/// Who has each shard.
fn owners(database: &Database) -> Vec<String> {
    let mut client =
        postgres::Client::connect(&database.address(), postgres::NoTls).expect("connects");
    let owner = |shard: Shard| {
        let schema = match shard.number() {
            0 => "wattfarm".to_owned(),
            number => format!("wattfarm_{number}"),
        };
        let sql = format!(
            "SELECT CASE WHEN ends > clock_timestamp() THEN address ELSE '' END FROM {schema}.in_charge \
             JOIN pg_stat_activity ON pid = backend"
        );
        let row = client.query_opt(&sql, &[]).expect("answers");
        row.map_or_else(String::new, |row| row.get(0))
    };
    Shard::all().map(owner).collect()
}

/// Waits until the shards are had so; says after how long.
async fn until(database: &Arc<Database>, so: impl Fn(&[String]) -> bool) -> Duration {
    let began = Instant::now();
    loop {
        let asked = Arc::clone(database);
        let seen = move || owners(&asked);
        let owners = tokio::task::spawn_blocking(seen).await.expect("answers");
        if so(&owners) {
            return began.elapsed();
        }
        assert!(began.elapsed() < TAKEN_WITHIN, "{owners:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Each of two has half of them.
fn halved(owners: &[String]) -> bool {
    let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
    owners
        .iter()
        .for_each(|owner| *counts.entry(owner).or_default() += 1);
    counts.len() == 2 && counts.values().all(|&count| count == owners.len() / 2)
}

/// Enrols an agent of each platform and asks for a campaign of each, of one coordinator and of the other in turn.
async fn set_up(operators: &[Connection; 2], platforms: &[Platform]) {
    for (number, platform) in platforms.iter().enumerate() {
        let (one, other) = (&operators[number % 2], &operators[(number + 1) % 2]);
        let request = v1::CreateTokenRequest::default();
        let token = one.farm().create_token(unary(request)).await;
        let request = v1::EnrollRequest {
            token: token.expect("the key").into_inner().token,
            credential: vec![number as u8; 32],
            name: format!("agent {number}"),
            platform: Some(platform.into()),
        };
        // As if the answer had been lost.
        for operator in [other, one] {
            let enrolled = operator.agents().enroll(unary(request.clone())).await;
            enrolled.expect("a good token");
        }
        let stolen = v1::EnrollRequest {
            credential: vec![0xee; 32],
            ..request
        };
        let refused = one.agents().enroll(unary(stolen)).await;
        assert_eq!(
            refused.expect_err("it was used").code(),
            Code::PermissionDenied
        );
        let budget = v1::campaign_request::budget::Budget::Jobs(u64::from(u32::MAX));
        let campaign = v1::CampaignRequest {
            campaign_id: uuid(1 + number as u64).to_string(),
            platform: platform.slug(),
            budget: Some(v1::campaign_request::Budget {
                budget: Some(budget),
            }),
            ..Default::default()
        };
        let request = v1::RequestModelsRequest {
            campaign: Some(campaign),
        };
        let asked = other.models().request_models(unary(request)).await;
        asked.expect("a good request");
    }
}

/// An agent can't become one of a platform that another shard has: it hears so, and its new token stays unused.
async fn no_agent_changes_shards(operator: &Connection, platforms: &[Platform]) {
    let token = operator
        .farm()
        .create_token(unary(v1::CreateTokenRequest::default()))
        .await;
    let moved = v1::EnrollRequest {
        token: token.expect("the key").into_inner().token,
        credential: vec![0; 32],
        name: "agent 0".to_owned(),
        platform: Some((&platforms[1]).into()),
    };
    let refused = operator.agents().enroll(unary(moved.clone())).await;
    let refused = refused.expect_err("it is another shard's");
    assert_eq!(reason(&refused), "ENROLLED_ELSEWHERE", "{refused}");
    let stayed = v1::EnrollRequest {
        platform: Some((&platforms[0]).into()),
        ..moved
    };
    let enrolled = operator.agents().enroll(unary(stayed)).await;
    enrolled.expect("a good token");
}

/// Proposes layers of these numbers for the campaign of each platform.
async fn propose(operator: &Connection, campaigns: usize, layers: std::ops::Range<u64>) {
    for number in 0..campaigns {
        let request = v1::ProposeLayersRequest {
            campaign_id: uuid(1 + number as u64).to_string(),
            layers: layers
                .clone()
                .map(|number| (&layer(number)).into())
                .collect(),
        };
        let proposed = operator.trainer().propose_layers(unary(request)).await;
        proposed.expect("room");
    }
}

/// What an agent does: it works with whichever coordinator answers, whatever becomes of them.
async fn work(mut agent: Agent, addresses: String, number: u8, stop: Arc<AtomicBool>) -> Agent {
    let credential = credential(number);
    while !stop.load(Ordering::Relaxed) {
        if let Ok(connection) = Connection::open(&addresses, Some(&credential)).await {
            while let Ok(Ok(jobs)) =
                tokio::time::timeout(Duration::from_secs(5), agent.turn(&connection)).await
            {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                if jobs == 0 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    agent
}

/// What every user sees, by whichever coordinator.
async fn sees_all(operator: &Connection, platforms: usize) {
    let request = unary(v1::ListPlatformsRequest {});
    let listed = operator
        .models()
        .list_platforms(request)
        .await
        .expect("answers");
    assert_eq!(listed.into_inner().platforms.len(), platforms);
    let request = unary(v1::ListCampaignsRequest {});
    let listed = operator
        .farm()
        .list_campaigns(request)
        .await
        .expect("answers");
    assert_eq!(listed.into_inner().campaigns.len(), platforms);
    let request = unary(v1::ListAgentsRequest {});
    let listed = operator.farm().list_agents(request).await.expect("answers");
    assert_eq!(listed.into_inner().agents.len(), platforms);
}

/// The measurements that a trainer is told of, from the first on, until it has been told of so many.
async fn followed(operator: &Connection, count: usize) -> Vec<u64> {
    let request = v1::WatchMeasurementsRequest {
        by_block: true,
        ..Default::default()
    };
    let stream = operator.trainer().watch_measurements(request).await;
    let mut stream = stream.expect("the key").into_inner();
    let mut sequences = Vec::new();
    while sequences.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(10), stream.next()).await;
        let batch = next
            .expect("there are more")
            .expect("no end")
            .expect("no error");
        sequences.extend(batch.measurements.iter().map(|one| one.sequence));
    }
    sequences
}

/// What no client may say.
async fn forged_calls_are_refused(address: &str, operator: &Connection) {
    let strangers = Connection::open(address, None).await.expect("connects");
    let mut forged = unary(v1::ListPlatformsRequest {});
    let metadata = forged.metadata_mut();
    metadata.insert(
        "wattfarm-coordinator",
        "00".repeat(32).parse().expect("plain"),
    );
    metadata.insert("wattfarm-shard", "0".parse().expect("plain"));
    let refused = strangers.models().list_platforms(forged).await;
    assert_eq!(
        refused.expect_err("it is none").code(),
        Code::PermissionDenied
    );
    // An agent's step of enrolment without a token.
    let mut forged = unary(v1::EnrollRequest {
        token: "00".repeat(32),
        credential: vec![0xdd; 32],
        name: "nobody's".to_owned(),
        platform: Some((&platform(1)).into()),
    });
    forged
        .metadata_mut()
        .insert("wattfarm-step", "agent".parse().expect("plain"));
    let refused = strangers.agents().enroll(forged).await;
    assert_eq!(refused.expect_err("no token").code(), Code::Unauthenticated);
    // One who follows a single block would miss the others.
    let request = Request::new(v1::WatchMeasurementsRequest::default());
    let refused = operator.trainer().watch_measurements(request).await;
    assert_eq!(refused.expect_err("too old").code(), Code::OutOfRange);
}

/// A backup taken by any of them is the whole farm.
async fn backed_up(operator: &Connection, folder: &Path, jobs: u64, measurements: u64) {
    let stream = operator.farm().backup(v1::BackupRequest {}).await;
    let parts = stream.expect("the key").into_inner();
    let parts: Vec<_> = parts
        .map(|part| part.expect("no error").part)
        .collect()
        .await;
    let file = folder.join("backup");
    std::fs::write(&file, parts.concat()).expect("writes");
    let store = folder.join("restored");
    let mut command = Command::new(env!("CARGO_BIN_EXE_wattfarm-coordinator"));
    command.arg("--store").arg(&store).arg("import").arg(&file);
    assert!(command.status().expect("starts").success());
    let restored = Place::Folder(store).existing().expect("is there");
    let found = restored.verify().expect("sound");
    assert_eq!((found.jobs, found.measurements), (jobs, measurements));
}

/// Two coordinators share a farm. One after the other is killed, or paused until it is replaced: the one that is left answers for
/// all, agents go on with it, and nothing acknowledged is lost or counted twice; who comes back gets its share again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_of_two_coordinators_may_die() {
    const ROUNDS: u64 = 6;
    const JOBS: u64 = 150;
    // What it waits for blocks, which is forbidden here.
    let started = tokio::task::spawn_blocking(Database::start).await;
    let Some(database) = started.expect("does not panic").map(Arc::new) else {
        return;
    };
    let temporary = tempfile::tempdir().expect("a folder");
    let folder = temporary.path();
    let key = folder.join("operator.key");
    let address = database.address();
    let start = |number: u64| Coordinator::begin_on(folder, &address, number).ready();
    let platforms = platforms();

    let mut coordinators = [start(0).await, start(1).await];
    let took = until(&database, halved).await;
    println!("each has its share after {:.1} s", took.as_secs_f64());
    let operators = [
        coordinators[0].operator_with(&key).await,
        coordinators[1].operator_with(&key).await,
    ];
    set_up(&operators, &platforms).await;
    for operator in &operators {
        sees_all(operator, platforms.len()).await;
    }
    no_agent_changes_shards(&operators[1], &platforms).await;
    forged_calls_are_refused(&coordinators[0].address, &operators[1]).await;
    drop(operators);

    let mut agents: Vec<Agent> = (0..platforms.len() as u8).map(Agent::new).collect();
    let mut proposed = 0;
    for round in 1..=ROUNDS {
        let (dies, stays) = match round % 2 {
            0 => (0, 1),
            _ => (1, 0),
        };
        let operator = coordinators[dies].operator_with(&key).await;
        propose(&operator, platforms.len(), proposed..proposed + JOBS).await;
        proposed += JOBS;
        drop(operator);
        let stop = Arc::new(AtomicBool::new(false));
        let addresses = format!("{},{}", coordinators[0].address, coordinators[1].address);
        let at_work: Vec<_> = (0_u8..)
            .zip(agents.drain(..))
            .map(|(number, agent)| {
                tokio::spawn(work(agent, addresses.clone(), number, Arc::clone(&stop)))
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(200 + 37 * round)).await;
        // Every third is paused only, and wakes up when others have its shards.
        let is_paused = round % 3 == 0;
        if is_paused {
            coordinators[dies].signal("STOP").await;
        } else {
            coordinators[dies].process.kill().await.expect("it runs");
        }
        // At once: who is left waits for the shards that it has to take over, not its callers.
        let operator = coordinators[stays].operator_with(&key).await;
        let began = Instant::now();
        sees_all(&operator, platforms.len()).await;
        let answered = began.elapsed();
        let all_is = coordinators[stays].address.clone();
        until(&database, |owners| {
            owners.iter().all(|owner| *owner == all_is)
        })
        .await;
        println!(
            "round {round}: {} taken over after {:.1} s, users answered after {:.1} s",
            if is_paused { "paused," } else { "killed," },
            began.elapsed().as_secs_f64(),
            answered.as_secs_f64(),
        );
        if is_paused {
            coordinators[dies].signal("CONT").await;
        } else {
            coordinators[dies] = start(1 + round).await;
        }
        let took = until(&database, halved).await;
        println!(
            "round {round}: shared again after {:.1} s",
            took.as_secs_f64()
        );
        let returned = coordinators[dies].operator_with(&key).await;
        sees_all(&returned, platforms.len()).await;
        stop.store(true, Ordering::Relaxed);
        for agent in at_work {
            agents.push(agent.await.expect("does not panic"));
        }
    }

    let mut acknowledged = Vec::new();
    for (number, agent) in agents.into_iter().enumerate() {
        // Each by the other than it began with.
        let agent = agent
            .work(coordinators[number % 2].address.clone(), true)
            .await;
        acknowledged.extend(agent.acknowledged);
    }
    let jobs = proposed * platforms.len() as u64;
    let mut told = Vec::new();
    for coordinator in &coordinators {
        let operator = coordinator.operator_with(&key).await;
        check_measurements(&operator, &acknowledged).await;
        check_jobs(&operator, jobs).await;
        let stored = stored(&operator).await;
        let mut followed = followed(&operator, stored.len()).await;
        followed.sort_unstable();
        assert_eq!(followed, stored, "a trainer hears of each once");
        told.push(stored);
    }
    assert_eq!(told[0], told[1]);
    let blocks: std::collections::BTreeSet<u64> = told[0].iter().map(|&one| block(one)).collect();
    assert_eq!(blocks.len(), platforms.len(), "each shard measured");
    println!(
        "{ROUNDS} rounds, {} acknowledged, {jobs} jobs ended",
        acknowledged.len()
    );
    assert!(
        acknowledged.len() as u64 > ROUNDS * 50,
        "too little was done to call it load"
    );
    let operator = coordinators[0].operator_with(&key).await;
    backed_up(&operator, folder, jobs, told[0].len() as u64).await;
    drop(operator);
    for coordinator in coordinators {
        coordinator.end().await;
    }
    let place: Place = address.parse().expect("an address");
    let shards = tokio::task::spawn_blocking(move || place.existing().expect("nobody has it"));
    for shard in shards.await.expect("opens").into_shards() {
        verify(&shard).expect("sound");
    }
    goes_on_elsewhere(&database, folder, told.swap_remove(0), jobs).await;
}

/// All shards move into a folder, as one store, and from there back: numbers that are given from then on are new ones.
async fn goes_on_elsewhere(database: &Arc<Database>, folder: &Path, before: Vec<u64>, jobs: u64) {
    let migrate = |from: &str, to: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wattfarm-coordinator"));
        command.args(["--store", from, "migrate", to]);
        assert!(command.status().expect("starts").success(), "to {to}");
    };
    let (address, key) = (database.address(), folder.join("operator.key"));
    let single = format!("sled:{}", folder.join("single").display());
    migrate(&address, &single);
    let emptied = Arc::clone(database);
    let drop_all = move || {
        let schemas = "wattfarm, wattfarm_1, wattfarm_2, wattfarm_3";
        emptied.run(&format!("DROP SCHEMA {schemas} CASCADE"));
    };
    tokio::task::spawn_blocking(drop_all).await.expect("drops");
    migrate(&single, &address);

    let coordinator = Coordinator::begin_on(folder, &address, 100).ready().await;
    let operator = coordinator.operator_with(&key).await;
    assert_eq!(stored(&operator).await, before);
    // A platform that has no place yet, in a shard that has none.
    let mut all = (1000..).map(platform);
    let new = all.find(|platform| Shard::for_name(&platform.slug()) != Shard::HOME);
    let new = new.expect("some has it");
    let token = operator
        .farm()
        .create_token(unary(v1::CreateTokenRequest::default()))
        .await;
    let request = v1::EnrollRequest {
        token: token.expect("the key").into_inner().token,
        credential: vec![9; 32],
        name: "a new one".to_owned(),
        platform: Some((&new).into()),
    };
    operator
        .agents()
        .enroll(unary(request))
        .await
        .expect("a good token");
    let request = v1::MeasureRequest {
        platform: new.slug(),
        subjects: vec![v1::Subject {
            subject: Some(v1::subject::Subject::Layer((&layer(1)).into())),
        }],
        replicas: 1,
    };
    let ordered = operator
        .models()
        .measure(request)
        .await
        .expect("a good request");
    propose(&operator, 1, 10_000..10_020).await;
    let mut acknowledged = Vec::new();
    for number in [0, 9] {
        let agent = Agent::new(number)
            .work(coordinator.address.clone(), true)
            .await;
        acknowledged.extend(agent.acknowledged);
    }
    drop(ordered);
    check_measurements(&operator, &acknowledged).await;
    check_jobs(&operator, jobs + 21).await;
    let after = stored(&operator).await;
    assert_eq!(after.len(), before.len() + acknowledged.len());
    drop(operator);
    coordinator.end().await;
}

/// Calls are passed on over mutual TLS too, by names that the certificates have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coordinators_call_each_other_over_tls() {
    let started = tokio::task::spawn_blocking(Database::start).await;
    let Some(database) = started.expect("does not panic").map(Arc::new) else {
        return;
    };
    let temporary = tempfile::tempdir().expect("a folder");
    let folder = temporary.path();
    let certs = folder.join("certs");
    let certificates = Certificates::within(&certs);
    let names = ["localhost", "127.0.0.1"].map(str::to_owned);
    certificates.make(&names).expect("makes them");
    let address = database.address();
    let start = |number| {
        let more = [
            OsStr::new("--tls"),
            certs.as_os_str(),
            OsStr::new("--mutual-tls"),
        ];
        Coordinator::begin_on_with(folder, &address, number, &more).ready()
    };
    let coordinators = [start(0).await, start(1).await];
    until(&database, halved).await;
    let key = std::fs::read_to_string(folder.join("operator.key")).expect("made");
    let tls = TlsArgs {
        ca: Some(certificates.authority()),
        cert: Some(certificates.client()),
        key: Some(certificates.client_key()),
    };
    for coordinator in &coordinators {
        let target = tls.target(&coordinator.address).expect("certificates");
        let operator = Connection::open(target, Some(key.trim()))
            .await
            .expect("connects");
        // Of all shards, half of which the other has.
        sees_all(&operator, 0).await;
    }
    for coordinator in coordinators {
        coordinator.end().await;
    }
}

/// The numbers of all measurements, in their order.
async fn stored(operator: &Connection) -> Vec<u64> {
    let request = v1::ExportMeasurementsRequest::default();
    let export = operator.farm().export_measurements(request).await;
    let batches = export.expect("the key").into_inner();
    let batches: Vec<_> = batches
        .map(|batch| batch.expect("no error").measurements)
        .collect()
        .await;
    batches
        .into_iter()
        .flatten()
        .map(|one| one.sequence)
        .collect()
}
