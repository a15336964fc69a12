//! `wattfarm agents`: who measures.

use anyhow::Context as _;
use serde::Serialize;
use wattfarm_cost::model::DeviceEffect;
use wattfarm_proto::connect::unary;
use wattfarm_proto::v1;

use crate::args::{AgentsArgs, AgentsCommand};
use crate::output::{Output, Report};
use crate::render::number::{signed_percent, time_or_none};
use crate::render::table::{Column, table};
use crate::session::Session;

#[derive(Serialize)]
struct Agent {
    id: String,
    name: String,
    platform: String,
    platform_hash: String,
    draining: bool,
    revoked: bool,
    implausible: u64,
    quarantined: Option<String>,
    connected: bool,
    enrolled_at_ms: u64,
    seen_at_ms: Option<u64>,
    leases: u32,
    measurements: u64,
    /// How it differs from the mean device of its platform, in runtimes.
    effect: Option<Effect>,
}

#[derive(Serialize)]
struct Effect {
    layers: u64,
    percent: f64,
    percent_error: f64,
}

impl From<DeviceEffect> for Effect {
    fn from(effect: DeviceEffect) -> Self {
        Self {
            layers: effect.layers,
            percent: effect.percent(),
            percent_error: 100.0 * effect.log_error,
        }
    }
}

impl From<v1::Agent> for Agent {
    fn from(agent: v1::Agent) -> Self {
        let effect = agent
            .effect
            .and_then(|effect| DeviceEffect::try_from(effect).ok());
        Self {
            id: agent.agent_id,
            name: agent.name,
            platform: agent.platform_slug,
            platform_hash: agent.platform,
            draining: agent.draining,
            revoked: agent.revoked,
            implausible: agent.implausible,
            quarantined: Some(agent.quarantined).filter(|because| !because.is_empty()),
            connected: agent.connected,
            enrolled_at_ms: agent.enrolled_at_ms,
            seen_at_ms: agent.seen_at_ms,
            leases: agent.leases,
            measurements: agent.measurements,
            effect: effect.map(Effect::from),
        }
    }
}

impl Agent {
    fn state(&self) -> &'static str {
        if self.revoked {
            return "revoked";
        }
        if self.quarantined.is_some() {
            return "quarantined";
        }
        match (self.connected, self.draining) {
            (true, true) => "draining",
            (true, false) => "connected",
            (false, true) => "drained",
            (false, false) => "away",
        }
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct Agents(Vec<Agent>);

impl Report for Agents {
    fn text(&self) -> String {
        let columns = [
            Column::Left("agent"),
            Column::Left("name"),
            Column::Left("platform"),
            Column::Left("state"),
            Column::Right("leases"),
            Column::Right("measurements"),
            Column::Right("to mean %"),
            Column::Left("seen"),
        ];
        let row = |agent: &Agent| {
            [
                agent.id.clone(),
                agent.name.clone(),
                agent.platform.clone(),
                agent.state().to_owned(),
                agent.leases.to_string(),
                agent.measurements.to_string(),
                signed_percent(agent.effect.as_ref().map(|effect| effect.percent)),
                time_or_none(agent.seen_at_ms),
            ]
        };
        let mut text = table(columns, self.0.iter().map(row));
        for agent in &self.0 {
            if let Some(because) = &agent.quarantined {
                text += &format!(
                    "\n{} is quarantined: {because}\n`wattfarm agents drain {} --undo` lets it go on\n",
                    agent.name, agent.id
                );
            }
        }
        text
    }
}

pub(super) async fn run(session: &Session, output: Output, args: AgentsArgs) -> anyhow::Result<()> {
    let mut farm = session.operator().await?.farm();
    let agents = match args.command.unwrap_or(AgentsCommand::List) {
        AgentsCommand::List => {
            let response = farm
                .list_agents(unary(v1::ListAgentsRequest {}))
                .await
                .context("list the agents")?;
            response.into_inner().agents
        }
        AgentsCommand::Drain { id, undo } => {
            let request = v1::DrainAgentRequest {
                agent_id: id.to_string(),
                draining: !undo,
            };
            let response = farm
                .drain_agent(unary(request))
                .await
                .context("drain the agent")?;
            response.into_inner().agent.into_iter().collect()
        }
        AgentsCommand::Revoke { id } => {
            let request = v1::RevokeAgentRequest {
                agent_id: id.to_string(),
            };
            let response = farm.revoke_agent(unary(request)).await;
            let agent = response.context("revoke the agent")?.into_inner().agent;
            agent.into_iter().collect()
        }
    };
    output.show(&Agents(agents.into_iter().map(Agent::from).collect()))
}
