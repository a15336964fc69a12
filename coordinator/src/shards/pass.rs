//! Passing a call on: to the services of a shard that is here, or to the coordinator that has it.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prost::bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::codegen::http::Extensions;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{Body as HttpBody, StdError};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use wattfarm_proto::MESSAGE_BYTES_MAX;
use wattfarm_proto::error::status;

use super::raw::Raw;
use super::route::is_stream;
use super::{Board, Post};
use crate::grpc::agents::Step;
use crate::store::{Shard, View};

/// How long a call waits for a shard that nobody has at the moment. A paused coordinator is replaced after ten seconds.
const PATIENCE: Duration = Duration::from_secs(18);

/// After how long another try is worth it.
const AGAIN: Duration = Duration::from_millis(200);

/// Calls that are passed on over one connection, of the 128 that it may have under way; and connections to one coordinator.
const CALLS_PER_LINE: usize = 120;
const LINES_MAX: usize = 128;

/// Messages that wait for a slow client.
const MESSAGES_MAX: usize = 4;

/// Headers of a call that was passed on.
pub(super) const PASSWORD: &str = "wattfarm-coordinator";
pub(super) const SHARD: &str = "wattfarm-shard";
pub(super) const STEP: &str = "wattfarm-step";

/// The messages of an answer.
pub(super) type Messages = ReceiverStream<Result<Bytes, Status>>;

/// A call as it came.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) path: PathAndQuery,
    pub(super) metadata: MetadataMap,
    pub(super) extensions: Extensions,
    pub(super) message: Bytes,
}

impl Call {
    /// The same with another message.
    pub(super) fn saying(&self, message: impl Into<Bytes>) -> Self {
        Self {
            message: message.into(),
            ..self.clone()
        }
    }

    fn request(&self) -> Request<Bytes> {
        Request::from_parts(
            self.metadata.clone(),
            self.extensions.clone(),
            self.message.clone(),
        )
    }
}

/// What a call is answered by.
pub(super) enum Answer {
    /// One message.
    One(Bytes),
    /// A stream.
    Many(Messages),
}

impl Answer {
    pub(super) fn messages(self) -> Messages {
        match self {
            Self::Many(messages) => messages,
            Self::One(message) => {
                let (sender, receiver) = mpsc::channel(1);
                // It has room for one, and is there.
                let _ = sender.try_send(Ok(message));
                ReceiverStream::new(receiver)
            }
        }
    }
}

/// A connection to another coordinator.
#[derive(Clone)]
struct Line {
    channel: Channel,
    /// Each call under way has a copy.
    under_way: Arc<()>,
}

/// The ways to shards.
pub(super) struct Ways {
    pub(super) board: Arc<Board>,
    post: Post,
    password: MetadataValue<tonic::metadata::Ascii>,
    /// Of each other coordinator.
    lines: Mutex<BTreeMap<String, Vec<Line>>>,
}

impl Ways {
    pub(super) fn new(board: Arc<Board>, post: Post) -> Self {
        let password = post.password().parse().expect("hexadecimal digits");
        Self {
            board,
            post,
            password,
            lines: Mutex::default(),
        }
    }

    pub(super) fn password(&self) -> &MetadataValue<tonic::metadata::Ascii> {
        &self.password
    }

    pub(super) fn post(&self) -> &Post {
        &self.post
    }

    /// Passes a call on to whoever has the shard, and on to the next if that is gone. Calls may be repeated, so one whose answer
    /// was lost is.
    pub(super) async fn pass(
        &self,
        shard: Shard,
        call: &Call,
        step: Option<Step>,
    ) -> Result<Answer, Status> {
        let deadline = Instant::now() + PATIENCE;
        let mut view = self.board.view.subscribe();
        loop {
            let failure = match self.pass_once(shard, call, step).await {
                Err(failure) if is_passing(&failure) => failure,
                answer => return answer,
            };
            if Instant::now() + AGAIN > deadline {
                return Err(failure);
            }
            // Either way it is worth another try.
            let _ = tokio::time::timeout(AGAIN, view.changed()).await;
        }
    }

    async fn pass_once(
        &self,
        shard: Shard,
        call: &Call,
        step: Option<Step>,
    ) -> Result<Answer, Status> {
        let here = self.board.here().get(&shard).cloned();
        if let Some(routes) = here {
            return pass_here(routes, call, step).await;
        }
        let view = self.board.view.subscribe();
        let seen = view.borrow().shards.get(&shard).cloned();
        let Some((epoch, address)) = seen.and_then(|seen| Some((seen.epoch, seen.address?))) else {
            return Err(away(format!("nobody has shard {shard} at the moment")));
        };
        if address == self.post.address {
            return Err(away(format!("shard {shard} is about to begin, or to end")));
        }
        let mut request = call.request();
        let metadata = request.metadata_mut();
        metadata.insert(PASSWORD, self.password.clone());
        metadata.insert(SHARD, shard.number().into());
        if let Some(step) = step {
            metadata.insert(STEP, MetadataValue::from_static(step.name()));
        }
        let Line { channel, under_way } = self.line(&address)?;
        let answered = tokio::select! {
            answered = send(channel, call, request) => answered?,
            failure = moved(view, shard, epoch) => return Err(failure),
        };
        let moved = self::moved(self.board.view.subscribe(), shard, epoch);
        Ok(answered.followed_until(async move {
            let _under_way = under_way;
            moved.await
        }))
    }

    /// A connection to another coordinator that has room for a call; another one, if none has.
    fn line(&self, address: &str) -> Result<Line, Status> {
        let mut lines = self.lines.lock().expect("nothing panics while it is held");
        // Coordinators that are no more are not called again.
        lines.retain(|known, _| known == address || self.board.is_seen(known));
        let lines = lines.entry(address.to_owned()).or_default();
        let free = |line: &&Line| Arc::strong_count(&line.under_way) <= CALLS_PER_LINE;
        if let Some(line) = lines.iter().find(free) {
            return Ok(line.clone());
        }
        if lines.len() >= LINES_MAX {
            let message = format!("too many calls are under way to the coordinator at `{address}`");
            let retry = Some(Duration::from_secs(1));
            return Err(status(
                Code::ResourceExhausted,
                "LINES_BUSY",
                message,
                retry,
            ));
        }
        let line = Line {
            channel: self.connect(address)?,
            under_way: Arc::default(),
        };
        lines.push(line.clone());
        Ok(line)
    }

    /// A connection that is made at its first call.
    fn connect(&self, address: &str) -> Result<Channel, Status> {
        let wrong = |error: tonic::transport::Error| {
            away(format!(
                "the coordinator at `{address}` can't be called: {error}"
            ))
        };
        let scheme = match self.post.tls {
            Some(_) => "https",
            None => "http",
        };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).map_err(wrong)?;
        if let Some(tls) = &self.post.tls {
            endpoint = endpoint.tls_config(tls.clone()).map_err(wrong)?;
        }
        Ok(endpoint
            .connect_timeout(Duration::from_secs(2))
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .connect_lazy())
    }
}

impl Board {
    fn is_seen(&self, address: &str) -> bool {
        let view = self.view.borrow();
        view.shards
            .values()
            .any(|seen| seen.address.as_deref() == Some(address))
    }
}

/// Passes a call to the services of a shard that is here.
pub(super) async fn pass_here(
    routes: Routes,
    call: &Call,
    step: Option<Step>,
) -> Result<Answer, Status> {
    let mut request = call.request();
    if let Some(step) = step {
        request.extensions_mut().insert(step);
    }
    let sent = send(routes, call, request).await?;
    Ok(sent.followed_until(std::future::pending()))
}

/// An answer that has begun.
enum Sent {
    One(Bytes),
    Many(Streaming<Bytes>),
}

impl Sent {
    /// The answer, which ends with its client, or with this failure.
    fn followed_until(self, failure: impl Future<Output = Status> + Send + 'static) -> Answer {
        let mut stream = match self {
            Self::One(message) => return Answer::One(message),
            Self::Many(stream) => stream,
        };
        let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
        tokio::spawn(async move {
            tokio::pin!(failure);
            loop {
                let message = tokio::select! {
                    biased;
                    () = sender.closed() => return,
                    message = stream.message() => message.map_err(known),
                    failure = &mut failure => Err(failure),
                };
                let Some(message) = message.transpose() else {
                    return;
                };
                let is_last = message.is_err();
                if sender.send(message).await.is_err() || is_last {
                    return;
                }
            }
        });
        Answer::Many(ReceiverStream::new(receiver))
    }
}

async fn send<S>(service: S, call: &Call, request: Request<Bytes>) -> Result<Sent, Status>
where
    S: GrpcService<Body>,
    S::Error: Into<StdError>,
    S::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <S::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
{
    let mut grpc = Grpc::new(service).max_decoding_message_size(2 * MESSAGE_BYTES_MAX);
    let ready = grpc.ready().await;
    ready.map_err(|error| {
        away(format!(
            "the coordinator can't be reached: {}",
            error.into()
        ))
    })?;
    let sent = grpc.server_streaming(request, call.path.clone(), Raw).await;
    let mut stream = sent.map_err(known)?.into_inner();
    if is_stream(call.path.path()) {
        return Ok(Sent::Many(stream));
    }
    let message = stream.message().await.map_err(known)?;
    message
        .map(Sent::One)
        .ok_or_else(|| away("the answer was cut off".to_owned()))
}

/// An error of the connection itself means that the coordinator is away, whatever it looks like.
fn known(failure: Status) -> Status {
    match failure.source() {
        Some(source) => away(format!("the coordinator can't be reached: {source}")),
        None => failure,
    }
}

/// Comes back when a shard is somebody else's, or nobody's.
async fn moved(mut view: watch::Receiver<View>, shard: Shard, epoch: i64) -> Status {
    let is_moved = |view: &View| {
        let seen = view.shards.get(&shard);
        seen.is_none_or(|seen| seen.epoch != epoch || seen.address.is_none())
    };
    // An error means that the coordinator ends.
    let _ = view.wait_for(is_moved).await;
    away(format!("shard {shard} is another coordinator's now"))
}

fn is_passing(failure: &Status) -> bool {
    failure.code() == Code::Unavailable
}

pub(super) fn away(message: String) -> Status {
    let retry = Some(Duration::from_secs(1));
    status(Code::Unavailable, "SHARD_AWAY", message, retry)
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Agent => "agent",
        }
    }

    /// The step of a name.
    pub(super) fn named(name: &str) -> Option<Self> {
        [Self::Token, Self::Agent]
            .into_iter()
            .find(|step| step.name() == name)
    }
}
