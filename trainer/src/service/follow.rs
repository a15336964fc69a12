//! Following the coordinator: its streams as events, resumed after every loss.

use tokio::sync::mpsc::Sender;
use tonic::{Code, Request, Status};
use wattfarm_cost::measurement::Measurement;
use wattfarm_proto::connect::Connection;
use wattfarm_proto::v1;

use super::ServiceError;
use super::backoff::Backoff;
use super::core::Event;
use super::queue::CampaignStatus;

/// Measurements from the first on, and new ones as they come. Ends only with an error that trying again can't mend, or
/// with the receiver.
pub(super) async fn measurements(
    connection: Connection,
    events: Sender<Event>,
) -> Result<(), ServiceError> {
    let mut backoff = Backoff::default();
    let mut cursors = Cursors::default();
    loop {
        let lost = measurements_once(&connection, &mut cursors, &events, &mut backoff).await;
        lost_or_over("measurements", lost, &events)?;
        backoff.wait().await;
    }
}

/// How far measurements and retractions have been read.
#[derive(Default)]
struct Cursors {
    sequence: u64,
    retraction: u64,
}

async fn measurements_once(
    connection: &Connection,
    cursors: &mut Cursors,
    events: &Sender<Event>,
    backoff: &mut Backoff,
) -> Result<(), Status> {
    let request = Request::new(v1::WatchMeasurementsRequest {
        after_sequence: cursors.sequence,
        after_retraction: cursors.retraction,
    });
    let mut stream = connection
        .trainer()
        .watch_measurements(request)
        .await?
        .into_inner();
    while let Some(batch) = stream.message().await? {
        backoff.reset();
        let newest = batch
            .measurements
            .last()
            .map_or(cursors.sequence, |measurement| measurement.sequence);
        let measurements = batch
            .measurements
            .into_iter()
            .filter_map(readable)
            .collect();
        let is_newest = newest >= batch.through_sequence;
        let measured = Event::Measured {
            measurements,
            is_newest,
        };
        if events.send(measured).await.is_err() {
            break;
        }
        if let Some(last) = batch.retractions.last() {
            let retracted = batch.retractions.iter().map(|one| one.sequence).collect();
            if events.send(Event::Retracted(retracted)).await.is_err() {
                break;
            }
            cursors.retraction = last.number;
        }
        cursors.sequence = newest;
    }
    Ok(())
}

/// A measurement that this version cannot read, such as one of a kind that it doesn't know, is passed over.
fn readable(message: v1::Measurement) -> Option<Measurement> {
    let sequence = message.sequence;
    Measurement::try_from(message)
        .inspect_err(|error| tracing::error!(measurement.sequence = sequence, %error, "measurement passed over"))
        .ok()
}

/// Every list of campaigns. Ends like [`measurements`].
pub(super) async fn campaigns(
    connection: Connection,
    events: Sender<Event>,
) -> Result<(), ServiceError> {
    let mut backoff = Backoff::default();
    loop {
        let lost = campaigns_once(&connection, &events, &mut backoff).await;
        lost_or_over("campaigns", lost, &events)?;
        backoff.wait().await;
    }
}

async fn campaigns_once(
    connection: &Connection,
    events: &Sender<Event>,
    backoff: &mut Backoff,
) -> Result<(), Status> {
    let request = Request::new(v1::WatchCampaignsRequest {});
    let mut stream = connection
        .trainer()
        .watch_campaigns(request)
        .await?
        .into_inner();
    while let Some(list) = stream.message().await? {
        backoff.reset();
        let readable = |message: v1::Campaign| {
            CampaignStatus::try_from(message)
                .inspect_err(|error| tracing::error!(%error, "campaign passed over"))
                .ok()
        };
        let campaigns = list.campaigns.into_iter().filter_map(readable).collect();
        if events.send(Event::Campaigns(campaigns)).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// What the end of a stream means: a wrong key is for good, and so is a coordinator of another version, or one whose books
/// end before our cursor (another store): a trainer that is started anew holds nothing of the old one.
fn lost_or_over(
    what: &'static str,
    lost: Result<(), Status>,
    events: &Sender<Event>,
) -> Result<(), ServiceError> {
    let Err(status) = lost else { return Ok(()) };
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented | Code::OutOfRange => {
            Err(ServiceError::Refused {
                what,
                status: Box::new(status),
            })
        }
        _ if events.is_closed() => Ok(()),
        _ => {
            let (code, message) = (status.code(), status.message());
            tracing::warn!(%code, message, "lost the coordinator's {what}, trying again");
            Ok(())
        }
    }
}
