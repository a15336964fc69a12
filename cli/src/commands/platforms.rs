//! `wattfarm platforms`: what can be asked about.

use anyhow::Context as _;
use serde::Serialize;
use wattfarm_cost::Platform;
use wattfarm_cost::platform::Device;
use wattfarm_proto::connect::unary;
use wattfarm_proto::convert::required;
use wattfarm_proto::v1;

use crate::output::{Output, Report};
use crate::render::table::{Column, table};
use crate::session::Session;

#[derive(Serialize)]
struct Status {
    slug: String,
    hash: String,
    platform: Platform,
    agents: u32,
    agents_connected: u32,
    measurements: u64,
    models: u32,
}

impl TryFrom<v1::list_platforms_response::PlatformStatus> for Status {
    type Error = wattfarm_proto::error::FieldError;

    fn try_from(status: v1::list_platforms_response::PlatformStatus) -> Result<Self, Self::Error> {
        Ok(Self {
            slug: status.slug,
            hash: status.hash,
            platform: required("platform", status.platform)?.try_into()?,
            agents: status.agents,
            agents_connected: status.agents_connected,
            measurements: status.measurements,
            models: status.models,
        })
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct Platforms(Vec<Status>);

impl Report for Platforms {
    fn text(&self) -> String {
        let columns = [
            Column::Left("platform"),
            Column::Left("device"),
            Column::Right("agents"),
            Column::Right("connected"),
            Column::Right("measurements"),
            Column::Right("models"),
        ];
        let row = |status: &Status| {
            let (Device::Cpu { model, .. } | Device::Cuda { model, .. }) = &status.platform.device;
            [
                status.slug.clone(),
                model.clone(),
                status.agents.to_string(),
                status.agents_connected.to_string(),
                status.measurements.to_string(),
                status.models.to_string(),
            ]
        };
        table(columns, self.0.iter().map(row))
    }
}

pub(super) async fn run(session: &Session, output: Output) -> anyhow::Result<()> {
    let mut models = session.designer().await?.models();
    let response = models
        .list_platforms(unary(v1::ListPlatformsRequest {}))
        .await
        .context("list the platforms")?;
    let platforms = response
        .into_inner()
        .platforms
        .into_iter()
        .map(Status::try_from);
    output.show(&Platforms(platforms.collect::<Result<_, _>>()?))
}
