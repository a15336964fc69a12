//! Agents: how they enrol, how they are recognised, how they are drained.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use wattfarm_cost::id::AgentId;
use wattfarm_cost::model::DeviceEffect;
use wattfarm_cost::{Hash, Platform};

use super::{Change, Event, Farm, Odd, Refusal, SecretHash, Timestamp};

/// An agent counts as connected for this long after it called: a little over the longest wait for a job.
const CONNECTED: Duration = Duration::from_secs(30);

/// An agent whose readings were implausible this often, and one in a hundred of all, is quarantined.
pub const IMPLAUSIBLE_MAX: u64 = 3;
const IMPLAUSIBLE_PART: u64 = 100;

/// A right to enrol one agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// What the operator noted.
    pub note: String,
    /// When it ends.
    pub expires_at: Timestamp,
    /// The credential that enrolled with it.
    pub used_by: Option<SecretHash>,
}

/// One device of the farm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// Host and device, for people.
    pub name: String,
    /// What it is recognised by.
    pub credential: SecretHash,
    /// What it is going to be recognised by: until it is used for the first time, either will do, since the agent may not
    /// have heard that it was taken.
    #[serde(default)]
    pub next_credential: Option<SecretHash>,
    /// Whether an operator took its rights.
    #[serde(default)]
    pub revoked: bool,
    /// The platform it measures for.
    pub platform: Hash,
    /// Readings of its that physics forbids.
    #[serde(default)]
    pub implausible: u64,
    /// The farm's last measurement when its canary was well, or when it enrolled: nothing vouches for what it measured after
    /// that.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub good_through: u64,
    /// What became of it when its runtimes were far from its peers', if they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub odd: Option<Odd>,
    /// Why it gets no jobs and what it reports is not believed, if that is so. Because physics forbids it, or it is far from
    /// its peers: until an operator says otherwise. Because its canary says that its device is not itself: until its canary
    /// is well, or an operator says so.
    #[serde(default)]
    pub quarantined: Option<String>,
    /// Whether it gets no more jobs.
    pub draining: bool,
    /// When it enrolled first.
    pub enrolled_at: Timestamp,
    /// When it last called. On disk only as new as the record's last change: it wouldn't be worth a write of its own.
    pub seen_at: Option<Timestamp>,
    /// Measurements taken from it.
    pub measurements: u64,
    /// What a job took it lately, on the mean, in ms; 0 before the first.
    pub job_ms_mean: u64,
}

impl Agent {
    /// What it may be recognised by.
    pub fn credentials(&self) -> impl Iterator<Item = SecretHash> {
        [Some(self.credential), self.next_credential]
            .into_iter()
            .flatten()
    }

    /// Whether others than itself say that its readings are no good: physics again and again, or its peers.
    pub(super) fn is_refuted(&self) -> bool {
        let reported = self.measurements.saturating_add(self.implausible);
        let by_physics = self.implausible >= IMPLAUSIBLE_MAX
            && self.implausible.saturating_mul(IMPLAUSIBLE_PART) >= reported;
        by_physics || self.odd == Some(Odd::Quarantined)
    }

    /// Whether it called lately.
    pub fn is_connected(&self, now: Timestamp) -> bool {
        self.seen_at
            .is_some_and(|seen_at| now.since(seen_at) <= CONNECTED)
    }

    /// Counts a measurement. The mean follows the last eight or so.
    pub(super) fn count(&mut self, job_ms: u64) {
        self.measurements += 1;
        self.job_ms_mean = if self.job_ms_mean == 0 {
            job_ms
        } else {
            self.job_ms_mean.saturating_mul(7).saturating_add(job_ms) / 8
        };
    }
}

/// An agent as its operator sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentStatus {
    /// The agent.
    pub agent: Agent,
    /// Its platform's name among people.
    pub slug: String,
    /// Whether it called lately.
    pub connected: bool,
    /// Leases that it holds.
    pub leases: u32,
    /// How its device differs from others of its platform, by the newest models of runtimes.
    pub effect: Option<DeviceEffect>,
}

/// Makes a token known.
#[derive(Debug)]
pub struct CreateToken {
    /// The token's hash.
    pub token: SecretHash,
    /// A note for people.
    pub note: String,
    /// How long it may be used.
    pub ttl: Duration,
}

impl Event for CreateToken {
    type Reply = Timestamp;

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Timestamp {
        let token = Token {
            note: self.note,
            expires_at: now.plus(self.ttl),
            used_by: None,
        };
        let expires_at = token.expires_at;
        farm.put_token(self.token, token);
        expires_at
    }
}

/// Uses a token for a credential, which may use it again.
#[derive(Debug)]
pub struct UseToken {
    /// The token's hash.
    pub token: SecretHash,
    /// The agent's own credential.
    pub credential: SecretHash,
}

impl Event for UseToken {
    type Reply = Result<(), Refusal>;

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply {
        farm.use_token(self.token, self.credential, now)
    }
}

/// Trades a token for an identity.
#[derive(Debug)]
pub struct Enroll {
    /// The token's hash; `None` if it was used elsewhere, by [`UseToken`].
    pub token: Option<SecretHash>,
    /// The agent's own credential.
    pub credential: SecretHash,
    /// Its name for people.
    pub name: String,
    /// What it measures.
    pub platform: Platform,
    /// The id that it gets, unless it has one.
    pub fresh_id: AgentId,
}

/// An agent's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// The agent.
    pub agent: AgentId,
    /// Its platform.
    pub platform: Hash,
    /// Its platform's name among people.
    pub slug: String,
}

impl Event for Enroll {
    type Reply = Result<Enrolled, Refusal>;

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply {
        let owner = farm.credentials.get(&self.credential);
        if let Some(revoked) = owner.filter(|id| farm.agents[id].revoked) {
            return Err(Refusal::AgentRevoked(*revoked));
        }
        if let Some(token) = self.token {
            farm.use_token(token, self.credential, now)?;
        }
        let platform = farm.learn_platform(self.platform);
        let id = farm
            .credentials
            .get(&self.credential)
            .copied()
            .unwrap_or(self.fresh_id);
        let agent = match farm.agents.get(&id).cloned() {
            // The device may have changed since, by a new driver say: from here on it measures for what it is now.
            Some(agent) => Agent {
                name: self.name,
                // Among others it is judged anew.
                odd: agent.odd.filter(|_| agent.platform == platform),
                quarantined: (agent.quarantined.clone())
                    .filter(|_| agent.platform == platform || agent.odd.is_none()),
                platform,
                seen_at: Some(now),
                ..agent
            },
            None => Agent {
                id,
                name: self.name,
                credential: self.credential,
                next_credential: None,
                revoked: false,
                platform,
                implausible: 0,
                odd: None,
                good_through: farm.sequence,
                quarantined: None,
                draining: false,
                enrolled_at: now,
                seen_at: Some(now),
                measurements: 0,
                job_ms_mean: 0,
            },
        };
        if farm
            .agents
            .get(&id)
            .is_some_and(|before| before.platform != platform)
        {
            farm.take_back_leases(now, id, &[]);
        }
        farm.put_agent(agent);
        Ok(Enrolled {
            agent: id,
            platform,
            slug: farm.slug(&platform),
        })
    }
}

/// Tells an agent to take no more jobs, or to go on; the latter also ends its quarantine.
#[derive(Debug)]
pub struct DrainAgent {
    /// The agent.
    pub agent: AgentId,
    /// Whether it drains.
    pub draining: bool,
}

impl Event for DrainAgent {
    type Reply = Result<AgentStatus, Refusal>;

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply {
        let agent = farm
            .agents
            .get(&self.agent)
            .ok_or(Refusal::AgentUnknown(self.agent))?;
        let released = !self.draining && agent.quarantined.is_some();
        if agent.draining != self.draining || released {
            let mut agent = agent.clone();
            agent.draining = self.draining;
            if released {
                (agent.quarantined, agent.implausible) = (None, 0);
                agent.odd = agent.odd.map(|_| Odd::Accepted);
            }
            farm.put_agent(agent);
        }
        Ok(farm.agent_status(&farm.agents[&self.agent], now))
    }
}

/// Takes an agent's rights: its credential opens nothing any more, and its jobs go back to the queue.
#[derive(Debug)]
pub struct RevokeAgent(pub AgentId);

impl Event for RevokeAgent {
    type Reply = Result<AgentStatus, Refusal>;

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply {
        let agent = farm
            .agents
            .get(&self.0)
            .ok_or(Refusal::AgentUnknown(self.0))?;
        if !agent.revoked {
            let revoked = Agent {
                revoked: true,
                ..agent.clone()
            };
            farm.take_back_leases(now, self.0, &[]);
            farm.put_agent(revoked);
        }
        Ok(farm.agent_status(&farm.agents[&self.0], now))
    }
}

/// Gives an agent another credential, of its own drawing.
#[derive(Debug)]
pub struct RotateCredential {
    /// The one that it has.
    pub credential: SecretHash,
    /// The one that it wants.
    pub next: SecretHash,
}

impl Event for RotateCredential {
    type Reply = Result<(), Refusal>;

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply {
        let id = farm.authenticate(&self.credential, now)?;
        match farm.credentials.get(&self.next) {
            // The same call again, or one that comes with the new credential already.
            Some(&owner) if owner == id => return Ok(()),
            Some(_) => return Err(Refusal::CredentialTaken),
            None => (),
        }
        let agent = farm.agents[&id].clone();
        if let Some(unused) = agent.next_credential {
            farm.credentials.remove(&unused);
        }
        farm.put_agent(Agent {
            next_credential: Some(self.next),
            ..agent
        });
        Ok(())
    }
}

/// Asks for every agent.
#[derive(Debug)]
pub struct ListAgents;

impl Event for ListAgents {
    type Reply = Vec<AgentStatus>;

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply {
        farm.agents
            .values()
            .map(|agent| farm.agent_status(agent, now))
            .collect()
    }
}

impl Farm {
    /// The agent of a credential, which is noted as seen. The lookup's time tells something of the stored hashes, which
    /// helps nobody to find a credential; the comparison that decides tells nothing.
    pub(super) fn authenticate(
        &mut self,
        credential: &SecretHash,
        now: Timestamp,
    ) -> Result<AgentId, Refusal> {
        let id = self
            .credentials
            .get(credential)
            .copied()
            .ok_or(Refusal::CredentialUnknown)?;
        let agent = self
            .agents
            .get_mut(&id)
            .expect("every credential belongs to an agent");
        if !agent.credentials().any(|own| own.matches(credential)) {
            return Err(Refusal::CredentialUnknown);
        }
        if agent.revoked {
            return Err(Refusal::AgentRevoked(id));
        }
        agent.seen_at = Some(now);
        if agent
            .next_credential
            .is_some_and(|next| next.matches(credential))
        {
            // The agent has the new one: the old one is worth nothing from here on.
            let old = std::mem::replace(&mut agent.credential, *credential);
            agent.next_credential = None;
            let agent = agent.clone();
            self.credentials.remove(&old);
            self.put_agent(agent);
        }
        Ok(id)
    }

    pub(super) fn put_agent(&mut self, agent: Agent) {
        self.changes.push(Change::Agent(agent.clone()));
        let credentials = agent.credentials().map(|credential| (credential, agent.id));
        self.credentials.extend(credentials);
        self.agents.insert(agent.id, agent);
    }

    fn use_token(
        &mut self,
        hash: SecretHash,
        credential: SecretHash,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let token = self.tokens.get(&hash).ok_or(Refusal::TokenUnknown)?;
        match token.used_by {
            Some(used_by) if used_by.matches(&credential) => (),
            Some(_) => return Err(Refusal::TokenUsed),
            None if token.expires_at <= now => return Err(Refusal::TokenExpired),
            None => {
                let used = Token {
                    used_by: Some(credential),
                    ..token.clone()
                };
                self.put_token(hash, used);
            }
        }
        Ok(())
    }

    fn put_token(&mut self, hash: SecretHash, token: Token) {
        self.changes.push(Change::Token(hash, token.clone()));
        self.tokens.insert(hash, token);
    }

    fn agent_status(&self, agent: &Agent, now: Timestamp) -> AgentStatus {
        AgentStatus {
            agent: agent.clone(),
            slug: self.slug(&agent.platform),
            connected: agent.is_connected(now),
            leases: self.jobs.leases_of(agent.id).count() as u32,
            effect: self.effects.of(agent).copied(),
        }
    }
}

/// A count that isn't written: stores of before it stay what they were.
fn is_zero(count: &u64) -> bool {
    *count == 0
}
