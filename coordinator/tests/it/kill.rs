//! The real process, killed in the middle of its work: what it acknowledged is there afterwards, once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio_stream::StreamExt as _;
use wattfarm_proto::connect::{Connection, unary};
use wattfarm_proto::v1;
use wattfarm_proto::v1::report_results_request::Report;
use wattfarm_proto::v1::report_results_request::report::Outcome;

use crate::world::{layer, platform, reading, uuid};

const KILLS: u64 = 5;
const JOBS: u64 = 2000;

struct Coordinator {
    process: Child,
    address: String,
}

impl Coordinator {
    async fn start(folder: &Path) -> Self {
        let ready = folder.join("ready");
        // A file of the process before would name a port where nobody listens.
        let _ = std::fs::remove_file(&ready);
        let process = Command::new(env!("CARGO_BIN_EXE_wattfarm-coordinator"))
            .args(["--listen", "127.0.0.1:0", "--store"])
            .arg(folder.join("store"))
            .arg("--ready-file")
            .arg(&ready)
            .env("RUST_LOG", "warn")
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .expect("starts");
        for _ in 0..400 {
            if let Ok(address) = std::fs::read_to_string(&ready) {
                return Self { process, address };
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("the coordinator did not start within 10 s");
    }

    async fn operator(&self, folder: &Path) -> Connection {
        let key = std::fs::read_to_string(folder.join("store/operator.key"))
            .expect("made on the first start");
        Connection::open(&self.address, Some(key.trim()))
            .await
            .expect("connects")
    }
}

fn credential(number: u8) -> String {
    format!("{number:02x}").repeat(32)
}

async fn set_up(folder: &Path) {
    let mut coordinator = Coordinator::start(folder).await;
    let operator = coordinator.operator(folder).await;
    for number in 0..2 {
        let request = v1::CreateTokenRequest::default();
        let token = operator
            .farm()
            .create_token(unary(request))
            .await
            .expect("the key")
            .into_inner()
            .token;
        let request = v1::EnrollRequest {
            token,
            credential: vec![number; 32],
            name: format!("agent {number}"),
            platform: Some((&platform(1)).into()),
        };
        operator
            .agents()
            .enroll(unary(request))
            .await
            .expect("a good token");
    }
    let budget = v1::campaign_request::budget::Budget::Jobs(JOBS * 2);
    let campaign = v1::CampaignRequest {
        campaign_id: uuid(1).to_string(),
        platform: platform(1).slug(),
        budget: Some(v1::campaign_request::Budget {
            budget: Some(budget),
        }),
        ..Default::default()
    };
    let request = v1::RequestModelsRequest {
        campaign: Some(campaign),
    };
    operator
        .models()
        .request_models(unary(request))
        .await
        .expect("a good request");
    for first in (0..JOBS).step_by(1000) {
        let layers = (first..first + 1000)
            .map(|number| (&layer(number)).into())
            .collect();
        let request = v1::ProposeLayersRequest {
            campaign_id: uuid(1).to_string(),
            layers,
        };
        operator
            .trainer()
            .propose_layers(unary(request))
            .await
            .expect("room");
    }
    coordinator.process.kill().await.expect("it runs");
}

/// Leases and reports until the coordinator is gone; returns the leases whose readings were acknowledged.
async fn work(address: String, number: u8) -> Vec<u64> {
    let mut acknowledged = Vec::new();
    let Ok(connection) = Connection::open(&address, Some(&credential(number))).await else {
        return acknowledged;
    };
    loop {
        let request = v1::LeaseJobsRequest {
            max_jobs: 4,
            wait_ms: 0,
            held: vec![],
        };
        let Ok(response) = connection.agents().lease_jobs(unary(request)).await else {
            return acknowledged;
        };
        let leases = response.into_inner().leases;
        let report = |lease: &v1::lease_jobs_response::Lease| Report {
            job_id: lease.job_id.clone(),
            lease: lease.lease,
            outcome: Some(Outcome::Reading((&reading(1.0)).into())),
        };
        let request = v1::ReportResultsRequest {
            reports: leases.iter().map(report).collect(),
        };
        let Ok(_) = connection.agents().report_results(unary(request)).await else {
            return acknowledged;
        };
        acknowledged.extend(leases.iter().map(|lease| lease.lease));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_sigkill() {
    let temporary = tempfile::tempdir().expect("a folder");
    let folder: PathBuf = temporary.path().to_owned();
    set_up(&folder).await;
    let mut acknowledged = Vec::new();
    for kill in 0..KILLS {
        let mut coordinator = Coordinator::start(&folder).await;
        let agents = [0, 1].map(|number| tokio::spawn(work(coordinator.address.clone(), number)));
        tokio::time::sleep(Duration::from_millis(150 + 70 * kill)).await;
        coordinator.process.kill().await.expect("it runs");
        for agent in agents {
            acknowledged.extend(agent.await.expect("does not panic"));
        }
    }
    let coordinator = Coordinator::start(&folder).await;
    let operator = coordinator.operator(&folder).await;
    let request = v1::ExportMeasurementsRequest::default();
    let export = operator
        .farm()
        .export_measurements(request)
        .await
        .expect("the key")
        .into_inner();
    let export: Vec<_> = export
        .map(|message| message.expect("is no error").measurements)
        .collect()
        .await;
    let stored: Vec<v1::Measurement> = export.into_iter().flatten().collect();

    let sequences = stored.iter().map(|measurement| measurement.sequence);
    assert!(
        sequences.eq(1..=stored.len() as u64),
        "numbered from 1, each once"
    );
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
    println!(
        "{KILLS} kills, {} acknowledged, {} stored",
        acknowledged.len(),
        stored.len()
    );
    assert!(
        acknowledged.len() > 20,
        "too little was done to call it load"
    );

    // And a polite end: cleanly, in time.
    let mut process = coordinator.process;
    drop(operator);
    let id = process.id().expect("it runs").to_string();
    let killed = Command::new("kill")
        .args(["-TERM", &id])
        .status()
        .await
        .expect("kill runs");
    assert!(killed.success());
    let end = tokio::time::timeout(Duration::from_secs(5), process.wait())
        .await
        .expect("ends in time");
    assert!(end.expect("is ours").success());
}
