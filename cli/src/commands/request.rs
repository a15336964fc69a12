//! `wattfarm request`: start a campaign.

use std::collections::BTreeSet;

use anyhow::Context as _;
use uuid::Uuid;
use wattfarm_cost::Kind;
use wattfarm_proto::connect::unary;
use wattfarm_proto::convert::{dtype_to_wire, required};
use wattfarm_proto::v1;

use super::campaigns::{self, Campaign};
use crate::args::RequestArgs;
use crate::output::Output;
use crate::session::Session;

pub(super) async fn run(
    session: &Session,
    output: Output,
    args: RequestArgs,
) -> anyhow::Result<()> {
    let id = args.id.unwrap_or_else(Uuid::now_v7);
    let watch = args.watch;
    let campaign = campaign(id, args)?;
    let connection = session.designer().await?;
    let request = v1::RequestModelsRequest {
        campaign: Some(campaign),
    };
    let response = connection
        .models()
        .request_models(unary(request))
        .await
        .context("request models")?;
    output.show_next(&Campaign::try_from(required(
        "campaign",
        response.into_inner().campaign,
    )?)?)?;
    if watch {
        campaigns::watch(&connection, output, id).await
    } else {
        Ok(())
    }
}

fn campaign(id: Uuid, args: RequestArgs) -> anyhow::Result<v1::CampaignRequest> {
    let mut excluded = BTreeSet::new();
    for name in &args.exclude {
        excluded.extend(
            name.load(args.dtype)?
                .layers()
                .map(|(_, layer)| layer.hash().to_string()),
        );
    }
    Ok(v1::CampaignRequest {
        campaign_id: id.to_string(),
        platform: args.platform,
        kinds: args
            .kinds
            .into_iter()
            .map(Kind::name)
            .map(str::to_owned)
            .collect(),
        dtype: dtype_to_wire(args.dtype),
        target_error: args.target_error,
        budget: Some(args.budget.into()),
        excluded_layers: excluded.into_iter().collect(),
        weight: args.weight,
        urgent: args.urgent,
    })
}
