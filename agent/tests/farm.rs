//! The farm as a user has it: real processes over real sockets, with a real device, killed at bad moments.
//!
//! The coordinator and the trainer are other packages, whose binaries lie beside the agent's after
//! `cargo build --workspace`; `make test` sees to that.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use uuid::Uuid;
use wattfarm_cost::Measurement;
use wattfarm_nvml_sim::{Class, Event, Happening, Script, Simulation};
use wattfarm_proto::connect::{Connection, unary};
use wattfarm_proto::v1;

const PATIENCE: Duration = Duration::from_secs(120);

/// A process that does not outlive its test.
struct Process(Child);

impl Process {
    fn start(binary: &Path, arguments: &[&str], log: &Path) -> Self {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .expect("a log");
        let child = Command::new(binary)
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn();
        let hint = "run `cargo build --workspace` first, or `make test`";
        Self(child.unwrap_or_else(|error| panic!("start {}: {error}; {hint}", binary.display())))
    }

    /// As if the power went: SIGKILL.
    fn kill(mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("ended");
    }

    /// As an operator would: SIGTERM, within 10 s.
    fn terminate(mut self) -> ExitStatus {
        let pid = self.0.id().to_string();
        assert!(
            Command::new("kill")
                .arg(pid)
                .status()
                .expect("kill runs")
                .success()
        );
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.0.try_wait().expect("waits") {
                Some(status) => return status,
                None if Instant::now() > deadline => panic!("still running 10 s after SIGTERM"),
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already ended in most tests.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A farm's folder and how to start its parts.
struct Farm {
    folder: TempDir,
    address: String,
}

impl Farm {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn spawn(&self, name: &str, arguments: &[&str]) -> Process {
        let agent = Path::new(env!("CARGO_BIN_EXE_wattfarm-agent"));
        Process::start(
            &agent.with_file_name(name),
            arguments,
            &self.path(&format!("{name}.log")),
        )
    }

    /// The first time on a port that is free, later on the same.
    async fn coordinator(&mut self) -> Process {
        let _ = std::fs::remove_file(self.path("ready"));
        let (store, ready) = (self.text("store"), self.text("ready"));
        let listen = self.address.clone();
        let process = self.spawn(
            "wattfarm-coordinator",
            &[
                "--listen",
                &listen,
                "--store",
                &store,
                "--ready-file",
                &ready,
            ],
        );
        self.address = wait_for("the coordinator", async || {
            std::fs::read_to_string(&ready).ok()
        })
        .await;
        self.address.truncate(self.address.trim_end().len());
        process
    }

    fn agent(&self, token: Option<&str>) -> Process {
        self.agent_with(token, &[])
    }

    fn agent_with(&self, token: Option<&str>, options: &[&str]) -> Process {
        let state = self.text("agent");
        let mut arguments = vec!["--coordinator", &self.address, "--state", &state];
        arguments.extend(token.iter().flat_map(|token| ["--token", token]));
        arguments.extend(options);
        self.spawn("wattfarm-agent", &arguments)
    }

    fn trainer(&self) -> Process {
        let key = self.text("store/operator.key");
        self.spawn(
            "wattfarm-trainer",
            &["--coordinator", &self.address, "--operator-key-file", &key],
        )
    }

    fn connection(&self) -> Connection {
        let key = std::fs::read_to_string(self.path("store/operator.key"))
            .expect("the coordinator wrote it");
        Connection::lazy(&self.address, Some(key.trim())).expect("an address")
    }

    async fn token(&self) -> String {
        let request = v1::CreateTokenRequest::default();
        self.connection()
            .farm()
            .create_token(unary(request))
            .await
            .expect("a token")
            .into_inner()
            .token
    }

    /// Every measurement in the books; `None` while the coordinator is away.
    async fn books(&self) -> Option<Vec<Measurement>> {
        let request = v1::ExportMeasurementsRequest::default();
        let mut stream = self
            .connection()
            .farm()
            .export_measurements(request)
            .await
            .ok()?
            .into_inner();
        let mut books = Vec::new();
        while let Some(message) = stream.message().await.ok()? {
            let measurements = message.measurements.into_iter().map(Measurement::try_from);
            books.extend(
                measurements
                    .collect::<Result<Vec<_>, _>>()
                    .expect("our own messages"),
            );
        }
        Some(books)
    }

    /// The platform's slug, once the agent has enrolled.
    async fn platform(&self) -> String {
        wait_for("the platform", async || {
            let request = v1::ListPlatformsRequest::default();
            let mut models = self.connection().models();
            let listed = models.list_platforms(unary(request)).await.ok()?;
            let platforms = listed.into_inner().platforms;
            platforms.into_iter().next().map(|platform| platform.slug)
        })
        .await
    }

    /// Asks for models of these kinds; returns the campaign's id.
    async fn request(&self, kinds: &[&str], jobs: u64) -> String {
        let id = Uuid::now_v7().to_string();
        let campaign = v1::CampaignRequest {
            campaign_id: id.clone(),
            platform: self.platform().await,
            kinds: kinds.iter().map(|&kind| kind.to_owned()).collect(),
            budget: Some(v1::campaign_request::Budget {
                budget: Some(v1::campaign_request::budget::Budget::Jobs(jobs)),
            }),
            ..v1::CampaignRequest::default()
        };
        let request = v1::RequestModelsRequest {
            campaign: Some(campaign),
        };
        let mut models = self.connection().models();
        let requested = models.request_models(unary(request)).await;
        requested.expect("requested");
        id
    }

    async fn campaign(&self, id: &str) -> Option<v1::Campaign> {
        let request = v1::ListCampaignsRequest::default();
        let listed = self
            .connection()
            .farm()
            .list_campaigns(unary(request))
            .await
            .ok()?
            .into_inner()
            .campaigns;
        listed.into_iter().find(|campaign| {
            campaign
                .request
                .as_ref()
                .is_some_and(|request| request.campaign_id == id)
        })
    }
}

async fn wait_for<T>(what: &str, mut ready: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ready().await {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "waited {PATIENCE:?} in vain for {what}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What must hold of the books at every moment.
fn check_books(books: &[Measurement]) {
    assert!(
        books
            .iter()
            .zip(1..)
            .all(|(measurement, sequence)| measurement.sequence == sequence),
        "a gap"
    );
    let reports: BTreeSet<_> = books
        .iter()
        .map(|measurement| (measurement.job, measurement.lease))
        .collect();
    assert_eq!(reports.len(), books.len(), "a report was counted twice");
}

/// A campaign of cheap layers, with the coordinator and the agent killed in the middle of it, twice each: what was in the
/// books before a kill is there after it, unchanged and once, and the campaign ends as if nothing had happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_campaign_survives_kills() {
    const JOBS: u64 = 90;
    let folder = tempfile::tempdir().expect("a folder");
    let mut farm = Farm {
        folder,
        address: "127.0.0.1:0".to_owned(),
    };
    let mut coordinator = farm.coordinator().await;
    let trainer = farm.trainer();
    let mut agent = farm.agent(Some(&farm.token().await));
    let id = farm.request(&["relu", "softmax", "permute"], JOBS).await;
    let platform = farm.platform().await;

    for kill in 1..=2 {
        let before = wait_for("measurements", async || {
            farm.books().await.filter(|books| books.len() >= kill * 20)
        });
        let before = before.await;
        check_books(&before);
        coordinator.kill();
        coordinator = farm.coordinator().await;
        let after = wait_for("the books", async || farm.books().await).await;
        check_books(&after);
        assert_eq!(
            before[..],
            after[..before.len()],
            "what was acknowledged is there, unchanged"
        );
        agent.kill();
        agent = farm.agent(None);
    }

    let ended = wait_for("the campaign to end", async || {
        farm.campaign(&id)
            .await
            .filter(|campaign| campaign.ended_at_ms.is_some())
    });
    let ended = ended.await;
    assert_eq!(ended.state(), v1::CampaignState::Exhausted);
    assert_eq!(
        ended.jobs_done + ended.jobs_infeasible + ended.jobs_parked,
        JOBS
    );
    let books = wait_for("the books", async || farm.books().await).await;
    check_books(&books);
    let measured: BTreeSet<_> = books.iter().map(|measurement| measurement.job).collect();
    assert!(
        measured.len() as u64 >= ended.jobs_done,
        "every job that is done has its measurement"
    );

    let fitted = wait_for("models of all three kinds", async || {
        let request = v1::GetModelsRequest {
            platform: platform.clone(),
            kinds: vec![],
        };
        let mut stream = farm
            .connection()
            .models()
            .get_models(request)
            .await
            .ok()?
            .into_inner();
        let mut kinds = BTreeSet::new();
        while let Some(message) = stream.message().await.ok()? {
            if let Some(v1::get_models_response::Part::Model(model)) = message.part {
                kinds.insert(model.kind);
            }
        }
        (kinds.len() == 3).then_some(kinds)
    });
    fitted.await;

    assert!(agent.terminate().success(), "the agent ends cleanly");
    assert!(trainer.terminate().success(), "the trainer ends cleanly");
    assert!(
        coordinator.terminate().success(),
        "the coordinator ends cleanly"
    );
}

/// The measuring process of an agent: the only child that it has.
fn measuring_process(agent: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{agent}/task/{agent}/children"));
    let mut all = children.ok()?;
    // The thread that started it may be another one.
    for task in std::fs::read_dir(format!("/proc/{agent}/task")).ok()? {
        let path = task.ok()?.path().join("children");
        all += &std::fs::read_to_string(path).unwrap_or_default();
    }
    all.split_whitespace().next()?.parse().ok()
}

/// Sends a signal that a test cannot send itself.
fn signal(name: &str, process: u32) {
    let sent = Command::new("kill")
        .args([name, &process.to_string()])
        .status();
    assert!(sent.expect("kill runs").success());
}

/// A call that never ends is ended, with the process that is in it, and one that takes its process along is survived: the
/// agent lives on, and so do the jobs behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_agent_outlives_what_hangs_and_what_crashes() {
    const JOBS: u64 = 60;
    let folder = tempfile::tempdir().expect("a folder");
    let mut farm = Farm {
        folder,
        address: "127.0.0.1:0".to_owned(),
    };
    let coordinator = farm.coordinator().await;
    let trainer = farm.trainer();
    let agent = farm.agent_with(Some(&farm.token().await), &["--call-limit", "2"]);
    let id = farm.request(&["relu", "softmax"], JOBS).await;
    for (kill, signal_name) in [(1, "-STOP"), (2, "-ABRT")] {
        wait_for("measurements", async || {
            farm.books().await.filter(|books| books.len() >= kill * 10)
        })
        .await;
        let process = measuring_process(agent.0.id()).expect("it measures");
        signal(signal_name, process);
        let another = async || measuring_process(agent.0.id()).filter(|now| *now != process);
        wait_for("another measuring process", another).await;
    }
    let ended = wait_for("the campaign to end", async || {
        farm.campaign(&id)
            .await
            .filter(|campaign| campaign.ended_at_ms.is_some())
    });
    assert_eq!(ended.await.state(), v1::CampaignState::Exhausted);
    let books = wait_for("the books", async || farm.books().await).await;
    check_books(&books);
    let log = std::fs::read_to_string(farm.path("wattfarm-agent.log")).expect("a log");
    for reason in ["nothing moved on for 2 s", "its process died: signal: 6"] {
        assert!(log.contains(reason), "`{reason}` is not in {log}");
    }
    assert!(agent.terminate().success(), "the agent ends cleanly");
    assert!(trainer.terminate().success(), "the trainer ends cleanly");
    assert!(coordinator.terminate().success());
}

/// Somebody else computes on the board from the fifth second of its driver on: nothing is measured while they do, and the
/// agent goes on when they have gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_device_is_left_to_whoever_else_wants_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut script = Script::of_class(Class::Hopper);
    script.boards[0].events.push(Event {
        from_s: 5.0,
        to_s: Some(20.0),
        what: Happening::ComputeProcess(4711),
    });
    let library = Simulation::place(folder.path(), &script).expect("the simulated driver");
    let library = library.display().to_string();
    let mut farm = Farm {
        folder,
        address: "127.0.0.1:0".to_owned(),
    };
    let _coordinator = farm.coordinator().await;
    let _trainer = farm.trainer();
    let options = [
        "--device",
        "cpu",
        "--nvml-library",
        &library,
        "--power",
        "off",
    ];
    let agent = farm.agent_with(Some(&farm.token().await), &options);
    farm.request(&["relu", "softmax"], 100_000).await;
    let log = farm.path("wattfarm-agent.log");
    let noticed = async || {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        log.contains("somebody else").then_some(())
    };
    wait_for("the stranger to be noticed", noticed).await;
    // What was measured before they came is still on its way.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let count = async || farm.books().await.map(|books| books.len());
    let before = wait_for("the books", count).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(
        wait_for("the books", count).await,
        before,
        "nothing is measured"
    );
    let goes_on = async || count().await.filter(|count| *count > before);
    wait_for("the agent to go on", goes_on).await;
    assert!(agent.terminate().success(), "the agent ends cleanly");
}

/// An agent of a farm that has forgotten it: an error, while the measuring thread waits for jobs.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_agent_that_nobody_knows_ends_with_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut farm = Farm {
        folder,
        address: "127.0.0.1:0".to_owned(),
    };
    let coordinator = farm.coordinator().await;
    let agent = farm.agent(Some(&farm.token().await));
    let log = farm.path("wattfarm-agent.log");
    let read = || std::fs::read_to_string(&log).unwrap_or_default();
    let ready = async || read().contains("ready").then_some(());
    wait_for("the agent to be ready", ready).await;
    assert!(agent.terminate().success(), "{}", read());
    coordinator.kill();
    std::fs::remove_dir_all(farm.path("store")).expect("forgotten");
    let coordinator = farm.coordinator().await;
    let mut agent = farm.agent(None);
    let ended = async || agent.0.try_wait().expect("waits");
    let status = wait_for("the agent to end", ended).await;
    assert_eq!(status.code(), Some(1), "{status}: {}", read());
    assert!(read().contains("does not know this agent"), "{}", read());
    assert!(coordinator.terminate().success());
}
