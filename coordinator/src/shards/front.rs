//! The front: takes every call, and has it answered by the shard that it is for.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use prost::Message as _;
use prost::bytes::{Bytes, BytesMut};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::server::{Grpc, NamedService};
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status};
use wattfarm_cost::Platform;
use wattfarm_proto::error::{FieldError, status};
use wattfarm_proto::v1::agent_service_server::AgentServiceServer;
use wattfarm_proto::v1::farm_service_server::FarmServiceServer;
use wattfarm_proto::v1::model_service_server::ModelServiceServer;
use wattfarm_proto::v1::trainer_service_server::TrainerServiceServer;
use wattfarm_proto::{MESSAGE_BYTES_MAX, block, v1};

use super::pass::{Answer, Call, Messages, PASSWORD, SHARD, STEP, Ways, away, pass_here};
use super::raw::{Field, Raw, fields, text, varints};
use super::route::{Rule, rule};
use super::{Board, Post, gather};
use crate::farm::SecretHash;
use crate::grpc::agents::{Step, drawn};
use crate::grpc::auth::{carried, no_key};
use crate::grpc::blocking;
use crate::store::{Directory, Shard};

/// How often the directory is read at most: it is for every name that is in none.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// For how long the directory is new enough to say of an agent that enrols that it was never enrolled before.
const ENROLLED: Duration = Duration::from_secs(5);

/// Ids whose shard is remembered.
const IDS_MAX: usize = 10_000;

/// Jobs in a list, unless said otherwise.
const JOBS: u64 = 1000;

/// The four services, which pass each call on to the shard that it is for, beside others.
pub(crate) fn routes(board: Arc<Board>, post: Post, beside: Routes) -> Routes {
    let front = Arc::new(Front {
        ways: Ways::new(board, post),
        directory: RwLock::default(),
        read_at: tokio::sync::Mutex::default(),
        ids: Mutex::default(),
    });
    beside
        .add_service(Door::<AgentServiceServer<()>>::to(&front))
        .add_service(Door::<ModelServiceServer<()>>::to(&front))
        .add_service(Door::<TrainerServiceServer<()>>::to(&front))
        .add_service(Door::<FarmServiceServer<()>>::to(&front))
}

/// A service's entrance to the front.
struct Door<S> {
    front: Arc<Front>,
    service: PhantomData<fn() -> S>,
}

impl<S> Door<S> {
    fn to(front: &Arc<Front>) -> Self {
        Self {
            front: Arc::clone(front),
            service: PhantomData,
        }
    }
}

impl<S> Clone for Door<S> {
    fn clone(&self) -> Self {
        Self::to(&self.front)
    }
}

impl<S: NamedService> NamedService for Door<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Door<S> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let front = Arc::clone(&self.front);
        let path = request.uri().path_and_query().cloned();
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        Box::pin(async move {
            // A message that is one has been read, so it is no longer than it may be.
            let mut grpc = Grpc::new(Raw).max_decoding_message_size(MESSAGE_BYTES_MAX);
            let answer = move |request: Request<Bytes>| {
                let (front, path) = (Arc::clone(&front), path.clone());
                async move {
                    let (metadata, extensions, message) = request.into_parts();
                    let call = Call {
                        path,
                        metadata,
                        extensions,
                        message,
                    };
                    front.answer(call).await.map(Response::new)
                }
            };
            Ok(grpc
                .server_streaming(tower::service_fn(answer), request)
                .await)
        })
    }
}

fn elsewhere() -> Status {
    let message = "this agent was enrolled for a platform that another shard has: it can't go on as the same agent; \
                   have it enrol anew, with a new identity and a new token";
    status(
        Code::FailedPrecondition,
        "ENROLLED_ELSEWHERE",
        message,
        None,
    )
}

/// What passes calls on.
pub(super) struct Front {
    pub(super) ways: Ways,
    directory: RwLock<Directory>,
    /// When the directory was read; held while it is.
    read_at: tokio::sync::Mutex<Option<Instant>>,
    /// The shards of ids of campaigns and agents, once they are known: none ever moves.
    ids: Mutex<BTreeMap<String, Shard>>,
}

impl Front {
    async fn answer(self: Arc<Self>, mut call: Call) -> Result<Messages, Status> {
        let password = call.metadata.remove(PASSWORD);
        let (shard, step) = (call.metadata.remove(SHARD), call.metadata.remove(STEP));
        // It is of the message as it came.
        call.metadata.remove("content-length");
        if let Some(password) = password {
            return self.passed_on(&password, shard, step, &call).await;
        }
        let rule =
            rule(call.path.path()).ok_or_else(|| Status::unimplemented("there is no such call"))?;
        let caller = carried(&call.metadata)?;
        // Whoever has the shard may be reached by others than we are.
        let needs_key = !matches!(rule, Rule::Enroll | Rule::Caller);
        if caller.is_none() && needs_key && self.ways.post().anonymous.is_none() {
            return Err(no_key());
        }
        match rule {
            Rule::Home => self.one(Shard::HOME, &call).await,
            Rule::Caller => {
                let shard = match caller {
                    Some(credential) => {
                        self.find(Duration::ZERO, |all| all.credentials.get(&credential))
                            .await?
                    }
                    None => None,
                };
                // Whose it isn't the home says as well as any.
                self.one(shard.unwrap_or(Shard::HOME), &call).await
            }
            Rule::Enroll => self.enroll(&call).await.map(Answer::messages),
            Rule::Platform(path) => {
                let shard = self.platform(&text(&call.message, path)).await?;
                self.one(shard, &call).await
            }
            Rule::Platforms(path) => {
                let shard = self.platforms(fields(&call.message, path)).await?;
                self.one(shard, &call).await
            }
            Rule::Known(path) => self.known(&text(&call.message, path), &call).await,
            Rule::Lists => gather::lists(&self, &call).await,
            Rule::Jobs | Rule::Export => {
                let platform = text(&call.message, &[1]);
                if !platform.is_empty() {
                    let shard = self.platform(&platform).await?;
                    return self.one(shard, &call).await;
                }
                let limit = match (rule, fields(&call.message, &[3]).pop()) {
                    (Rule::Jobs, None | Some(Field::Bytes(_)) | Some(Field::Number(0))) => JOBS,
                    (Rule::Jobs, Some(Field::Number(limit))) => limit,
                    _ => u64::MAX,
                };
                gather::one_after_the_other(&self, &call, limit).await
            }
            Rule::Measurements => gather::measurements(&self, &call).await,
            Rule::Campaigns => gather::campaigns(&self, &call).await,
            Rule::Numbers(path) => {
                let shard = self.shard_of(&fields(&call.message, path))?;
                self.one(shard, &call).await
            }
            Rule::Backup => gather::backup(&self, &call).await,
        }
    }

    /// Takes a call that another coordinator passed on: it is answered here, or not at all.
    async fn passed_on(
        &self,
        password: &MetadataValue<Ascii>,
        shard: Option<MetadataValue<Ascii>>,
        step: Option<MetadataValue<Ascii>>,
        call: &Call,
    ) -> Result<Messages, Status> {
        let hash = |text: &[u8]| SecretHash::of(&String::from_utf8_lossy(text));
        let own = self.ways.password();
        if !hash(password.as_bytes()).matches(&hash(own.as_bytes())) {
            let message = "the call says that a coordinator passed it on, and none of this farm's did: have all the same \
                           operator's key?";
            return Err(status(
                Code::PermissionDenied,
                "NO_COORDINATOR",
                message,
                None,
            ));
        }
        let read = |value: &MetadataValue<Ascii>| value.to_str().ok()?.parse().ok();
        let shard = shard.as_ref().and_then(read).and_then(Shard::new);
        let shard = shard.ok_or_else(|| Status::internal("a call was passed on to no shard"))?;
        let step = step
            .as_ref()
            .and_then(|step| Step::named(step.to_str().ok()?));
        let routes = self.ways.board.here().get(&shard).cloned();
        let routes = routes.ok_or_else(|| away(format!("shard {shard} is not here")))?;
        pass_here(routes, call, step).await.map(Answer::messages)
    }

    async fn one(&self, shard: Shard, call: &Call) -> Result<Messages, Status> {
        self.ways
            .pass(shard, call, None)
            .await
            .map(Answer::messages)
    }

    /// Asks each shard until one knows the id.
    async fn known(&self, id: &str, call: &Call) -> Result<Messages, Status> {
        let remembered = self.ids().get(id).copied();
        if let Some(shard) = remembered {
            return self.one(shard, call).await;
        }
        let mut unknown = away("no shard is known yet".to_owned());
        for shard in self.ways.board.shards() {
            match self.one(shard, call).await {
                Err(status) if status.code() == Code::NotFound => unknown = status,
                Err(status) => return Err(status),
                Ok(messages) => {
                    let mut ids = self.ids();
                    if ids.len() >= IDS_MAX {
                        ids.clear();
                    }
                    ids.insert(id.to_owned(), shard);
                    return Ok(messages);
                }
            }
        }
        Err(unknown)
    }

    fn ids(&self) -> MutexGuard<'_, BTreeMap<String, Shard>> {
        self.ids.lock().expect("nothing panics while it is held")
    }

    /// The shard of a platform by its slug or hash. Which there isn't the home says as well as any.
    async fn platform(&self, name: &str) -> Result<Shard, Status> {
        let found = self
            .find(Duration::ZERO, |all| all.platforms.get(name))
            .await?;
        Ok(found.unwrap_or(Shard::HOME))
    }

    async fn platforms(&self, names: Vec<Field>) -> Result<Shard, Status> {
        let mut shards = Vec::new();
        for name in names {
            if let Field::Bytes(name) = name {
                shards.push(self.platform(&String::from_utf8_lossy(&name)).await?);
            }
        }
        only(shards, "models", "publish")
    }

    /// The shard that gave numbers: what is done with them is done to all of them or to none.
    fn shard_of(&self, numbers: &[Field]) -> Result<Shard, Status> {
        let mut shards: Vec<Shard> = Vec::new();
        for field in numbers {
            let packed = match field {
                Field::Number(number) => vec![*number],
                Field::Bytes(packed) => varints(packed.clone()),
            };
            let of_block = |number| self.ways.board.shard_of_block(block(number));
            shards.extend(packed.into_iter().map(of_block));
            shards.sort_unstable();
            shards.dedup();
        }
        only(shards, "sequences", "name")
    }

    /// Looks something up. What isn't there may have come since the directory was read: it is read again then, unless that
    /// was so short a while ago.
    async fn find(
        &self,
        fresh: Duration,
        look: impl Fn(&Directory) -> Option<&Shard> + Send + Sync,
    ) -> Result<Option<Shard>, Status> {
        let known = || {
            let directory = self.directory.read();
            look(&directory.expect("nothing panics while it is held")).copied()
        };
        if let Some(shard) = known() {
            return Ok(Some(shard));
        }
        let asked_at = Instant::now();
        let mut read_at = self.read_at.lock().await;
        if let Some(at) = *read_at {
            if at > asked_at || at.elapsed() < fresh {
                return Ok(known());
            }
            tokio::time::sleep_until(at + READ_AGAIN).await;
        }
        let now = Instant::now();
        let (common, shards) = (
            Arc::clone(&self.ways.post().common),
            self.ways.board.shards(),
        );
        let directory = blocking(move || Directory::read(&common, &shards)).await?;
        self.learn(|known| *known = directory);
        *read_at = Some(now);
        Ok(known())
    }

    fn learn(&self, what: impl FnOnce(&mut Directory)) {
        let directory = self.directory.write();
        what(&mut directory.expect("nothing panics while it is held"));
    }

    /// Uses the token at home, and enrols the agent where its platform has its place.
    async fn enroll(&self, call: &Call) -> Result<Answer, Status> {
        let message = v1::EnrollRequest::decode(call.message.clone());
        let read = message.ok().and_then(|message| {
            let platform = Platform::try_from(message.platform?).ok()?;
            Some((drawn(message.credential).ok()?, platform.slug()))
        });
        // What is wrong with it the home says as well as any.
        let Some((credential, name)) = read else {
            return self.ways.pass(Shard::HOME, call, None).await;
        };
        let known = self
            .find(ENROLLED, |all| all.credentials.get(&credential))
            .await?;
        let placed = self.find(ENROLLED, |all| all.names.get(&name)).await?;
        if let (Some(known), Some(placed)) = (known, placed)
            && known != placed
        {
            return Err(elsewhere());
        }
        // Before anything else: nobody gives a platform its place without one.
        let used = self.ways.pass(Shard::HOME, call, Some(Step::Token));
        used.await?;
        let shard = match placed {
            Some(shard) => shard,
            None => {
                let (common, name) = (Arc::clone(&self.ways.post().common), name.clone());
                let wanted = known.unwrap_or_else(|| Shard::for_name(&name));
                blocking(move || common.place(&name, wanted)).await?
            }
        };
        if known.is_some_and(|known| known != shard) {
            return Err(elsewhere());
        }
        let answer = self.ways.pass(shard, call, Some(Step::Agent)).await?;
        // Nothing is gained by reading it.
        self.learn(|directory| {
            directory.credentials.insert(credential, shard);
            directory.names.insert(name, shard);
        });
        Ok(answer)
    }

    /// The answers of every shard to a call of one message, joined: lists of the same fields make one.
    pub(super) async fn joined(&self, call: &Call) -> Result<Bytes, Status> {
        let mut all = BytesMut::new();
        for shard in self.ways.board.shards() {
            if let Answer::One(message) = self.ways.pass(shard, call, None).await? {
                all.extend_from_slice(&message);
            }
        }
        Ok(all.freeze())
    }
}

/// The one shard that a field's values are of; the home of none.
fn only(mut shards: Vec<Shard>, field: &str, what: &str) -> Result<Shard, Status> {
    shards.sort_unstable();
    shards.dedup();
    match shards[..] {
        [] => Ok(Shard::HOME),
        [shard] => Ok(shard),
        _ => {
            let reason =
                format!("are of platforms in several shards: {what} each platform's by themselves");
            Err(FieldError::new(field, reason).into())
        }
    }
}
