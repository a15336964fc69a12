//! Calls that every shard has a part of the answer to.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message as _;
use prost::bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use wattfarm_proto::error::status;
use wattfarm_proto::{block, v1};

use super::front::Front;
use super::pass::{Answer, Call, Messages, away};
use crate::store::Shard;
use crate::store::dump::{DumpError, Joined};

/// Messages that wait for a slow client.
const MESSAGES_MAX: usize = 4;

type Sender = mpsc::Sender<Result<Bytes, Status>>;

/// Lists of every shard, as one.
pub(super) async fn lists(front: &Front, call: &Call) -> Result<Messages, Status> {
    front
        .joined(call)
        .await
        .map(|all| Answer::One(all).messages())
}

/// A stream of each shard, one after the other, at most `limit` messages.
pub(super) async fn one_after_the_other(
    front: &Arc<Front>,
    call: &Call,
    limit: u64,
) -> Result<Messages, Status> {
    let mut shards = front.ways.board.shards().into_iter();
    let first = shards.next().ok_or_else(none)?;
    // Who may not ask hears of it before anything else.
    let mut stream = front.ways.pass(first, call, None).await?.messages();
    let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
    let (front, call) = (Arc::clone(front), call.clone());
    tokio::spawn(async move {
        let mut left = limit;
        loop {
            while let Some(message) = stream.next().await {
                let is_last = message.is_err() || left <= 1;
                if sender.send(message).await.is_err() || is_last {
                    return;
                }
                left -= 1;
            }
            let Some(next) = shards.next() else { return };
            match front.ways.pass(next, &call, None).await {
                Ok(answer) => stream = answer.messages(),
                Err(status) => return drop(sender.send(Err(status)).await),
            }
        }
    });
    Ok(ReceiverStream::new(receiver))
}

/// The measurements of every shard as they come, each shard's from the caller's cursor on.
pub(super) async fn measurements(front: &Arc<Front>, call: &Call) -> Result<Messages, Status> {
    let request = v1::WatchMeasurementsRequest::decode(call.message.clone());
    let request =
        request.map_err(|error| Status::invalid_argument(format!("read the message: {error}")))?;
    if !request.by_block {
        let message = "several coordinators run this farm, and this client follows the measurements of one alone: update it";
        return Err(status(
            Code::OutOfRange,
            "CURSOR_OF_ONE_BLOCK",
            message,
            None,
        ));
    }
    let board = &front.ways.board;
    let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
    // Behind a message, a field is the message's own.
    let blocks = v1::WatchMeasurementsResponse {
        blocks: board.shards().len() as u32,
        ..Default::default()
    };
    let said = Bytes::from(blocks.encode_to_vec());
    for shard in board.shards() {
        let of_it = |numbers: &[u64]| {
            let numbers = numbers.iter().copied();
            numbers
                .filter(|&number| board.shard_of_block(block(number)) == shard)
                .collect()
        };
        let part = v1::WatchMeasurementsRequest {
            by_block: true,
            after_sequences: of_it(&request.after_sequences),
            after_retractions: of_it(&request.after_retractions),
            ..Default::default()
        };
        let call = call.saying(part.encode_to_vec());
        let stream = front.ways.pass(shard, &call, None).await?.messages();
        tokio::spawn(follow(stream, sender.clone(), said.clone()));
    }
    Ok(ReceiverStream::new(receiver))
}

/// The newest list of every shard, whenever one changes.
pub(super) async fn campaigns(front: &Arc<Front>, call: &Call) -> Result<Messages, Status> {
    let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
    let shards = front.ways.board.shards();
    let count = shards.len();
    let newest: Arc<tokio::sync::Mutex<BTreeMap<Shard, Bytes>>> = Arc::default();
    for shard in shards {
        let stream = front.ways.pass(shard, call, None).await?.messages();
        let (newest, sender) = (Arc::clone(&newest), sender.clone());
        tokio::spawn(async move {
            let mut stream = stream;
            loop {
                let message = tokio::select! {
                    biased;
                    () = sender.closed() => return,
                    message = stream.next() => message,
                };
                // Held while it is sent, so that an older list never follows a newer one.
                let mut newest = newest.lock().await;
                let told = match message {
                    Some(Ok(list)) => {
                        newest.insert(shard, list);
                        if newest.len() < count {
                            continue;
                        }
                        Ok(newest.values().flatten().copied().collect::<Bytes>())
                    }
                    Some(Err(status)) => Err(status),
                    None => Err(away(format!("shard {shard} has ended"))),
                };
                let is_last = told.is_err();
                if sender.send(told).await.is_err() || is_last {
                    return;
                }
            }
        });
    }
    Ok(ReceiverStream::new(receiver))
}

/// Passes messages on, with some fields behind each, until either end is over.
async fn follow(mut stream: Messages, sender: Sender, fields: Bytes) {
    loop {
        let message = tokio::select! {
            biased;
            () = sender.closed() => return,
            message = stream.next() => message,
        };
        let told = match message {
            Some(message) => message.map(|message| [message, fields.clone()].concat().into()),
            // None ends by itself: the others must not be taken for all.
            None => Err(away("a shard has ended".to_owned())),
        };
        let is_last = told.is_err();
        if sender.send(told).await.is_err() || is_last {
            return;
        }
    }
}

/// The dumps of every shard, as one.
pub(super) async fn backup(front: &Arc<Front>, call: &Call) -> Result<Messages, Status> {
    let shards = front.ways.board.shards();
    let first = *shards.first().ok_or_else(none)?;
    let mut stream = front.ways.pass(first, call, None).await?.messages();
    let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
    let (front, call) = (Arc::clone(front), call.clone());
    tokio::spawn(async move {
        let dump = async {
            let mut joined = Joined::begin().map_err(DumpError::from).map_err(damaged)?;
            let mut shards = shards.into_iter().skip(1);
            loop {
                while let Some(message) = stream.next().await {
                    let part = v1::BackupResponse::decode(message?);
                    let part = part.map_err(|error| Status::internal(error.to_string()))?;
                    tell(&sender, joined.take(&part.part).map_err(damaged)?).await;
                }
                joined.begin_next().map_err(damaged)?;
                match shards.next() {
                    Some(next) => stream = front.ways.pass(next, &call, None).await?.messages(),
                    None => break,
                }
            }
            tell(
                &sender,
                joined.end().map_err(DumpError::from).map_err(damaged)?,
            )
            .await;
            Ok::<(), Status>(())
        };
        if let Err(status) = dump.await {
            // An error means that the client is gone and needs no status.
            let _ = sender.send(Err(status)).await;
        }
    });
    Ok(ReceiverStream::new(receiver))
}

async fn tell(sender: &Sender, part: Vec<u8>) {
    if !part.is_empty() {
        let message = v1::BackupResponse { part };
        // A client that went away is noticed by the stream that is read next.
        let _ = sender.send(Ok(message.encode_to_vec().into())).await;
    }
}

fn damaged(error: DumpError) -> Status {
    tracing::error!(%error, "a shard's dump came damaged");
    Status::internal("a shard's dump came damaged: the coordinator's log says how")
}

fn none() -> Status {
    away("no shard is known yet".to_owned())
}
