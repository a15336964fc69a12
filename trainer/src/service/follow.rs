//! Following the coordinator: its streams as events, resumed after every loss.

use std::collections::BTreeMap;

use tokio::sync::mpsc::Sender;
use tonic::{Code, Request, Status};
use wattfarm_cost::measurement::Measurement;
use wattfarm_proto::connect::Connection;
use wattfarm_proto::{block, first_of, v1};

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

/// How far measurements and retractions have been read: the last of each block.
#[derive(Clone, Default)]
pub(crate) struct Cursors {
    sequences: BTreeMap<u64, u64>,
    retractions: BTreeMap<u64, u64>,
    /// The newest that there are.
    through: BTreeMap<u64, u64>,
}

impl Cursors {
    /// Notes how far a batch goes; says whether there is nothing behind it, in any block.
    pub(crate) fn follow(&mut self, batch: &v1::WatchMeasurementsResponse) -> bool {
        let note = |cursors: &mut BTreeMap<u64, u64>, number: u64| {
            let cursor = cursors.entry(block(number)).or_default();
            *cursor = number.max(*cursor);
        };
        for measurement in &batch.measurements {
            note(&mut self.sequences, measurement.sequence);
        }
        for retraction in &batch.retractions {
            note(&mut self.retractions, retraction.number);
        }
        note(&mut self.through, batch.through_sequence);
        let all = self.through.len() >= batch.blocks as usize;
        all && self.through.iter().all(|(&block, &through)| {
            let before_first = first_of(block) - 1;
            *self.sequences.get(&block).unwrap_or(&before_first) >= through
        })
    }
}

async fn measurements_once(
    connection: &Connection,
    cursors: &mut Cursors,
    events: &Sender<Event>,
    backoff: &mut Backoff,
) -> Result<(), Status> {
    let request = Request::new(v1::WatchMeasurementsRequest {
        by_block: true,
        after_sequences: cursors.sequences.values().copied().collect(),
        after_retractions: cursors.retractions.values().copied().collect(),
        // For a coordinator that knows one block only.
        after_sequence: cursors.sequences.values().copied().max().unwrap_or(0),
        after_retraction: cursors.retractions.values().copied().max().unwrap_or(0),
    });
    let mut stream = connection
        .trainer()
        .watch_measurements(request)
        .await?
        .into_inner();
    while let Some(batch) = stream.message().await? {
        backoff.reset();
        // Kept only once it has been handed over.
        let mut followed = cursors.clone();
        let is_newest = followed.follow(&batch);
        let retracted: Vec<u64> = batch.retractions.iter().map(|one| one.sequence).collect();
        let measurements = batch
            .measurements
            .into_iter()
            .filter_map(readable)
            .collect();
        let measured = Event::Measured {
            measurements,
            is_newest,
        };
        if events.send(measured).await.is_err() {
            break;
        }
        if !retracted.is_empty() && events.send(Event::Retracted(retracted)).await.is_err() {
            break;
        }
        *cursors = followed;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(sequences: std::ops::Range<u64>, through: u64) -> v1::WatchMeasurementsResponse {
        let measurement = |sequence| v1::Measurement {
            sequence,
            ..Default::default()
        };
        v1::WatchMeasurementsResponse {
            measurements: sequences.map(measurement).collect(),
            through_sequence: through,
            retractions: vec![],
            ..Default::default()
        }
    }

    #[test]
    fn each_block_has_a_cursor_of_its_own() {
        let mut cursors = Cursors::default();
        let (one, third) = (first_of(0), first_of(3));
        assert!(cursors.follow(&batch(one..one, 0)), "an empty farm");
        assert!(
            cursors.follow(&batch(third..third, third - 1)),
            "an empty block"
        );
        assert!(!cursors.follow(&batch(third..third + 2, third + 2)));
        assert!(!cursors.follow(&batch(one..one + 3, one + 2)));
        assert!(cursors.follow(&batch(third + 2..third + 3, third + 2)));
        let of_three = v1::WatchMeasurementsResponse {
            blocks: 3,
            ..batch(one..one, one + 2)
        };
        assert!(!cursors.follow(&of_three), "nothing of one is known");
        let sequences: Vec<_> = cursors.sequences.into_values().collect();
        assert_eq!(sequences, [one + 2, third + 2]);
    }
}
