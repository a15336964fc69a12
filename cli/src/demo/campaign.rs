//! The demo's campaign: ask for models, follow the measuring, wait for the last fit.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, interval, sleep, timeout};
use uuid::Uuid;
use wattfarm_cost::model::Target;
use wattfarm_cost::{Hash, Kind, ModelSet, Subject};
use wattfarm_proto::connect::{Connection, unary};
use wattfarm_proto::convert::required;
use wattfarm_proto::v1;

use super::progress::Progress;
use super::setup::Farm;
use crate::farm::{Export, fetch_models};
use crate::output::note;

/// How long a campaign may take beyond twice its budget: it never does, unless something holds the measuring up.
const OVERTIME: Duration = Duration::from_secs(300);
/// How long an agent may take to hand in what it has begun when a campaign ends.
const SETTLING: Duration = Duration::from_secs(300);
/// How often to look whether it has.
const LOOK: Duration = Duration::from_millis(200);
/// Models are as good as they get when none has been published for so long: a fit of thousands of layers takes tens of
/// seconds on one core.
const QUIET: Duration = Duration::from_secs(60);
/// How long to wait for models at most.
const PATIENCE: Duration = Duration::from_secs(90);

/// Measures layers for `seconds`, none of them `excluded`; returns the campaign as it ended.
pub(super) async fn measure(
    farm: &Farm,
    seconds: u64,
    excluded: impl Iterator<Item = &Hash>,
) -> anyhow::Result<v1::Campaign> {
    let id = Uuid::now_v7().to_string();
    let budget = v1::campaign_request::budget::Budget::Seconds(seconds as f64);
    let request = v1::CampaignRequest {
        campaign_id: id.clone(),
        platform: farm.platform.clone(),
        kinds: vec![],
        dtype: v1::Dtype::F32.into(),
        target_error: None,
        budget: Some(v1::campaign_request::Budget {
            budget: Some(budget),
        }),
        excluded_layers: excluded.map(Hash::to_string).collect(),
        ..v1::CampaignRequest::default()
    };
    let mut models = farm.connection.models();
    let request = v1::RequestModelsRequest {
        campaign: Some(request),
    };
    models
        .request_models(unary(request))
        .await
        .context("request models")?;

    let deadline = Instant::now() + 2 * Duration::from_secs(seconds) + OVERTIME;
    let request = v1::WatchCampaignRequest {
        campaign_id: id.clone(),
    };
    let mut updates = models
        .watch_campaign(request)
        .await
        .context("watch the campaign")?
        .into_inner();
    let mut progress = Progress::new(seconds);
    let mut tick = interval(Duration::from_secs(1));
    let mut newest = None;
    loop {
        tokio::select! {
            update = updates.message() => match update.context("watch the campaign")? {
                Some(update) => newest = Some(required("campaign", update.campaign)?),
                None => break,
            },
            _ = tick.tick() => (),
            () = tokio::time::sleep_until(deadline) => {
                note("the campaign takes too long: ending it with what there is");
                return cancel(&farm.connection, id).await;
            }
        }
        if let Some(campaign) = &newest {
            progress.show(campaign);
        }
    }
    progress.finish(newest.as_ref());
    newest.context("the coordinator said nothing of the campaign")
}

/// Waits until no agent has a job of the platform: what was in hand when a campaign ended is handed in, or handed back.
pub(super) async fn settle(farm: &Farm) -> anyhow::Result<()> {
    let is_idle = async || {
        let request = v1::ListJobsRequest {
            platform: farm.platform.clone(),
            states: vec![v1::JobState::Leased.into()],
            limit: 1,
        };
        let listing = farm.connection.farm().list_jobs(unary(request)).await;
        let mut jobs = listing.context("list the jobs")?.into_inner();
        let first = jobs.message().await.context("list the jobs")?;
        Ok::<_, anyhow::Error>(first.is_none())
    };
    let waiting = async {
        while !is_idle().await? {
            sleep(LOOK).await;
        }
        Ok(())
    };
    timeout(SETTLING, waiting)
        .await
        .context("the agent does not hand in its last jobs")?
}

async fn cancel(connection: &Connection, id: String) -> anyhow::Result<v1::Campaign> {
    let request = v1::CancelCampaignRequest { campaign_id: id };
    let response = connection
        .farm()
        .cancel_campaign(unary(request))
        .await
        .context("cancel the campaign")?;
    Ok(required("campaign", response.into_inner().campaign)?)
}

/// What has been measured on the platform, by this run and earlier ones.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// Measurements of layers.
    pub(super) measurements: u64,
    /// The layers among them.
    pub(super) layers: BTreeSet<Hash>,
    /// The last measurement of each kind.
    pub(super) last: BTreeMap<Kind, u64>,
    /// Seconds that layers took the agent since the time that was asked about.
    pub(super) busy_seconds: f64,
}

/// Counts the platform's measurements; those that arrived since `since_ms` also by their time.
pub(super) async fn census(farm: &Farm, since_ms: u64) -> anyhow::Result<Census> {
    let mut census = Census::default();
    let mut export = Export::open(&farm.connection, &farm.platform, false).await?;
    while let Some(batch) = export.next().await? {
        for measurement in batch.measurements {
            let Subject::Layer(layer) = &measurement.subject else {
                continue;
            };
            census.measurements += 1;
            census.layers.insert(layer.hash());
            census.last.insert(layer.kind(), measurement.sequence);
            if measurement.received_at_ms >= since_ms {
                census.busy_seconds += measurement.reading.conditions.seconds;
            }
        }
    }
    Ok(census)
}

/// Waits until the models know the last measurement of each kind, or no new one has come for a while.
pub(super) async fn digest(farm: &Farm, census: &Census) -> anyhow::Result<ModelSet> {
    let began = Instant::now();
    let mut published = (Instant::now(), 0);
    loop {
        let models = fetch_models(&farm.connection, &farm.platform).await?;
        let versions = models.models.iter().map(|model| model.version).sum::<u64>();
        if versions != published.1 {
            published = (Instant::now(), versions);
        }
        let patient = published.0.elapsed() < QUIET && began.elapsed() < PATIENCE;
        if is_digested(&models, census) || !patient {
            return Ok(models);
        }
        sleep(Duration::from_secs(1)).await;
    }
}

fn is_digested(models: &ModelSet, census: &Census) -> bool {
    let runtime = || {
        models
            .models
            .iter()
            .filter(|model| model.key.target == Target::RuntimeMs)
    };
    let through = |kind: Kind| {
        runtime()
            .find(|model| model.key.kind == kind)
            .map(|model| model.provenance.through_sequence)
    };
    census
        .last
        .iter()
        .all(|(&kind, last)| through(kind).is_some_and(|through| through >= *last))
}
