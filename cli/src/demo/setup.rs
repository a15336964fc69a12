//! Starting the demo's farm: a coordinator, an agent that enrols, and a trainer.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use tokio::time::{sleep, timeout};
use wattfarm_proto::connect::{Connection, unary};
use wattfarm_proto::v1;

use super::processes::{Processes, Program};
use crate::session::operator_key;

/// How long the coordinator may take to open its store.
const COORDINATOR_PATIENCE: Duration = Duration::from_secs(60);
/// How long the agent may take to load libtorch, look at its device and enrol.
const AGENT_PATIENCE: Duration = Duration::from_secs(120);
/// How long the agent's token lasts.
const TOKEN_SECONDS: u64 = 600;
/// How often to look.
const LOOK: Duration = Duration::from_millis(100);

/// The running farm.
pub(super) struct Farm {
    /// The operator's connection.
    pub(super) connection: Connection,
    /// Slug of the agent's platform.
    pub(super) platform: String,
}

/// Starts everything in `dir`, or goes on from what is there.
pub(super) async fn start(processes: &mut Processes, dir: &Path) -> anyhow::Result<Farm> {
    let (store, ready) = (dir.join("store"), dir.join("coordinator.ready"));
    if let Err(error) = fs::remove_file(&ready)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("remove {}", ready.display()));
    }
    let arguments = ["--listen", "127.0.0.1:0", "--store"].map(OsString::from);
    let arguments = arguments.into_iter().chain([
        store.clone().into(),
        "--ready-file".into(),
        ready.clone().into(),
    ]);
    processes.start(Program::Coordinator, arguments)?;
    let address = processes.during(address(&ready)).await?;

    let key_file = store.join("operator.key");
    let connection = Connection::open(&address, Some(&operator_key(&key_file)?)).await?;
    processes.during(end_campaigns(&connection)).await?;
    let started_at_ms = Timestamp::now().as_millisecond().unsigned_abs();
    start_agent(processes, &connection, &address, dir).await?;
    let platform = processes
        .during(platform(&connection, started_at_ms))
        .await?;

    let arguments = ["--coordinator", &address, "--operator-key-file"].map(OsString::from);
    processes.start(
        Program::Trainer,
        arguments.into_iter().chain([key_file.into()]),
    )?;
    Ok(Farm {
        connection,
        platform,
    })
}

/// Waits until the coordinator has written where it listens.
async fn address(ready: &Path) -> anyhow::Result<String> {
    let waiting = async {
        loop {
            match fs::read_to_string(ready) {
                Ok(text) if !text.trim().is_empty() => return text.trim().to_owned(),
                // Not there yet, or not written yet.
                Ok(_) | Err(_) => sleep(LOOK).await,
            }
        }
    };
    timeout(COORDINATOR_PATIENCE, waiting)
        .await
        .context("the coordinator is not ready")
}

/// Ends the campaigns of earlier runs that were interrupted: they would share this run's time.
async fn end_campaigns(connection: &Connection) -> anyhow::Result<()> {
    let mut farm = connection.farm();
    let request = unary(v1::ListCampaignsRequest {});
    let campaigns = farm
        .list_campaigns(request)
        .await
        .context("list the campaigns")?
        .into_inner()
        .campaigns;
    let live = campaigns
        .into_iter()
        .filter(|campaign| campaign.ended_at_ms.is_none());
    for request in live.filter_map(|campaign| campaign.request) {
        let request = v1::CancelCampaignRequest {
            campaign_id: request.campaign_id,
        };
        farm.cancel_campaign(unary(request))
            .await
            .context("cancel a campaign")?;
    }
    Ok(())
}

/// Starts the agent. It takes the token on its first run, and on one that finds another platform; else it has its own
/// identity in its folder, and the token expires unused.
async fn start_agent(
    processes: &mut Processes,
    connection: &Connection,
    address: &str,
    dir: &Path,
) -> anyhow::Result<()> {
    let request = v1::CreateTokenRequest {
        note: "demo".to_owned(),
        ttl_seconds: TOKEN_SECONDS,
    };
    let created = connection
        .farm()
        .create_token(unary(request))
        .await
        .context("create a token")?
        .into_inner();
    let arguments = [
        "--coordinator",
        address,
        "--token",
        &created.token,
        "--state",
    ]
    .map(OsString::from);
    processes.start(
        Program::Agent,
        arguments.into_iter().chain([dir.join("agent").into()]),
    )
}

/// Waits until the agent calls; returns the slug of its platform.
async fn platform(connection: &Connection, since_ms: u64) -> anyhow::Result<String> {
    let waiting = async {
        loop {
            let request = unary(v1::ListAgentsRequest {});
            let agents = connection
                .farm()
                .list_agents(request)
                .await
                .context("list the agents")?
                .into_inner()
                .agents;
            // Agents of earlier runs, perhaps of other platforms, are in the store too.
            let found = agents
                .into_iter()
                .find(|agent| agent.seen_at_ms.is_some_and(|seen| seen >= since_ms));
            match found {
                Some(agent) if agent.draining => bail!("the agent {} is draining", agent.agent_id),
                Some(agent) => return Ok(agent.platform_slug),
                None => sleep(LOOK).await,
            }
        }
    };
    timeout(AGENT_PATIENCE, waiting)
        .await
        .context("the agent has not enrolled")?
}
