//! `wattfarm campaigns`: what is being learned, and how far it is.

use anyhow::Context as _;
use serde::Serialize;
use tonic::Request;
use uuid::Uuid;
use wattfarm_cost::Dtype;
use wattfarm_proto::connect::{Connection, unary};
use wattfarm_proto::convert::{dtype, required};
use wattfarm_proto::error::FieldError;
use wattfarm_proto::v1;

use crate::args::CampaignsArgs;
use crate::exit::{Exit, Failure};
use crate::farm::Outage;
use crate::output::{Output, Report};
use crate::render::number::{figure, time};
use crate::render::table::{Column, table};
use crate::session::Session;

/// Where a campaign is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Waiting,
    Sampling,
    Ready,
    Converged,
    Exhausted,
    Cancelled,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Sampling => "sampling",
            Self::Ready => "ready",
            Self::Converged => "converged",
            Self::Exhausted => "exhausted",
            Self::Cancelled => "cancelled",
        }
    }
}

impl TryFrom<i32> for State {
    type Error = FieldError;

    fn try_from(value: i32) -> Result<Self, FieldError> {
        match v1::CampaignState::try_from(value) {
            Ok(v1::CampaignState::Waiting) => Ok(Self::Waiting),
            Ok(v1::CampaignState::Sampling) => Ok(Self::Sampling),
            Ok(v1::CampaignState::Ready) => Ok(Self::Ready),
            Ok(v1::CampaignState::Converged) => Ok(Self::Converged),
            Ok(v1::CampaignState::Exhausted) => Ok(Self::Exhausted),
            Ok(v1::CampaignState::Cancelled) => Ok(Self::Cancelled),
            Ok(v1::CampaignState::Unspecified) | Err(_) => Err(FieldError::new(
                "state",
                format!("`{value}` is not a campaign's state"),
            )),
        }
    }
}

/// How far one layer kind is.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct KindProgress {
    kind: String,
    /// Layers measured for the campaign.
    samples: u64,
    /// Cross-validated error of the newest model, in percent.
    rmspe: Option<f64>,
    model_version: Option<u64>,
}

impl From<v1::campaign::KindProgress> for KindProgress {
    fn from(kind: v1::campaign::KindProgress) -> Self {
        Self {
            kind: kind.kind,
            samples: kind.samples,
            rmspe: kind.rmspe,
            model_version: kind.model_version,
        }
    }
}

/// A campaign's budget.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Budget {
    Jobs(u64),
    Seconds(f64),
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Campaign {
    id: String,
    platform: String,
    state: State,
    /// Those asked for; empty: all.
    kinds: Vec<String>,
    dtype: Dtype,
    target_error: Option<f64>,
    budget: Budget,
    excluded_layers: u32,
    jobs_done: u64,
    jobs_infeasible: u64,
    jobs_parked: u64,
    jobs_outstanding: u64,
    seconds_measured: f64,
    progress: Vec<KindProgress>,
    waiting_because: Option<String>,
    created_at_ms: u64,
    ended_at_ms: Option<u64>,
}

impl TryFrom<v1::Campaign> for Campaign {
    type Error = FieldError;

    fn try_from(campaign: v1::Campaign) -> Result<Self, FieldError> {
        let request = required("request", campaign.request)?;
        let budget = required(
            "request.budget",
            request.budget.and_then(|budget| budget.budget),
        )?;
        let budget = match budget {
            v1::campaign_request::budget::Budget::Jobs(jobs) => Budget::Jobs(jobs),
            v1::campaign_request::budget::Budget::Seconds(seconds) => Budget::Seconds(seconds),
        };
        Ok(Self {
            id: request.campaign_id,
            platform: campaign.platform_slug,
            state: campaign.state.try_into()?,
            kinds: request.kinds,
            dtype: dtype(request.dtype)?,
            target_error: request.target_error,
            budget,
            excluded_layers: campaign.excluded_layers_count,
            jobs_done: campaign.jobs_done,
            jobs_infeasible: campaign.jobs_infeasible,
            jobs_parked: campaign.jobs_parked,
            jobs_outstanding: campaign.jobs_outstanding,
            seconds_measured: campaign.seconds_measured,
            progress: campaign.kinds.into_iter().map(KindProgress::from).collect(),
            waiting_because: Some(campaign.waiting_because).filter(|because| !because.is_empty()),
            created_at_ms: campaign.created_at_ms,
            ended_at_ms: campaign.ended_at_ms,
        })
    }
}

impl Campaign {
    fn spent(&self) -> String {
        match self.budget {
            Budget::Seconds(seconds) => format!("{:.0} of {seconds:.0} s", self.seconds_measured),
            Budget::Jobs(jobs) => format!("{} of {jobs} jobs", self.jobs_done),
        }
    }

    /// The largest cross-validated error among the kinds that have a model, and how many of them have.
    fn worst(&self) -> String {
        let errors = || self.progress.iter().filter_map(|kind| kind.rmspe);
        let of = format!("{} of {} kinds", errors().count(), self.progress.len());
        match errors().max_by(f64::total_cmp) {
            Some(worst) => format!("at most {} % in {of}", figure(worst)),
            None => format!("unknown, {of} have a model"),
        }
    }
}

impl Report for Campaign {
    fn text(&self) -> String {
        let mut line = format!(
            "{} on {}: {}, {} jobs done, {} outstanding, measured {}, error {}",
            self.id,
            self.platform,
            self.state.name(),
            self.jobs_done,
            self.jobs_outstanding,
            self.spent(),
            self.worst(),
        );
        if let Some(because) = &self.waiting_because {
            line.push_str(&format!("; waits: {because}"));
        }
        line
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct Campaigns(Vec<Campaign>);

impl Report for Campaigns {
    fn text(&self) -> String {
        let columns = [
            Column::Left("campaign"),
            Column::Left("platform"),
            Column::Left("state"),
            Column::Right("done"),
            Column::Right("outstanding"),
            Column::Right("measured"),
            Column::Left("error"),
            Column::Left("created"),
            Column::Left("waits because"),
        ];
        let row = |campaign: &Campaign| {
            [
                campaign.id.clone(),
                campaign.platform.clone(),
                campaign.state.name().to_owned(),
                campaign.jobs_done.to_string(),
                campaign.jobs_outstanding.to_string(),
                campaign.spent(),
                campaign.worst(),
                time(campaign.created_at_ms),
                campaign.waiting_because.clone().unwrap_or_default(),
            ]
        };
        table(columns, self.0.iter().map(row))
    }
}

pub(super) async fn run(
    session: &Session,
    output: Output,
    args: CampaignsArgs,
) -> anyhow::Result<()> {
    if let Some(id) = args.watch {
        return watch(&session.designer().await?, output, id).await;
    }
    let mut farm = session.operator().await?.farm();
    if let Some(id) = args.cancel {
        let request = v1::CancelCampaignRequest {
            campaign_id: id.to_string(),
        };
        let response = farm
            .cancel_campaign(unary(request))
            .await
            .context("cancel the campaign")?;
        return output.show(&Campaign::try_from(required(
            "campaign",
            response.into_inner().campaign,
        )?)?);
    }
    if let Some(id) = args.pause.or(args.resume) {
        let request = v1::PauseCampaignRequest {
            campaign_id: id.to_string(),
            paused: args.pause.is_some(),
        };
        let response = farm.pause_campaign(unary(request)).await;
        let response = response.context("pause the campaign, or let it go on")?;
        let campaign = required("campaign", response.into_inner().campaign)?;
        return output.show(&Campaign::try_from(campaign)?);
    }
    if let Some(id) = args.extend {
        let request = v1::ExtendCampaignRequest {
            campaign_id: id.to_string(),
            budget: args.budget.map(Into::into),
        };
        let response = farm.extend_campaign(unary(request)).await;
        let campaign = response
            .context("give the campaign more")?
            .into_inner()
            .campaign;
        return output.show(&Campaign::try_from(required("campaign", campaign)?)?);
    }
    let response = farm
        .list_campaigns(unary(v1::ListCampaignsRequest {}))
        .await
        .context("list the campaigns")?;
    let campaigns = response
        .into_inner()
        .campaigns
        .into_iter()
        .map(Campaign::try_from);
    output.show(&Campaigns(campaigns.collect::<Result<_, _>>()?))
}

/// Shows the campaign whenever it changes, until it has ended. Goes on when the coordinator has been away.
pub(super) async fn watch(connection: &Connection, output: Output, id: Uuid) -> anyhow::Result<()> {
    let (mut newest, mut outage) = (None, Outage::default());
    loop {
        match follow(connection, output, id, &mut newest, &mut outage).await {
            Ok(()) => {
                let campaign = newest.as_ref();
                return ended(campaign.context("the coordinator said nothing of the campaign")?);
            }
            Err(error) => outage.bear(error).await?,
        }
    }
}

/// Shows what changes in `newest`, until the stream ends.
async fn follow(
    connection: &Connection,
    output: Output,
    id: Uuid,
    newest: &mut Option<Campaign>,
    outage: &mut Outage,
) -> anyhow::Result<()> {
    let request = v1::WatchCampaignRequest {
        campaign_id: id.to_string(),
    };
    let doing = || format!("watch the campaign {id}");
    let mut updates = connection
        .models()
        .watch_campaign(Request::new(request))
        .await
        .with_context(doing)?
        .into_inner();
    while let Some(update) = updates.message().await.with_context(doing)? {
        outage.is_over();
        let campaign = Campaign::try_from(required("campaign", update.campaign)?)?;
        if newest.as_ref() != Some(&campaign) {
            output.show_next(&campaign)?;
            *newest = Some(campaign);
        }
    }
    Ok(())
}

/// Whether a campaign that has ended brought what was asked for.
fn ended(campaign: &Campaign) -> anyhow::Result<()> {
    let unfinished = |message: String| Err(Failure::new(Exit::Unfinished, message).into());
    match (campaign.state, campaign.target_error) {
        (State::Converged, _) | (State::Exhausted, None) => Ok(()),
        (State::Exhausted, Some(target)) => unfinished(format!(
            "the budget is spent before every kind's error is at most {target} %"
        )),
        (State::Cancelled, _) => unfinished("the campaign was cancelled".to_owned()),
        (State::Waiting | State::Sampling | State::Ready, _) => Err(Failure::new(
            Exit::Unreachable,
            "the coordinator stopped before the campaign had ended",
        )
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn campaign(state: v1::CampaignState, target_error: Option<f64>) -> Campaign {
        let budget = v1::campaign_request::budget::Budget::Jobs(100);
        let message = v1::Campaign {
            request: Some(v1::CampaignRequest {
                campaign_id: "01a20a9e-5aa5-745f-95b6-25656b18c722".to_owned(),
                target_error,
                budget: Some(v1::campaign_request::Budget {
                    budget: Some(budget),
                }),
                ..v1::CampaignRequest::default()
            }),
            platform_slug: "test-cpu".to_owned(),
            state: state.into(),
            jobs_done: 40,
            jobs_outstanding: 8,
            kinds: vec![v1::campaign::KindProgress {
                kind: "relu".to_owned(),
                ..Default::default()
            }],
            waiting_because: "no agent is connected".to_owned(),
            ..v1::Campaign::default()
        };
        message.try_into().expect("complete")
    }

    #[test]
    fn a_line_says_where_it_is() {
        insta::assert_snapshot!(campaign(v1::CampaignState::Sampling, None).text(), @"01a20a9e-5aa5-745f-95b6-25656b18c722 on test-cpu: sampling, 40 jobs done, 8 outstanding, measured 40 of 100 jobs, error unknown, 0 of 1 kinds have a model; waits: no agent is connected");
    }

    #[test]
    fn only_the_target_counts_if_there_is_one() {
        let exit = |state, target| {
            ended(&campaign(state, target))
                .map_err(|error| Exit::of(&error))
                .err()
        };
        assert_eq!(exit(v1::CampaignState::Converged, Some(5.0)), None);
        assert_eq!(exit(v1::CampaignState::Exhausted, None), None);
        assert_eq!(
            exit(v1::CampaignState::Exhausted, Some(5.0)),
            Some(Exit::Unfinished)
        );
        assert_eq!(
            exit(v1::CampaignState::Cancelled, None),
            Some(Exit::Unfinished)
        );
        assert_eq!(
            exit(v1::CampaignState::Ready, None),
            Some(Exit::Unreachable)
        );
    }
}
