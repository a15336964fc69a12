//! The real coordinator as a child process, and what tests of it have in common.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use wattfarm_proto::connect::{Connection, unary};
use wattfarm_proto::v1;

use crate::world::{layer, platform, uuid};

/// A coordinator's process.
pub(crate) struct Coordinator {
    pub(crate) process: Child,
    pub(crate) address: String,
}

impl Coordinator {
    pub(crate) async fn start(folder: &Path) -> Self {
        Self::start_under(&[], folder).await
    }

    /// Starts it with everything that it has to say going into a file.
    pub(crate) async fn start_logged(folder: &Path, log: &Path) -> Self {
        let log = std::fs::File::create(log).expect("a file");
        Self::spawn(&[], folder, "trace", log.into()).await
    }

    /// Starts it under another program, such as a tracer: `wrapper` is that with its arguments.
    pub(crate) async fn start_under(wrapper: &[&str], folder: &Path) -> Self {
        Self::spawn(wrapper, folder, "warn", Stdio::inherit()).await
    }

    async fn spawn(wrapper: &[&str], folder: &Path, level: &str, log: Stdio) -> Self {
        let store = folder.join("store");
        let arguments = ["--store".as_ref(), store.as_os_str()];
        Self::begin(wrapper, &arguments, folder.join("ready"), level, log)
            .ready()
            .await
    }

    /// Starts one over a database, with a key in `folder`.
    pub(crate) fn begin_on(folder: &Path, database: &str, number: u64) -> Starting {
        Self::begin_on_with(folder, database, number, &[])
    }

    /// The same, with more arguments.
    pub(crate) fn begin_on_with(
        folder: &Path,
        database: &str,
        number: u64,
        more: &[&OsStr],
    ) -> Starting {
        let key = folder.join("operator.key");
        let arguments = ["--store", database, "--operator-key"].map(OsStr::new);
        let arguments = [&arguments[..], &[key.as_os_str()], more].concat();
        let ready = folder.join(format!("ready-{number}"));
        Self::begin(&[], &arguments, ready, "warn", Stdio::inherit())
    }

    fn begin(
        wrapper: &[&str],
        arguments: &[&OsStr],
        ready: PathBuf,
        level: &str,
        log: Stdio,
    ) -> Starting {
        // A file of the process before would name a port where nobody listens.
        let _ = std::fs::remove_file(&ready);
        let words = wrapper.iter().copied();
        let mut words = words.chain([env!("CARGO_BIN_EXE_wattfarm-coordinator")]);
        let process = Command::new(words.next().expect("there is one"))
            .args(words)
            .args(["--listen", "127.0.0.1:0"])
            .args(arguments)
            .arg("--ready-file")
            .arg(&ready)
            .env("RUST_LOG", level)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("starts");
        Starting { process, ready }
    }

    pub(crate) async fn operator(&self, folder: &Path) -> Connection {
        self.operator_with(&folder.join("store/operator.key")).await
    }

    pub(crate) async fn operator_with(&self, key: &Path) -> Connection {
        let key = std::fs::read_to_string(key).expect("made on the first start");
        Connection::open(&self.address, Some(key.trim()))
            .await
            .expect("connects")
    }

    pub(crate) async fn signal(&self, name: &str) {
        let id = self.process.id().expect("it runs").to_string();
        let signal = format!("-{name}");
        let killed = Command::new("kill").args([&signal, &id]).status().await;
        assert!(killed.expect("kill runs").success());
    }

    /// Asks it to end, and waits until it has.
    pub(crate) async fn end(mut self) {
        self.signal("TERM").await;
        let end = tokio::time::timeout(Duration::from_secs(10), self.process.wait());
        let end = end.await.expect("ends in time");
        assert!(end.expect("is ours").success());
    }
}

/// A coordinator that takes no calls yet.
pub(crate) struct Starting {
    process: Child,
    ready: PathBuf,
}

impl Starting {
    pub(crate) async fn ready(self) -> Coordinator {
        let Self { process, ready } = self;
        for _ in 0..2400 {
            if let Ok(address) = std::fs::read_to_string(&ready) {
                return Coordinator { process, address };
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("the coordinator did not start within a minute");
    }
}

/// The credential of an agent of [`set_up`].
pub(crate) fn credential(number: u8) -> String {
    format!("{number:02x}").repeat(32)
}

/// Enrols so many agents of `platform(1)` and asks for a campaign without end.
pub(crate) async fn set_up(operator: &Connection, agents: u8) {
    for number in 0..agents {
        let request = v1::CreateTokenRequest::default();
        let token = operator.farm().create_token(unary(request)).await;
        let request = v1::EnrollRequest {
            token: token.expect("the key").into_inner().token,
            credential: vec![number; 32],
            name: format!("agent {number}"),
            platform: Some((&platform(1)).into()),
        };
        let enrolled = operator.agents().enroll(unary(request)).await;
        enrolled.expect("a good token");
    }
    let budget = v1::campaign_request::budget::Budget::Jobs(u64::from(u32::MAX));
    let budget = v1::campaign_request::Budget {
        budget: Some(budget),
    };
    let campaign = v1::CampaignRequest {
        campaign_id: uuid(1).to_string(),
        platform: platform(1).slug(),
        budget: Some(budget),
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
}

/// Proposes layers of these numbers for the campaign of [`set_up`].
pub(crate) async fn propose(operator: &Connection, layers: std::ops::Range<u64>) {
    for first in layers.clone().step_by(1000) {
        let some = first..layers.end.min(first + 1000);
        let request = v1::ProposeLayersRequest {
            campaign_id: uuid(1).to_string(),
            layers: some.map(|number| (&layer(number)).into()).collect(),
        };
        let proposed = operator.trainer().propose_layers(unary(request)).await;
        proposed.expect("room");
    }
}
