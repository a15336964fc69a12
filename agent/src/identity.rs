//! Who this agent is: its credential, kept on disk, and how it comes by it.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use wattfarm_cost::Platform;
use wattfarm_cost::hash::Hash;
use wattfarm_cost::id::AgentId;
use wattfarm_proto::connect::{Connection, Target, unary};
use wattfarm_proto::v1;

/// The state folder of one agent, locked against a second.
pub struct StateFolder {
    path: PathBuf,
    _lock: File,
}

/// What the file `identity.json` holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    /// 32 random bytes, made before the first call, so that an enrolment whose answer was lost can be repeated.
    credential: String,
    /// The platform that the agent was enrolled as.
    platform: Hash,
    /// Set once the coordinator has answered.
    agent: Option<AgentId>,
}

/// An enrolled agent.
#[derive(Clone)]
pub struct Identity {
    /// Its id.
    pub agent: AgentId,
    /// Its credential, in hexadecimal.
    pub credential: String,
}

impl StateFolder {
    /// Makes the folder where it is missing, and locks it.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(path)
            .with_context(|| format!("make the state folder {}", path.display()))?;
        let lock_path = path.join("lock");
        let lock =
            File::create(&lock_path).with_context(|| format!("open {}", lock_path.display()))?;
        if lock.try_lock().is_err() {
            bail!("another agent uses the state folder {}", path.display());
        }
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    fn identity_path(&self) -> PathBuf {
        self.path.join("identity.json")
    }

    fn load(&self) -> anyhow::Result<Option<Stored>> {
        let path = self.identity_path();
        match fs::read_to_string(&path) {
            Ok(text) => {
                let what = || format!("read {} (delete it to enrol anew)", path.display());
                serde_json::from_str(&text).with_context(what).map(Some)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Written beside, synced and renamed, so that a crash leaves the old file or the new one. For the owner's eyes.
    fn save(&self, stored: &Stored) -> anyhow::Result<()> {
        let path = self.identity_path();
        let beside = path.with_extension("json.new");
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&beside)?;
            file.write_all(&serde_json::to_vec_pretty(stored)?)?;
            file.sync_all()?;
            fs::rename(&beside, &path)
        };
        write().with_context(|| format!("write {}", path.display()))
    }

    /// The identity on disk, or a new one for `token`.
    pub async fn identify(
        &self,
        coordinator: impl Into<Target>,
        token: Option<&str>,
        name: &str,
        platform: &Platform,
    ) -> anyhow::Result<Identity> {
        let platform_hash = platform.hash();
        let stored = match self.load()? {
            Some(stored) if stored.platform == platform_hash => stored,
            Some(_) if token.is_none() => {
                bail!(
                    "this device is no longer the platform that it was enrolled as (now `{}`): enrol it anew with \
                     --token",
                    platform.slug()
                )
            }
            Some(_) | None => {
                let mut credential = [0u8; 32];
                rand::rng().fill(&mut credential);
                let credential = credential
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                Stored {
                    credential,
                    platform: platform_hash,
                    agent: None,
                }
            }
        };
        if let Some(agent) = stored.agent {
            return Ok(Identity {
                agent,
                credential: stored.credential,
            });
        }
        let token = token.context(
            "this agent is not enrolled: give it a token with --token (`wattfarm token create`)",
        )?;
        self.save(&stored)?;
        let request = v1::EnrollRequest {
            token: token.to_owned(),
            credential: bytes(&stored.credential)?,
            name: name.to_owned(),
            platform: Some(platform.into()),
        };
        let connection = Connection::open(coordinator, None).await?;
        let response = connection
            .agents()
            .enroll(unary(request))
            .await
            .context("enrol")?
            .into_inner();
        let agent: AgentId = response
            .agent_id
            .parse()
            .context("read the agent id that the coordinator gave")?;
        ensure!(
            response.platform == platform_hash.to_string(),
            "the coordinator took this device for another platform"
        );
        tracing::info!(agent.id = %agent, platform.slug = response.platform_slug, "enrolled");
        self.save(&Stored {
            agent: Some(agent),
            ..stored
        })?;
        let Some(Stored { credential, .. }) = self.load()? else {
            bail!("the identity vanished while it was saved")
        };
        Ok(Identity { agent, credential })
    }
}

fn bytes(hexadecimal: &str) -> anyhow::Result<Vec<u8>> {
    let hash: Hash = hexadecimal
        .parse()
        .context("read the credential in identity.json")?;
    Ok(hash.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_serves_one_agent() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = StateFolder::open(folder.path()).expect("the first");
        assert!(StateFolder::open(folder.path()).is_err());
        drop(first);
        assert!(StateFolder::open(folder.path()).is_ok());
    }

    #[tokio::test]
    async fn a_broken_identity_is_named_and_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateFolder::open(folder.path()).expect("a state");
        fs::write(folder.path().join("identity.json"), "{").expect("written");
        let platform = crate::device::cpu_platform().expect("a CPU");
        let error = state
            .identify("127.0.0.1:1", Some("t"), "n", &platform)
            .await
            .err()
            .expect("refused");
        assert!(error.to_string().contains("identity.json"), "{error}");
        assert!(folder.path().join("identity.json").exists());
    }

    #[tokio::test]
    async fn without_a_token_there_is_no_identity() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateFolder::open(folder.path()).expect("a state");
        let platform = crate::device::cpu_platform().expect("a CPU");
        let error = state
            .identify("127.0.0.1:1", None, "n", &platform)
            .await
            .err()
            .expect("refused");
        assert!(error.to_string().contains("--token"), "{error}");
    }
}
