//! Who this agent is: its credential, kept on disk, how it comes by it, and how it changes it.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail, ensure};
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use tonic::{Code, Status};
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
    /// The credential that is to take the other's place: on disk before the coordinator hears of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// When the credential was drawn, in ms since 1970.
    #[serde(default)]
    drawn_at_ms: u64,
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
            fs::rename(&beside, &path)?;
            File::open(&self.path)?.sync_all()
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
            Some(_) | None => Stored {
                credential: draw(),
                platform: platform_hash,
                agent: None,
                next: None,
                drawn_at_ms: now_ms(),
            },
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

    /// How long until the credential is old enough to be changed. One that was drawn in the future is: the clock was set. A
    /// change that was begun is due at once.
    fn due_in(&self, life: Duration) -> anyhow::Result<Duration> {
        let Some(stored) = self.load()?.filter(|stored| stored.next.is_none()) else {
            return Ok(Duration::ZERO);
        };
        let age_ms = now_ms().checked_sub(stored.drawn_at_ms);
        let age = age_ms.map_or(life, Duration::from_millis);
        Ok(life.saturating_sub(age))
    }

    /// Changes the credential; returns the new one. `tell` tells the coordinator, by a call that comes with the first
    /// credential, of the second.
    ///
    /// It may stop anywhere and begin anew: the next credential is on disk before anybody hears of it, so a call that is
    /// repeated is the same call; and it takes the old one's place on disk before it is used, for from then on the old one
    /// opens nothing.
    async fn rotate(
        &self,
        tell: impl AsyncFnOnce(&str, &str) -> Result<(), Status>,
    ) -> anyhow::Result<String> {
        let mut stored = self.load()?.context("there is no identity to change")?;
        let begun = stored.next.is_some();
        let next = stored.next.get_or_insert_with(draw).clone();
        if !begun {
            self.save(&stored)?;
        }
        match tell(&stored.credential, &next).await {
            Ok(()) => (),
            // The new one has been used, and the disk has lost that.
            Err(status) if begun && status.code() == Code::Unauthenticated => (),
            Err(status) => return Err(status).context("tell the coordinator of a new credential"),
        }
        self.save(&Stored {
            credential: next.clone(),
            next: None,
            drawn_at_ms: now_ms(),
            ..stored
        })?;
        Ok(next)
    }
}

/// Changes an agent's credential whenever it is old enough.
pub struct Rotation {
    state: StateFolder,
    coordinator: Target,
    life: Option<Duration>,
}

impl Rotation {
    /// Keeps the state folder to itself. `life` is how long a credential is used; `None` for ever.
    pub fn new(state: StateFolder, coordinator: Target, life: Option<Duration>) -> Self {
        Self {
            state,
            coordinator,
            life,
        }
    }

    /// When the next change is due; `None` for never.
    pub fn due_in(&self) -> Option<Duration> {
        let due_in = |life| {
            self.state.due_in(life).unwrap_or_else(|error| {
                tracing::warn!(%error, "could not read how old the credential is");
                life
            })
        };
        self.life.map(due_in)
    }

    /// Changes the credential, and connects with the new one. No other call may be under way: one that comes with the old
    /// credential after the new one is used is refused.
    ///
    /// # Errors
    /// The coordinator's, or the disk's. Trying again goes on where it stopped.
    pub async fn rotate(&self, connection: Connection) -> anyhow::Result<Connection> {
        let tell = async |_: &str, next: &str| {
            let credential = bytes(next).map_err(|error| Status::internal(error.to_string()))?;
            let request = v1::RotateCredentialRequest { credential };
            let told = connection.agents().rotate_credential(unary(request)).await;
            told.map(drop)
        };
        let credential = self.state.rotate(tell).await?;
        Ok(Connection::lazy(&self.coordinator, Some(&credential))?)
    }
}

/// A credential of this agent's own, 32 random bytes in hexadecimal digits.
fn draw() -> String {
    let mut credential = [0u8; 32];
    rand::rng().fill(&mut credential);
    credential
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn now_ms() -> u64 {
    SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap_or_default()
        .as_millis() as u64
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

    /// What the coordinator does: either credential will do until the new one is used.
    struct Coordinator {
        credential: String,
        next: Option<String>,
    }

    impl Coordinator {
        fn call(&mut self, credential: &str) -> Result<(), Status> {
            if self.next.as_deref() == Some(credential) {
                self.credential = credential.to_owned();
                self.next = None;
            }
            match self.credential == credential {
                true => Ok(()),
                false => Err(Status::unauthenticated("unknown")),
            }
        }

        fn rotate(&mut self, credential: &str, next: &str) -> Result<(), Status> {
            self.call(credential)?;
            self.next = Some(next.to_owned());
            Ok(())
        }
    }

    fn enrolled(state: &StateFolder, drawn_at_ms: u64) -> Coordinator {
        let stored = Stored {
            credential: draw(),
            platform: Hash::of("platform"),
            agent: Some(AgentId(uuid::Uuid::from_u128(1))),
            next: None,
            drawn_at_ms,
        };
        state.save(&stored).expect("saved");
        Coordinator {
            credential: stored.credential,
            next: None,
        }
    }

    /// Wherever it stops, the credential on disk opens the farm, and the next attempt ends the change.
    #[tokio::test]
    async fn a_rotation_may_stop_anywhere() {
        #[derive(Debug, Clone, Copy, PartialEq)]
        enum Stop {
            CallLost,
            AnswerLost,
            /// After the coordinator answered: the file is as it was before.
            BeforeTheLastWrite,
            /// The new credential was used, and the file is the old one all the same.
            LastWriteLost,
        }
        for stop in [
            Stop::CallLost,
            Stop::AnswerLost,
            Stop::BeforeTheLastWrite,
            Stop::LastWriteLost,
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            let state = StateFolder::open(folder.path()).expect("a state");
            let mut farm = enrolled(&state, now_ms());
            let mut half = None;
            let told = state.rotate(async |credential, next| {
                half = Some(fs::read(state.identity_path()).expect("written"));
                if stop != Stop::CallLost {
                    farm.rotate(credential, next)?;
                }
                match stop {
                    Stop::CallLost | Stop::AnswerLost => Err(Status::unavailable("gone")),
                    Stop::BeforeTheLastWrite | Stop::LastWriteLost => Ok(()),
                }
            });
            let told = told.await;
            if let Ok(next) = &told {
                if stop == Stop::LastWriteLost {
                    farm.call(next).expect("the new one");
                }
                fs::write(state.identity_path(), half.expect("told")).expect("written");
            }
            let long = Duration::from_secs(3600);
            assert_eq!(state.due_in(long).expect("readable"), Duration::ZERO);
            let next = state.rotate(async |credential, next| farm.rotate(credential, next));
            let next = next.await.expect("goes on");
            let stored = state.load().expect("readable").expect("there");
            assert_eq!((&stored.credential, stored.next), (&next, None), "{stop:?}");
            farm.call(&next).expect("it opens the farm");
            assert!(state.due_in(long).expect("readable") > Duration::from_secs(3500));
        }
    }

    /// A credential that nobody knows is no reason to change it: an operator has to look.
    #[tokio::test]
    async fn a_stranger_stays_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateFolder::open(folder.path()).expect("a state");
        let mut farm = enrolled(&state, 0);
        farm.credential = draw();
        let refused = state.rotate(async |credential, next| farm.rotate(credential, next));
        assert!(refused.await.is_err());
    }

    #[test]
    fn old_credentials_and_those_of_the_future_are_due() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateFolder::open(folder.path()).expect("a state");
        let day = Duration::from_secs(24 * 3600);
        for (drawn_at_ms, is_due) in [
            (now_ms(), false),
            (now_ms() - 25 * 3_600_000, true),
            (now_ms() + 3_600_000, true),
        ] {
            enrolled(&state, drawn_at_ms);
            let due_in = state.due_in(day).expect("readable");
            assert_eq!(due_in.is_zero(), is_due, "{due_in:?}");
        }
    }
}
